"""Samplers of codes for new images: the prior, or a distribution fitted to the population of codes.

The more a fitted sampler improves on the prior, the further the population is from the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from rvae_jax.errors import UserError, needs

SamplerName = Literal["prior", "gaussian", "mixture"]
Draw = Callable[[int, int], np.ndarray]  # (n, seed) to codes [n, d], float32

COMPONENTS = 10
FITTED_TO = 10_000  # at most so many training images, evenly spaced


def check_name(name: str) -> None:
    """Raises ``UserError`` unless there is a sampler of this name."""
    if name not in get_args(SamplerName):
        raise UserError(f"sampler={name!r}: expected {', '.join(map(repr, get_args(SamplerName)))}")


def prior(latent_dim: int) -> Draw:
    """N(0, I)."""

    def draw(n: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n, latent_dim), np.float32)

    return draw


def mean_and_covariance(mean: np.ndarray, log_var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[d]`` and covariance ``[d, d]`` of the population of codes, in float64.

    The population is the mixture of the posteriors, whose means and log variances are ``[n, d]`` each.
    """
    mean, var = mean.astype(np.float64), np.exp(log_var.astype(np.float64))
    return mean.mean(axis=0), np.cov(mean, rowvar=False, bias=True) + np.diag(var.mean(axis=0))


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Draw:
    """A Gaussian with the given mean ``[d]`` and covariance ``[d, d]``; see ``mean_and_covariance``."""
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    root = vectors * np.sqrt(np.maximum(values, 0.0))

    def draw(n: int, seed: int = 0) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal((n, len(mean)))
        return (mean + noise @ root.T).astype(np.float32)

    return draw


def mixture(mean: np.ndarray, log_var: np.ndarray, seed: int = 0) -> Draw:
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
    rng = np.random.default_rng(seed)
    codes = mean + np.exp(0.5 * log_var) * rng.standard_normal(mean.shape)
    components = min(COMPONENTS, max(1, n // 2))
    covariance_type = "full" if n // components >= 5 * d else "tied"
    fitted = GaussianMixture(components, covariance_type=covariance_type, reg_covar=1e-6, random_state=seed)
    fitted.fit(codes.astype(np.float64))

    def draw(n: int, seed: int = 0) -> np.ndarray:
        fitted.random_state = seed
        z, _ = fitted.sample(n)
        return np.random.default_rng(seed).permutation(z).astype(np.float32)  # scikit-learn orders them by component

    return draw
