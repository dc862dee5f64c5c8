"""The residual decoder: code to image."""

import itertools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig
from rvae_jax.models.blocks import Stage, Up
from rvae_jax.models.layers import Conv, Dense, PointwiseConv, glorot_uniform


class Decoder(nn.Module):
    """``[b, latent_dim] -> [b, H, W, C]`` images, by R stages.

    A dense layer makes ``config.head_channels`` channels of size (H / 2^R, W / 2^R). The images are float32 and
    unbounded; the author clips them to [-1, 1] only for display. With a linear path they are zero at the start.

    Attributes:
      config: see ``VAE``.
      axis_name: see ``layers.Norm``.
      remat_stages: number of stages, from the last one on, whose activations are computed again for the gradient.
    """

    config: ModelConfig
    axis_name: str | None = None
    remat_stages: int = 0

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        stages = len(config.decoder_filters) - 1
        height, width, channels = config.image_shape
        shape = (height // 2**stages, width // 2**stages, config.head_channels)
        x = Dense(math.prod(shape), dtype=dtype, name="dense")(z)
        x = x.reshape(-1, *shape)
        x = Conv(config.decoder_filters[0], dtype=dtype, name="stem")(x)
        for stage, (filters_in, filters_out) in enumerate(itertools.pairwise(config.decoder_filters)):
            x = Stage(
                Up,
                filters_in,
                filters_out,
                config.decoder_identity_blocks,
                config.norm,
                self.axis_name,
                dtype,
                remat=stage >= stages - self.remat_stages,
                name=f"stage_{stage}",
            )(x, train)
        kernel_init = glorot_uniform if config.linear_path == "none" else nn.initializers.zeros
        head = PointwiseConv(channels, dtype=dtype, kernel_init=kernel_init, name="head")
        return head(x).astype(jnp.float32)
