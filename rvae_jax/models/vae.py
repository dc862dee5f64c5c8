"""The variational autoencoder: encoder, Gaussian sampler, decoder."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig
from rvae_jax.models.decoder import Decoder
from rvae_jax.models.encoder import Encoder
from rvae_jax.models.layers import Dense


class Reconstruction(NamedTuple):
    """The result of one pass through the VAE.

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
    """The author's residual VAE, for any image shape and any filter lists.

    Attributes:
      config: the shapes and kinds of its layers.
      axis_name: see ``layers.Norm``.
      remat_stages: number of stages, in the encoder and in the decoder, whose activations are computed again for the
        gradient (``blocks.Stage``), those with the largest activations first. It changes memory and time only.
    """

    config: ModelConfig
    axis_name: str | None = None
    remat_stages: int = 0

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.axis_name, self.remat_stages)
        self.sampler = Sampler(self.config.latent_dim)
        self.decoder = Decoder(self.config, self.axis_name, self.remat_stages)

    def __call__(self, x: jax.Array, noise: jax.Array, train: bool = False) -> Reconstruction:
        """Encodes, samples ``z = mean + exp(log_var / 2) noise`` and decodes.

        Args:
          x: images in [-1, 1], ``[b, H, W, C]``.
          noise: standard normal, ``[b, latent_dim]``; with zeros, the mean is decoded.
          train: whether norms in ``batch`` mode use and update batch statistics.
        """
        mean, log_var = self.encode(x, train)
        return Reconstruction(self.decode(mean + jnp.exp(0.5 * log_var) * noise, train), mean, log_var)

    def reconstruct_and_sample(
        self, x: jax.Array, noise: jax.Array, prior: jax.Array, train: bool = False
    ) -> tuple[Reconstruction, jax.Array]:
        """As ``__call__``, and decodes ``prior``, codes ``[m, latent_dim]``, in the same pass, to ``[m, H, W, C]``."""
        mean, log_var = self.encode(x, train)
        z = mean + jnp.exp(0.5 * log_var) * noise
        x_hat, samples = _separate(self.decode(_interleave(z, prior), train), z.shape[0], prior.shape[0])
        return Reconstruction(x_hat, mean, log_var), samples

    def encode(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images ``[b, H, W, C]`` to the posterior's mean and log variance, ``[b, latent_dim]`` each."""
        return self.sampler(self.encoder(x, train))

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Codes ``[b, latent_dim]`` to images ``[b, H, W, C]``, unbounded."""
        return self.decoder(z, train)


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """``[m, ...], [n, ...] -> [m + n, ...]``, gcd(m, n) groups of equally many rows of each.

    Where both are split over devices, so is the result, without moving rows to other devices.
    """
    groups = math.gcd(a.shape[0], b.shape[0])
    both = jnp.concatenate([rows.reshape(groups, -1, *rows.shape[1:]) for rows in (a, b)], axis=1)
    return both.reshape(-1, *a.shape[1:])


def _separate(both: jax.Array, m: int, n: int) -> tuple[jax.Array, jax.Array]:
    """Undoes ``_interleave`` of ``[m, ...]`` and ``[n, ...]``."""
    groups = math.gcd(m, n)
    grouped = both.reshape(groups, -1, *both.shape[1:])
    a, b = jnp.split(grouped, [m // groups], axis=1)
    return a.reshape(m, *both.shape[1:]), b.reshape(n, *both.shape[1:])
