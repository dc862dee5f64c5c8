"""Samplers of codes for new images: the prior, or a distribution fitted to the population of codes.

The more a fitted sampler improves on the prior, the further the population is from the prior.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from rvae_jax.errors import UserError, needs

SamplerName = Literal["prior", "gaussian", "mixture"]
AUTO = "auto"  # the one that the evaluation found best

FITTED_TO = 10_000  # at most so many training images, evenly spaced

_COMPONENTS = (1, 2, 5, 10, 20)
_HELD_OUT = 10  # every tenth code chooses among them
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


class Mixture(NamedTuple):
    """A mixture of K Gaussians.

    Attributes:
      weights: ``[K]``, positive, with a sum of 1.
      means: ``[K, d]``.
      covariances: ``[K, d, d]``.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def fit_mixture(mean: np.ndarray, log_var: np.ndarray, seed: int = 0) -> Mixture:
    """Fits a mixture to one code drawn from each posterior.

    Of 1, 2, 5, 10 and 20 components, the number is the first after which a tenth of the codes, on which it was not
    fitted, is no likelier. Each has its own covariance if it has at least five codes per dimension; otherwise all share
    one.

    Raises:
      UserError: there are fewer than two codes.
    """
    with needs("evaluate", command=False):
        from sklearn.mixture import GaussianMixture
    n, d = mean.shape
    if n < 2:
        raise UserError(f"{n} training image; expected at least 2 to fit a mixture of Gaussians to their codes")

    def fit(codes: np.ndarray, components: int) -> GaussianMixture:
        covariance_type = "full" if n // components >= 5 * d else "tied"
        model = GaussianMixture(components, covariance_type=covariance_type, reg_covar=1e-6, random_state=seed)
        return model.fit(codes)

    codes = codes_of(mean, log_var, seed)
    held_out = np.arange(n) % _HELD_OUT == _HELD_OUT - 1
    best, most = 1, -math.inf
    for components in _COMPONENTS if n >= 2 * _HELD_OUT else ():
        if 2 * components > n or (score := fit(codes[~held_out], components).score(codes[held_out])) <= most:
            break
        best, most = components, score
    fitted = fit(codes, best)
    covariances = fitted.covariances_ if fitted.covariance_type == "full" else fitted.covariances_[None].repeat(best, 0)
    return Mixture(fitted.weights_, fitted.means_, covariances)


def mixture(fitted: Mixture) -> Sampler:
    """A mixture of Gaussians; its codes are ``noise_to_codes`` of noise from N(0, I)."""
    transform = mixture_transform(fitted)
    each = [gaussian(*moments) for moments in zip(fitted.means, fitted.covariances, strict=True)]
    log_weights = np.log(fitted.weights)

    def draw(n: int, seed: int = 0) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal((n, fitted.means.shape[1] + 1), np.float32)
        return np.asarray(noise_to_codes(transform, noise))

    def log_density(z: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce([part.log_density(z) for part in each] + log_weights[:, None], axis=0)

    return Sampler(draw, log_density)


def mixture_transform(fitted: Mixture) -> dict[str, list[np.ndarray]]:
    """What turns noise into codes of a mixture; see ``noise_to_codes``.

    Returns:
      ``means`` and ``roots``, one ``[d]`` and one ``[d, d]`` for each component, and ``edges``, a scalar between two of
      them, all float32.
    """
    below = np.cumsum(fitted.weights)[:-1] / np.sum(fitted.weights)
    edges = [statistics.NormalDist().inv_cdf(float(share)) for share in np.clip(below, 1e-9, 1 - 1e-9)]
    return {
        "means": [mean.astype(np.float32) for mean in fitted.means],
        "roots": [root(covariance).astype(np.float32) for covariance in fitted.covariances],
        "edges": [np.asarray(edge, np.float32) for edge in edges],
    }


def noise_to_codes(transform: dict[str, list[Any]], noise: jax.Array) -> jax.Array:
    """Codes ``[n, d]`` of a mixture from noise of N(0, I), ``[n, d + 1]``, float32.

    The last number chooses the component, k if it lies between the edges k and k + 1, and the others are the e of
    ``mean_k + R_k e``.
    """
    d = noise.shape[1] - 1
    e, choice = jax.lax.slice_in_dim(noise, 0, d, axis=1), jax.lax.slice_in_dim(noise, d, d + 1, axis=1)
    each = [
        mean[None] + jnp.matmul(e, scaled.T, precision="highest")
        for mean, scaled in zip(transform["means"], transform["roots"], strict=True)
    ]
    codes = each[0]
    for edge, others in zip(transform["edges"], each[1:], strict=True):
        codes = jnp.where(choice >= edge, others, codes)
    return codes


def codes_of(mean: np.ndarray, log_var: np.ndarray, seed: int | list[int]) -> np.ndarray:
    """One code of each posterior, ``[n, d]``, in float64."""
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    return mean.astype(np.float64) + np.exp(0.5 * log_var.astype(np.float64)) * noise


def _log_standard_normal(z: np.ndarray) -> np.ndarray:
    return -0.5 * np.square(z.astype(np.float64)).sum(axis=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
