"""A normalizing flow on codes: what turns noise into codes of a population that is not Gaussian."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

_MOST_LOG_SCALE = 2.0  # of one block


class Flow(nn.Module):
    """Affine couplings (RealNVP; Dinh et al., 2017), from noise e to codes x and back; the identity at the start.

    Each of the blocks keeps the half of the dimensions where its mask b is 1, and moves the others by functions of it::

        x = b e + (1 - b) (e exp(s(b e)) + t(b e))          e = b x + (1 - b) (x - t(b x)) exp(-s(b x))

    with s and t by a network of two hidden layers, and s within 2. Masks are random, and those of a pair of blocks are
    complements.

    Attributes:
      latent_dim: d.
      blocks: number of couplings.
      width: of the hidden layers.
    """

    latent_dim: int
    blocks: int
    width: int

    def setup(self) -> None:
        self.couplings = [_Coupling(self.latent_dim, self.width, i, name=f"block_{i}") for i in range(self.blocks)]

    def __call__(self, noise: jax.Array) -> jax.Array:
        """Noise ``[b, d]`` to codes ``[b, d]``."""
        x = noise
        for coupling in self.couplings:
            log_scale, shift = coupling(x)
            x = coupling.kept * x + (1.0 - coupling.kept) * (x * jnp.exp(log_scale) + shift)
        return x

    def log_density(self, x: jax.Array) -> jax.Array:
        """Logarithm of the density of codes ``[b, d]`` for noise from N(0, I), ``[b]``, in nats."""
        log_determinant = jnp.zeros(x.shape[0])
        for coupling in self.couplings[::-1]:
            log_scale, shift = coupling(x)
            x = coupling.kept * x + (1.0 - coupling.kept) * ((x - shift) * jnp.exp(-log_scale))
            log_determinant -= jnp.sum((1.0 - coupling.kept) * log_scale, axis=-1)
        return log_determinant - 0.5 * jnp.sum(jnp.square(x) + math.log(2 * math.pi), axis=-1)


class _Coupling(nn.Module):
    """Log scale and shift of one block, each ``[b, d]``, from the dimensions that it keeps.

    Attributes:
      latent_dim: d.
      width: of the hidden layers.
      index: number of the block.
    """

    latent_dim: int
    width: int
    index: int

    def setup(self) -> None:
        order = np.random.default_rng(self.index // 2).permutation(self.latent_dim)
        is_kept = (order < self.latent_dim // 2) == (self.index % 2 == 0)
        self.kept = jnp.asarray(is_kept[None], jnp.float32)
        self.hidden = [nn.Dense(self.width, name=f"hidden_{i}") for i in range(2)]
        self.log_scale, self.shift = (
            nn.Dense(self.latent_dim, kernel_init=nn.initializers.zeros, name=name) for name in ("log_scale", "shift")
        )

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = self.kept * x
        for layer in self.hidden:
            h = nn.relu(layer(h))
        return _MOST_LOG_SCALE * jnp.tanh(self.log_scale(h) / _MOST_LOG_SCALE), self.shift(h)
