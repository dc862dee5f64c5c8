"""The second family of encoders and decoders, for the greatest part of the work at reduced resolution.

The author's networks spend two thirds of their work at the full resolution. These begin by turning each patch of
p x p pixels into the channels of one position, and have L levels of pre-activation residual blocks from there on, each
at half the resolution of the one before. Sizes change by moving pixels to channels and back, with a 1x1 convolution; no
convolution is transposed or strided. Every block ends in a convolution that starts at zero, and so does the decoder.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig
from rvae_jax.models.layers import Conv, Dense, PointwiseConv


def pixels_to_channels(x: jax.Array, size: int) -> jax.Array:
    """``[b, h, w, c] -> [b, h / size, w / size, size size c]``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, size * size * channels)


def channels_to_pixels(x: jax.Array, size: int) -> jax.Array:
    """Undoes ``pixels_to_channels``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, size, size, channels // size**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * size, width * size, channels // size**2)


class Residual(nn.Module):
    """``x + conv_2 relu conv_1 relu (x)``, both 3x3, conv_2 from zero; ``[b, h, w, c] -> [b, h, w, c]``.

    Attributes:
      dtype: type of the result.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        filters = x.shape[-1]
        h = Conv(filters, dtype=self.dtype, name="conv_1")(nn.relu(x))
        return x + Conv(filters, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv_2")(nn.relu(h))


class Level(nn.Module):
    """The residual blocks at one resolution.

    Attributes:
      blocks: their number.
      dtype: type of the result.
    """

    blocks: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.blocks):
            x = Residual(self.dtype, name=f"block_{i}")(x)
        return x


def _level(blocks: int, dtype: Any, remat: bool, name: str) -> Level:
    return (nn.remat(Level) if remat else Level)(blocks, dtype, name=name)


class PatchEncoder(nn.Module):
    """``[b, H, W, C] -> [b, H / (p 2^(L-1)), W / (p 2^(L-1)), c_L]`` features.

    Attributes:
      config: see ``VAE``.
      remat_stages: number of levels, from the first one on, whose activations are computed again for the gradient.
    """

    config: ModelConfig
    remat_stages: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x = Conv(config.widths[0], dtype=dtype, name="stem")(pixels_to_channels(x, config.patch_size))
        for level, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            if level:
                x = PointwiseConv(width, dtype=dtype, name=f"down_{level}")(pixels_to_channels(x, 2))
            x = _level(blocks, dtype, level < self.remat_stages, f"level_{level}")(x)
        return nn.relu(x)


class PatchDecoder(nn.Module):
    """``[b, latent_dim] -> [b, H, W, C]`` images, float32 and unbounded; zero at the start.

    It is the encoder's mirror image, with one more level at the end, of half the patches' size, that also sees the
    linear path's image.

    Attributes:
      config: see ``VAE``.
      remat_stages: number of levels, from the last one on, whose activations are computed again for the gradient.
    """

    config: ModelConfig
    remat_stages: int = 0

    @nn.compact
    def __call__(self, z: jax.Array, linear: jax.Array | None = None) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        height, width, channels = config.image_shape
        last = len(config.widths) - 1
        size = config.patch_size * 2**last
        shape = (height // size, width // size, config.widths[-1])
        x = Dense(math.prod(shape), dtype=dtype, name="dense")(z).reshape(-1, *shape)
        for level in range(last, -1, -1):
            x = _level(config.blocks[level], dtype, level < self.remat_stages, f"level_{level}")(x)
            if level:
                x = PointwiseConv(4 * config.widths[level - 1], dtype=dtype, name=f"up_{level}")(nn.relu(x))
                x = channels_to_pixels(x, 2)
        patch = config.patch_size
        if config.last_width:
            patch //= 2
            x = channels_to_pixels(PointwiseConv(4 * config.last_width, dtype=dtype, name="up_0")(nn.relu(x)), 2)
            if linear is not None:
                seen = pixels_to_channels(linear.astype(dtype), patch)
                x = x + PointwiseConv(config.last_width, dtype=dtype, name="linear")(seen)
            x = _level(1, dtype, self.remat_stages > 0, "level_last")(x)
        x = Conv(patch**2 * channels, dtype=dtype, kernel_init=nn.initializers.zeros, name="head")(nn.relu(x))
        return channels_to_pixels(x, patch).astype(jnp.float32)
