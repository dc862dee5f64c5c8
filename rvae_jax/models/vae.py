"""The variational autoencoder: encoder, Gaussian sampler, decoder."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig
from rvae_jax.models.decoder import Decoder
from rvae_jax.models.encoder import Encoder
from rvae_jax.models.layers import Dense, glorot_uniform
from rvae_jax.models.linear import LinearPath
from rvae_jax.models.patches import PatchDecoder, PatchEncoder


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
    """Features to a Gaussian, ``[b, h, w, c] -> mean, log_var``, each ``[b, latent_dim]`` and float32.

    Attributes:
      latent_dim: dimensions of the code.
      kernel_init: first values of the kernels.
    """

    latent_dim: int
    kernel_init: nn.initializers.Initializer = glorot_uniform

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = features.reshape(features.shape[0], -1).astype(jnp.float32)
        mean, log_var = (
            Dense(self.latent_dim, kernel_init=self.kernel_init, name=name)(flat) for name in ("z_mean", "z_log_var")
        )
        return mean, log_var


class VAE(nn.Module):
    """A residual VAE, for any image shape and any widths.

    With a linear path (``linear.LinearPath``), what the networks compute is added to what it computes; at the start
    they add nothing.

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
        config = self.config
        if config.network == "paper":
            self.encoder = Encoder(config, self.axis_name, self.remat_stages)
            self.decoder = Decoder(config, self.axis_name, self.remat_stages)
        else:
            self.encoder = PatchEncoder(config, self.remat_stages)
            self.decoder = PatchDecoder(config, self.remat_stages)
        has_path = config.linear_path != "none"
        self.sampler = Sampler(config.latent_dim, nn.initializers.zeros if has_path else glorot_uniform)
        self.linear = LinearPath(config) if has_path else None

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
        features = self.encoder(x, train) if self.config.network == "paper" else self.encoder(x)
        mean, log_var = self.sampler(features)
        return (mean if self.linear is None else mean + self.linear.encode(x)), log_var

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Codes ``[b, latent_dim]`` to images ``[b, H, W, C]``, unbounded."""
        linear = None if self.linear is None else self.linear.decode(z)
        images = self.decoder(z, train) if self.config.network == "paper" else self.decoder(z, linear)
        return images if linear is None else images + linear


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
