"""Samplers of codes for new images: the prior, or a distribution fitted to the population of codes.

The more a fitted sampler improves on the prior, the further the population is from the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

from rvae_jax.errors import UserError, needs

SamplerName = Literal["prior", "gaussian", "mixture"]
AUTO = "auto"  # the one that the evaluation found best

COMPONENTS = 10
FITTED_TO = 10_000  # at most so many training images, evenly spaced

_LEAST_VARIANCE = 1e-12  # keeps the covariance regular


class Sampler(NamedTuple):
    """A distribution of codes.

    Attributes:
      draw: from a number n and a seed to codes, ``[n, d]``, float32.
      log_density: from codes ``[n, d]`` to the logarithm of their density, ``[n]``, in nats, float64.
    """

    draw: Callable[[int, int], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]


def is_name(name: str | None) -> bool:
    """Whether there is a sampler of this name."""
    return name in get_args(SamplerName)


def check_name(name: str) -> None:
    """Raises ``UserError`` unless there is a sampler of this name, or it is ``auto``."""
    if name != AUTO and not is_name(name):
        raise UserError(f"sampler={name!r}: expected {', '.join(map(repr, (AUTO, *get_args(SamplerName))))}")


def prior(latent_dim: int) -> Sampler:
    """N(0, I)."""

    def draw(n: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n, latent_dim), np.float32)

    return Sampler(draw, _log_standard_normal)


def mean_and_covariance(mean: np.ndarray, log_var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[d]`` and covariance ``[d, d]`` of the population of codes, in float64.

    The population is the mixture of the posteriors, whose means and log variances are ``[n, d]`` each.
    """
    mean, var = mean.astype(np.float64), np.exp(log_var.astype(np.float64))
    return mean.mean(axis=0), np.cov(mean, rowvar=False, bias=True) + np.diag(var.mean(axis=0))


def root(covariance: np.ndarray) -> np.ndarray:
    """A matrix R with ``R R^T`` the covariance ``[d, d]``, in float64: its eigenvectors, as long as the deviations."""
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    return vectors * np.sqrt(np.maximum(values, _LEAST_VARIANCE))


def whiten(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The e with ``z = mean + R e`` for the ``root`` R, ``[n, d]``: of covariance I if z has this one."""
    scaled = root(covariance)
    return (z - mean) @ (scaled / np.square(scaled).sum(axis=0))


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Sampler:
    """A Gaussian with the given mean ``[d]`` and covariance ``[d, d]``; see ``mean_and_covariance``."""
    scaled = root(covariance)

    def draw(n: int, seed: int = 0) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal((n, len(mean)))
        return (mean + noise @ scaled.T).astype(np.float32)

    def log_density(z: np.ndarray) -> np.ndarray:
        return _log_standard_normal(whiten(z, mean, covariance)) - np.linalg.slogdet(scaled).logabsdet

    return Sampler(draw, log_density)


def mixture(mean: np.ndarray, log_var: np.ndarray, seed: int = 0) -> Sampler:
    """A mixture of ten Gaussians, fitted to one code drawn from each posterior.

    Each component has its own covariance if it has at least five codes per dimension; otherwise all share one.

    Raises:
      UserError: there are fewer than two codes.
    """
    with needs("evaluate", command=False):
        from sklearn.mixture import GaussianMixture
    n, d = mean.shape
    if n < 2:
        raise UserError(f"{n} training image; expected at least 2 to fit a mixture of Gaussians to their codes")
    components = min(COMPONENTS, max(1, n // 2))
    covariance_type = "full" if n // components >= 5 * d else "tied"
    fitted = GaussianMixture(components, covariance_type=covariance_type, reg_covar=1e-6, random_state=seed)
    fitted.fit(codes_of(mean, log_var, seed))

    def draw(n: int, seed: int = 0) -> np.ndarray:
        fitted.random_state = seed
        z, _ = fitted.sample(n)
        return np.random.default_rng(seed).permutation(z).astype(np.float32)  # scikit-learn orders them by component

    def log_density(z: np.ndarray) -> np.ndarray:
        return fitted.score_samples(z.astype(np.float64))

    return Sampler(draw, log_density)


def codes_of(mean: np.ndarray, log_var: np.ndarray, seed: int) -> np.ndarray:
    """One code of each posterior, ``[n, d]``, in float64."""
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    return mean.astype(np.float64) + np.exp(0.5 * log_var.astype(np.float64)) * noise


def _log_standard_normal(z: np.ndarray) -> np.ndarray:
    return -0.5 * np.square(z.astype(np.float64)).sum(axis=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
