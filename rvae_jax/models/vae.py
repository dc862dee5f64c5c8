"""The variational autoencoder: encoder, Gaussian sampler, decoder."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.models.decoder import Decoder
from rvae_jax.models.encoder import Encoder
from rvae_jax.models.layers import Dense, NormMode


class Reconstruction(NamedTuple):
    """What one pass through the VAE gives.

    Attributes:
      x_hat: reconstructions, ``[b, H, W, C]``.
      mean: means of the posterior, ``[b, latent_dim]``.
      log_var: natural logarithm of its variances, ``[b, latent_dim]``.
    """

    x_hat: jax.Array
    mean: jax.Array
    log_var: jax.Array


class Sampler(nn.Module):
    """Features to a Gaussian, ``[b, h, w, c] -> mean, log_var``, each ``[b, latent_dim]`` and float32."""

    latent_dim: int

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = features.reshape(features.shape[0], -1).astype(jnp.float32)
        return Dense(self.latent_dim, name="z_mean")(flat), Dense(self.latent_dim, name="z_log_var")(flat)


class VAE(nn.Module):
    """The author's residual VAE for any image shape and any filter lists; the defaults are the paper's 256x256 network.

    Attributes:
      image_shape: (H, W, C); 2^R divides H and W, with R stages.
      latent_dim: dimensions of the code, at least 8.
      encoder_filters: see ``Encoder``.
      decoder_filters: see ``Decoder``; as long as ``encoder_filters``.
      encoder_identity_blocks: identity blocks in each stage of the encoder.
      decoder_identity_blocks: identity blocks in each stage of the decoder.
      input_norm: see ``Encoder``.
      norm: see ``layers.Norm``.
      axis_name: see ``layers.Norm``.
      dtype: type that convolutions compute in. Parameters, statistics, codes and images are float32 in any case.
      remat_stages: stages of the largest activations in each of encoder and decoder that are computed again for the
        gradient (``blocks.Stage``); it changes that one's memory and time, and nothing else.
    """

    image_shape: tuple[int, int, int] = (256, 256, 3)
    latent_dim: int = 512
    encoder_filters: tuple[int, ...] = (128,) * 7
    decoder_filters: tuple[int, ...] = (128,) * 6 + (3,)
    encoder_identity_blocks: int = 2
    decoder_identity_blocks: int = 1
    input_norm: bool = True
    norm: NormMode = "frozen"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat_stages: int = 0

    def setup(self) -> None:
        self.encoder = Encoder(
            filters=self.encoder_filters,
            latent_dim=self.latent_dim,
            identity_blocks=self.encoder_identity_blocks,
            input_norm=self.input_norm,
            norm=self.norm,
            axis_name=self.axis_name,
            dtype=self.dtype,
            remat_stages=self.remat_stages,
        )
        self.sampler = Sampler(self.latent_dim)
        self.decoder = Decoder(
            image_shape=self.image_shape,
            filters=self.decoder_filters,
            latent_dim=self.latent_dim,
            identity_blocks=self.decoder_identity_blocks,
            norm=self.norm,
            axis_name=self.axis_name,
            dtype=self.dtype,
            remat_stages=self.remat_stages,
        )

    def __call__(self, x: jax.Array, noise: jax.Array, train: bool = False) -> Reconstruction:
        """Encodes, samples ``z = mean + exp(log_var / 2) noise`` and decodes.

        Args:
          x: images in [-1, 1], ``[b, H, W, C]``.
          noise: standard normal, ``[b, latent_dim]``; zeros decode the mean.
          train: whether norms in ``batch`` mode use and update batch statistics.
        """
        mean, log_var = self.encode(x, train)
        return Reconstruction(self.decode(mean + jnp.exp(0.5 * log_var) * noise, train), mean, log_var)

    def encode(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images ``[b, H, W, C]`` to the posterior's mean and log variance, ``[b, latent_dim]`` each."""
        return self.sampler(self.encoder(x, train))

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Codes ``[b, latent_dim]`` to images ``[b, H, W, C]``, unbounded."""
        return self.decoder(z, train)
