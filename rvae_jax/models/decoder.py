"""The residual decoder: code to image."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.models.blocks import Stage, Up
from rvae_jax.models.layers import Conv, Dense, NormMode, PointwiseConv


class Decoder(nn.Module):
    """``[b, latent_dim] -> [b, H, W, C]`` images, unbounded (the author clips to [-1, 1] only to show), by R stages.

    Attributes:
      image_shape: (H, W, C).
      filters: g_0 .. g_R with g_R = C; the stem has g_0 channels, and stage s turns g_s into g_{s+1}.
      latent_dim: the dense layer makes ``latent_dim // 8`` channels of size (H / 2^R, W / 2^R).
      identity_blocks: identity blocks a stage.
      norm: see ``layers.Norm``.
      axis_name: see ``layers.Norm``.
      dtype: type that convolutions compute in; the images are float32.
      remat_stages: how many stages, the last ones, have their activations computed again for the gradient.
    """

    image_shape: tuple[int, int, int]
    filters: tuple[int, ...]
    latent_dim: int
    identity_blocks: int = 1
    norm: NormMode = "frozen"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat_stages: int = 0

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        stages = len(self.filters) - 1
        reduction = 2**stages
        height, width, channels = self.image_shape
        shape = (height // reduction, width // reduction, self.latent_dim // 8)
        x = Dense(math.prod(shape), dtype=self.dtype, name="dense")(z)
        x = x.reshape(-1, *shape)
        x = Conv(self.filters[0], dtype=self.dtype, name="stem")(x)
        for stage, (filters_in, filters_out) in enumerate(itertools.pairwise(self.filters)):
            x = Stage(
                Up,
                filters_in,
                filters_out,
                self.identity_blocks,
                self.norm,
                self.axis_name,
                self.dtype,
                remat=stage >= stages - self.remat_stages,
                name=f"stage_{stage}",
            )(x, train)
        return PointwiseConv(channels, dtype=self.dtype, name="head")(x).astype(jnp.float32)
