"""The layers of the networks: norm, convolution, stride-2 transposed convolution.

Parameters and statistics are float32; ``dtype`` is the type that a layer computes in and returns.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.models import convolutions

NormMode = Literal["frozen", "batch"]

NORM_EPSILON = 1e-3
NORM_MOMENTUM = 0.99

glorot_uniform = nn.initializers.glorot_uniform()
Dense = functools.partial(nn.Dense, kernel_init=glorot_uniform)


@jax.custom_jvp
def relu_of_conv(x: jax.Array) -> jax.Array:
    """ReLU of a convolution's result, with a derivative that depends on the ReLU's result only.

    The convolution's result then need not be kept: GPUs apply the ReLU in the convolution's program, and write once.
    """
    return jnp.maximum(x, 0)


@relu_of_conv.defjvp
def _relu_of_conv_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y = relu_of_conv(*primals)
    # Without the barrier, the compiler replaces y > 0 by x > 0, and keeps x.
    is_positive = jax.lax.optimization_barrier(y) > 0
    return y, jnp.where(is_positive, *tangents, 0)


class Affine(NamedTuple):
    """``scale x + shift`` of every channel; float32, ``[c]``."""

    scale: jax.Array
    shift: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[b, h, w, c] -> [b, h, w, c]``."""
        return x * _per_channel(self.scale) + _per_channel(self.shift)


class Norm(nn.Module):
    """Batch normalisation over (N, H, W), in one of two forms.

    ``gamma (x - mean) / sqrt(variance + 1e-3) + beta``, where mean and variance are

    * ``frozen``: always the stored ``moving_mean`` and ``moving_variance``, which never change. This is what the
      author's program does, whose layers run in inference form even in training;
    * ``batch``: in training those of the batch (1/N, two passes), and the stored ones are updated with momentum 0.99;
      in inference the stored ones.

    Attributes:
      channels: c.
      mode: ``frozen`` or ``batch``.
      axis_name: mapped axis over which ``batch`` computes its statistics, under ``pmap`` and similar.
      dtype: type of the result.
    """

    channels: int
    mode: NormMode
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        shape = (self.channels,)
        self.gamma = self.param("gamma", nn.initializers.ones, shape)
        self.beta = self.param("beta", nn.initializers.zeros, shape)
        self.moving_mean = self.variable("batch_stats", "moving_mean", jnp.zeros, shape)
        self.moving_variance = self.variable("batch_stats", "moving_variance", jnp.ones, shape)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises ``[b, h, w, c]``."""
        x = x.astype(jnp.float32)
        if self.mode == "frozen" or not train:
            mean, variance = self.moving_mean.value, self.moving_variance.value
        else:
            mean, variance = self._batch_statistics(x)
            if not self.is_initializing():
                for stored, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                    stored.value = NORM_MOMENTUM * stored.value + (1 - NORM_MOMENTUM) * new
        return self._affine(mean, variance)(x).astype(self.dtype)

    def after(self, layer: "Conv | PointwiseConv", x: jax.Array, train: bool) -> jax.Array:
        """``self(layer(x), train)``; with stored statistics, the norm is folded into the layer.

        The layer then has the kernel ``scale kernel`` and the bias ``scale bias + shift``. This is exactly the same
        function, but needs neither the result before the norm nor gradients of sums over it.
        """
        if self.mode == "frozen" or not train:
            return layer(x, self._affine(self.moving_mean.value, self.moving_variance.value))
        return self(layer(x), train)

    def _affine(self, mean: jax.Array, variance: jax.Array) -> Affine:
        scale = self.gamma * jax.lax.rsqrt(variance + NORM_EPSILON)
        return Affine(scale, self.beta - mean * scale)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def mean_over_batch(values: jax.Array) -> jax.Array:
            mean = jnp.mean(values, axis=(0, 1, 2))
            return mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)

        mean = mean_over_batch(x)
        return mean, mean_over_batch(jnp.square(x - _per_channel(mean)))


class Conv(nn.Module):
    """3x3 convolution with bias.

    Attributes:
      filters: channels of the result.
      stride: along both axes.
      offset: of the window, along both axes; see ``convolutions.conv``. None is the offset of Keras's "same".
      dtype: type of the result.
      kernel_init: first values of the kernel.
    """

    filters: int
    stride: int = 1
    offset: int | None = None
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = glorot_uniform

    @nn.compact
    def __call__(self, x: jax.Array, then: Affine | None = None) -> jax.Array:
        """``[b, h, w, c] -> [b, h / stride, w / stride, filters]``, with an affine map applied to the result."""
        kernel, bias = _kernel_and_bias(self, (3, 3, x.shape[-1], self.filters), then)
        offset = 2 - self.stride if self.offset is None else self.offset
        return convolutions.conv(x.astype(self.dtype), kernel, self.stride, offset) + _per_channel(bias)


class PointwiseConv(nn.Module):
    """1x1 convolution with bias, as a matrix product, whose kernel gradient is several times faster on CPUs.

    Attributes:
      filters: channels of the result.
      stride: every stride-th pixel is kept, starting with the first.
      dtype: type of the result.
      kernel_init: first values of the kernel.
    """

    filters: int
    stride: int = 1
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = glorot_uniform

    @nn.compact
    def __call__(self, x: jax.Array, then: Affine | None = None) -> jax.Array:
        """``[b, h, w, c] -> [b, h / stride, w / stride, filters]``, rounded up, with an affine map applied to it."""
        if self.stride > 1:  # x[:, ::stride, ::stride, :] would be a gather where the batch's size is symbolic
            x = jax.lax.slice(x, (0,) * 4, x.shape, (1, self.stride, self.stride, 1))
        kernel, bias = _kernel_and_bias(self, (1, 1, x.shape[-1], self.filters), then)
        return convolutions.pointwise(x.astype(self.dtype), kernel[0, 0]) + _per_channel(bias)


def _kernel_and_bias(
    layer: Conv | PointwiseConv, shape: tuple[int, ...], then: Affine | None
) -> tuple[jax.Array, jax.Array]:
    """Parameters ``[h, w, in, out]`` and ``[out]``, with ``then`` folded in, in the type that the layer computes in."""
    kernel = layer.param("kernel", layer.kernel_init, shape)
    bias = layer.param("bias", nn.initializers.zeros, shape[-1:])
    if then is not None:
        kernel, bias = kernel * _per_channel(then.scale), bias * then.scale + then.shift
    return kernel.astype(layer.dtype), bias.astype(layer.dtype)


class ConvTranspose(nn.Module):
    """3x3 transposed convolution of stride 2, ``[b, h, w, c] -> [b, 2h, 2w, filters]``, with bias.

    Attributes:
      filters: channels of the result.
      dtype: type of the result.
    """

    filters: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel", nn.initializers.glorot_uniform(in_axis=-1, out_axis=-2), (3, 3, self.filters, x.shape[-1])
        )
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))
        y = convolutions.conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + _per_channel(bias.astype(self.dtype))


def _per_channel(values: jax.Array) -> jax.Array:
    return values[None, None, None, :]
