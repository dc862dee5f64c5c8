"""A lower bound on the log likelihood of images, for models whose reconstruction term is one: those without a GAN."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def trained_scale(dimensions: int, reconstruction_weight: float) -> float:
    """The Laplace scale whose negative log density is ``reconstruction_weight * mean |x - x_hat|`` up to a constant."""
    return dimensions / reconstruction_weight


def laplace_log_likelihood(x: jax.Array, x_hat: jax.Array, scale: float) -> jax.Array:
    """``log p(x|z)`` of independent Laplace variables, ``-D log(2 b) - sum |x - x_hat| / b``, a density over [-1, 1]^D.

    Args:
      x: images in [-1, 1], of D values each.
      x_hat: what ``z`` is decoded to, of the same shape.
      scale: b.

    Returns:
      Nats per image, ``[n]``.
    """
    size = math.prod(x.shape[1:])
    return -size * math.log(2.0 * scale) - jnp.sum(jnp.abs(x - x_hat), axis=tuple(range(1, x.ndim))) / scale


def importance_weighted_bound(
    x: jax.Array,
    mean: jax.Array,
    log_var: jax.Array,
    log_likelihood: Callable[[jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    samples: int,
) -> jax.Array:
    """``log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)``, in nats per image: IWAE (Burda et al., 2016).

    A lower bound of ``log p(x)`` in expectation, under the prior N(0, I); the ELBO for K = 1, nearer for more.

    Args:
      x: images, ``[n, ...]``.
      mean: of their posteriors, ``[n, d]``.
      log_var: natural logarithm of the variances, ``[n, d]``.
      log_likelihood: ``(x, z) -> log p(x|z)``, ``[n]``.
      key: random key.
      samples: K.

    Returns:
      ``[n]``.
    """

    def log_weight(key: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(0.5 * log_var) * noise
        log_ratio = 0.5 * jnp.sum(jnp.square(noise) + log_var - jnp.square(z), axis=1)
        return log_likelihood(x, z) + log_ratio

    weights = jax.lax.map(log_weight, jax.random.split(key, samples))
    return jax.nn.logsumexp(weights, axis=0) - math.log(samples)


def bits_per_dimension(log_density: float, dimensions: int) -> float:
    """A log density over images in [-1, 1], in nats per image, as bits per value, of levels that are 2/255 apart."""
    return -log_density / (dimensions * math.log(2.0)) + math.log2(127.5)
