"""The residual encoder: image to features."""

import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig
from rvae_jax.models.blocks import Down, Stage
from rvae_jax.models.layers import Conv, PointwiseConv

INPUT_NORM_EPSILON = 1e-3


class InputNorm(nn.Module):
    """Normalises each channel of each image over (H, W), then scales and shifts by ``[h, w]`` parameters.

    It removes brightness and contrast of an image from all that follows.
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
    """``[b, H, W, C] -> [b, H / 2^R, W / 2^R, config.head_channels]`` features, by R stages.

    Attributes:
      config: see ``VAE``.
      axis_name: see ``layers.Norm``.
      remat_stages: number of stages, from the first one on, whose activations are computed again for the gradient.
    """

    config: ModelConfig
    axis_name: str | None = None
    remat_stages: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        if config.input_norm:
            x = InputNorm(name="norm")(x)
        x = Conv(config.encoder_filters[0], dtype=dtype, name="stem")(x)
        for stage, (filters_in, filters_out) in enumerate(itertools.pairwise(config.encoder_filters)):
            x = Stage(
                Down,
                filters_in,
                filters_out,
                config.encoder_identity_blocks,
                config.norm,
                self.axis_name,
                dtype,
                remat=stage < self.remat_stages,
                name=f"stage_{stage}",
            )(x, train)
        return PointwiseConv(config.head_channels, dtype=dtype, name="head")(x)
