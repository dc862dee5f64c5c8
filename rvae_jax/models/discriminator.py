"""The PatchGAN discriminator: image to one logit a patch (Isola et al., 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.models.layers import Conv, Norm, NormMode

LEAKY_RELU_SLOPE = 0.3


class PatchLayer(nn.Module):
    """3x3 convolution, norm and, unless it is the last layer, LeakyReLU. Attributes as in ``Discriminator``."""

    filters: int
    stride: int
    activate: bool
    norm: NormMode
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = Conv(self.filters, self.stride, dtype=self.dtype, name="conv")
        x = Norm(self.filters, self.norm, self.axis_name, self.dtype, name="bn").after(conv, x, train)
        return nn.leaky_relu(x, LEAKY_RELU_SLOPE) if self.activate else x


class Discriminator(nn.Module):
    """``[b, H, W, C] -> [b, h, w, 1]`` float32 logits, (h, w) being (H, W) over the product of the strides, rounded up.

    Attributes:
      filters: channels of each layer; the last is 1.
      strides: stride of each layer.
      norm: see ``layers.Norm``.
      axis_name: see ``layers.Norm``.
      dtype: type that convolutions compute in.
    """

    filters: tuple[int, ...] = (128, 128, 128, 64, 64, 1)
    strides: tuple[int, ...] = (2, 2, 2, 1, 1, 1)
    norm: NormMode = "frozen"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        last = len(self.filters) - 1
        for i, (filters, stride) in enumerate(zip(self.filters, self.strides, strict=True)):
            x = PatchLayer(filters, stride, i < last, self.norm, self.axis_name, self.dtype, name=f"layer_{i}")(
                x, train
            )
        return x.astype(jnp.float32)
