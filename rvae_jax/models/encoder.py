"""The residual encoder: image to features."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.models.blocks import Down, Stage
from rvae_jax.models.layers import Conv, NormMode, PointwiseConv

INPUT_NORM_EPSILON = 1e-3


class InputNorm(nn.Module):
    """Normalises each channel of each image over (H, W), then scales and shifts by ``[h, w]`` parameters.

    It hides brightness and contrast of an image from everything that follows.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[b, h, w, c] -> [b, h, w, c]``, float32."""
        size = x.shape[1:3]
        gamma = self.param("gamma", nn.initializers.ones, size)
        beta = self.param("beta", nn.initializers.zeros, size)
        x = x.astype(jnp.float32)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        variance = jnp.mean(jnp.square(x - mean), axis=(1, 2), keepdims=True)
        normalised = (x - mean) * jax.lax.rsqrt(variance + INPUT_NORM_EPSILON)
        return normalised * gamma[None, :, :, None] + beta[None, :, :, None]


class Encoder(nn.Module):
    """``[b, H, W, C] -> [b, H / 2^R, W / 2^R, latent_dim // 8]`` features, by R stages.

    Attributes:
      filters: f_0 .. f_R; the stem has f_0 channels, and stage s turns f_s into f_{s+1}.
      latent_dim: the head has ``latent_dim // 8`` channels.
      identity_blocks: identity blocks a stage.
      input_norm: whether images pass through ``InputNorm`` first, as the author's do.
      norm: see ``layers.Norm``.
      axis_name: see ``layers.Norm``.
      dtype: type that convolutions compute in.
      remat_stages: how many stages, the first ones, have their activations computed again for the gradient.
    """

    filters: tuple[int, ...]
    latent_dim: int
    identity_blocks: int = 2
    input_norm: bool = True
    norm: NormMode = "frozen"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat_stages: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.input_norm:
            x = InputNorm(name="norm")(x)
        x = Conv(self.filters[0], dtype=self.dtype, name="stem")(x)
        for stage, (filters_in, filters_out) in enumerate(itertools.pairwise(self.filters)):
            x = Stage(
                Down,
                filters_in,
                filters_out,
                self.identity_blocks,
                self.norm,
                self.axis_name,
                self.dtype,
                remat=stage < self.remat_stages,
                name=f"stage_{stage}",
            )(x, train)
        return PointwiseConv(self.latent_dim // 8, dtype=self.dtype, name="head")(x)
