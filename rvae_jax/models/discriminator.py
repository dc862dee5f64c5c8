"""The PatchGAN discriminator: image to one logit per patch (Isola et al., 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig
from rvae_jax.models.layers import Conv, Norm, NormMode

LEAKY_RELU_SLOPE = 0.3


class PatchLayer(nn.Module):
    """3x3 convolution, norm and, if ``activate``, LeakyReLU; every layer of the discriminator but the last has it.

    Attributes:
      filters: channels of the result.
      stride: of the convolution.
      activate: whether LeakyReLU follows.
      norm: see ``layers.Norm``.
      axis_name: see ``layers.Norm``.
      dtype: type of the result.
    """

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
      config: the shapes and kinds of its layers.
      axis_name: see ``layers.Norm``.
    """

    config: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        filters_and_strides = zip(config.discriminator_filters, config.discriminator_strides, strict=True)
        last = len(config.discriminator_filters) - 1
        for i, (filters, stride) in enumerate(filters_and_strides):
            layer = PatchLayer(filters, stride, i < last, config.norm, self.axis_name, dtype, name=f"layer_{i}")
            x = layer(x, train)
        return x.astype(jnp.float32)
