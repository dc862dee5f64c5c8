"""Statistics of the latent space, from the posteriors of a set of images: ``mean`` and ``log_var``, ``[n, d]`` each."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rvae_jax import losses
from rvae_jax.evaluation.metrics import population


class Decomposition(NamedTuple):
    """The mean KL to the prior as the sum of two parts, in nats per image (Hoffman and Johnson, 2016).

    Attributes:
      mutual_information: between an image's index and its code; at most log n.
      marginal_kl: KL of the population of codes to N(0, I); overestimated for few images.
    """

    mutual_information: float
    marginal_kl: float


def dimensions(mean: np.ndarray, log_var: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of each dimension, ``[d]``.

    Returns:
      ``mean``; ``var_means`` and ``var_mixture``, the population's variance by either convention (docs/objective.md);
      ``sigma``, the square root of the mean posterior variance; ``kl``, the mean KL to the prior in nats;
      ``excess_kurtosis`` of the mixture.
    """
    means, mixture = losses.batch_moments(mean), losses.batch_moments(mean, log_var)
    values = {
        "mean": means.mean,
        "var_means": means.var,
        "var_mixture": mixture.var,
        "sigma": jnp.sqrt(jnp.mean(jnp.exp(log_var), axis=0)),
        "kl": losses.kl_by_dimension(mean, log_var).mean(axis=0),
        "excess_kurtosis": losses.population_shape(mean, log_var).excess_kurtosis,
    }
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def population_statistics(mean: np.ndarray, var: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    """Active units, and the spread of the population and of the posteriors.

    Args:
      mean: the population's mean, ``[d]``.
      var: variance of the posteriors' means, ``[d]``.
      sigma: standard deviations of the posteriors, ``[n, d]``.
    """
    return {
        "active_units": float(np.sum(var > losses.ACTIVE_UNIT_VARIANCE)),
        "population_mean_rms": float(np.sqrt(np.mean(np.square(mean)))),
        "population_std": float(np.mean(np.sqrt(var))),
        "sigma_mean": float(np.mean(sigma)),
        "sigma_min": float(np.min(sigma)),
    }


def summary(mean: np.ndarray, log_var: np.ndarray) -> dict[str, float]:
    """Statistics over all dimensions: active units, rate, the population's distance from the prior, correlation.

    ``population_kl_means`` and ``population_kl_mixture`` are the KL to N(0, I), in nats, of the Gaussian with the
    population's mean and variances, without correlation. ``population_kl_gaussian`` is the KL of the Gaussian with the
    mixture's covariance; chance correlation of n independent codes contributes about ``d (d - 1) / (4 n)`` to it.
    ``correlation_rms`` and ``correlation_max`` are over pairs of active dimensions of the means; ``correlation_noise``
    is the expected ``correlation_rms`` of n independent codes.
    """
    by_dimension = dimensions(mean, log_var)
    active = by_dimension["var_means"] > losses.ACTIVE_UNIT_VARIANCE
    pairs = np.zeros(0)
    if active.sum() > 1:
        correlation = np.corrcoef(mean[:, active].astype(np.float64), rowvar=False)
        pairs = correlation[~np.eye(len(correlation), dtype=bool)]
    moments = losses.batch_moments(mean), losses.batch_moments(mean, log_var)
    sigma = np.exp(0.5 * log_var.astype(np.float64))
    return {
        **population_statistics(by_dimension["mean"], by_dimension["var_means"], sigma),
        "dimensions": float(mean.shape[1]),
        "rate": float(by_dimension["kl"].sum()),
        "population_kl_means": float(losses.population_kl(moments[0])),
        "population_kl_mixture": float(losses.population_kl(moments[1])),
        "population_kl_gaussian": sum(population.gaussian_distance(mean, log_var)),
        "population_std_mixture": float(np.mean(np.sqrt(by_dimension["var_mixture"]))),
        "excess_kurtosis_mean": float(by_dimension["excess_kurtosis"].mean()),
        "correlation_rms": float(np.sqrt(np.mean(np.square(pairs)))) if len(pairs) else 0.0,
        "correlation_max": float(np.abs(pairs).max()) if len(pairs) else 0.0,
        "correlation_noise": 1.0 / math.sqrt(max(len(mean) - 1, 1)),
    }


def decompose(mean: np.ndarray, log_var: np.ndarray, seed: int = 0, draws: int = 4) -> Decomposition:
    """Splits the rate into mutual information and marginal KL, by Monte Carlo with ``draws`` codes per image."""
    noise = np.random.default_rng(seed).standard_normal((draws, *mean.shape), np.float32)
    found = [population.code_densities(mean, log_var, np.arange(len(mean)), one) for one in noise]
    return Decomposition(
        mutual_information=float(np.mean([each.own - each.mixture for each in found])),
        marginal_kl=float(np.mean([each.mixture - each.prior for each in found])),
    )
