"""A lower bound on the log likelihood of images, for models trained without a discriminator."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def trained_scale(dimensions: int, reconstruction_weight: float) -> float:
    """The Laplace scale for which ``reconstruction_weight * mean |x - x_hat|`` is the negative log density.

    Up to a constant; ``dimensions`` is the number of values in an image.
    """
    return dimensions / reconstruction_weight


def laplace_log_likelihood(x: jax.Array, x_hat: jax.Array, scale: float) -> jax.Array:
    """``log p(x|z)`` of independent Laplace variables: ``-D log(2 b) - sum |x - x_hat| / b``, for D values.

    Args:
      x: images in [-1, 1], ``[n, ...]``.
      x_hat: decoded from ``z``, of the same shape.
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

    In expectation a lower bound on ``log p(x)`` under the prior N(0, I): the ELBO for K = 1, and tighter for larger K.

    Args:
      x: images, ``[n, ...]``.
      mean: means of their posteriors, ``[n, d]``.
      log_var: natural logarithm of the posteriors' variances, ``[n, d]``.
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
    """Converts a log density of images in [-1, 1], in nats per image, to bits per value with levels 2/255 apart."""
    return -log_density / (dimensions * math.log(2.0)) + math.log2(127.5)
