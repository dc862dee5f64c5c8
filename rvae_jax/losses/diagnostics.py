"""Statistics of the codes, for logging and not for training.

Others are in the modules of the terms: the rate is the mean of ``gaussian_kl``, the information is
``mutual_information``, the population's distance from the prior is ``mixture_kl``, and the correlation of its Gaussian
fit is ``gaussian_total_correlation``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays
from rvae_jax.losses.moments import Moments, batch_moments

ACTIVE_UNIT_VARIANCE = 0.01

# Of n standardised values none is above sqrt(n). One beyond this is the rounding of a dimension without variance.
_STANDARDISED_MAX = 1e5


class LatentStatistics(NamedTuple):
    """The numbers that training logs about the codes of a batch, scalars.

    Attributes:
      active_units: see ``active_units``.
      population_mean_rms: root mean square over the dimensions of the population's mean; 0 in the prior.
      population_std: mean over the dimensions of the standard deviation of the posteriors' means.
      sigma_mean: mean of the posteriors' standard deviations.
      sigma_min: smallest of the posteriors' standard deviations.
    """

    active_units: jax.Array
    population_mean_rms: jax.Array
    population_std: jax.Array
    sigma_mean: jax.Array
    sigma_min: jax.Array


class PopulationShape(NamedTuple):
    """Moments of the population of codes up to the fourth.

    Attributes:
      mean: ``[d]``, 0 in the prior.
      var: ``[d]``, with 1/N; 1 in the prior.
      excess_kurtosis: ``[d]``, 0 in the prior and for every Gaussian, -2 for two points, large if a few codes are far
        out. If all codes are equal, rounding puts it between -3 and -2.
    """

    mean: jax.Array
    var: jax.Array
    excess_kurtosis: jax.Array


def active_units(moments: Moments, *, threshold: float = ACTIVE_UNIT_VARIANCE) -> jax.Array:
    """Number of latent dimensions whose means vary, ``#{d: v_d > 0.01}`` (Burda et al., 2016).

    Args:
      moments: of the means, ``batch_moments(mean)``, ``[d]`` each. With the "mixture" moments, dimensions that carry no
        information would count, too.
      threshold: a variance must exceed it.

    Returns:
      A whole number from 0 to d, as a scalar of at least float32; NaN if a variance is not finite.

    Raises:
      ValueError: the shapes differ, or are not ``[d]``.
    """
    _arrays.require_same_shape("active_units", mean=moments.mean, var=moments.var)
    _arrays.require_rank("active_units", 1, var=moments.var)
    var = _arrays.at_least_float32(moments.var)
    return jnp.sum(jnp.where(var > threshold, 1.0, 0.0 * var))


def latent_statistics(mean: jax.Array, log_var: jax.Array, *, axis_name: str | None = None) -> LatentStatistics:
    """Summary of the codes of a batch: how many dimensions are used, and how far codes and posteriors spread.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.
      axis_name: as in ``batch_moments``.

    Returns:
      ``LatentStatistics``, without gradient.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    _arrays.require_codes("latent_statistics", mean=mean, log_var=log_var)
    mean, log_var = jax.lax.stop_gradient((mean, log_var))
    moments = batch_moments(mean, axis_name=axis_name)
    sigma = jnp.exp(0.5 * _arrays.guarded_log_var(log_var))
    sigma_mean, sigma_min = jnp.mean(sigma), jnp.min(sigma)
    if axis_name is not None:
        sigma_mean, sigma_min = jax.lax.pmean(sigma_mean, axis_name), jax.lax.pmin(sigma_min, axis_name)
    return LatentStatistics(
        active_units=active_units(moments),
        population_mean_rms=jnp.sqrt(jnp.mean(jnp.square(moments.mean))),
        population_std=jnp.mean(jnp.sqrt(moments.var)),
        sigma_mean=sigma_mean,
        sigma_min=sigma_min,
    )


def population_shape(
    mean: jax.Array, log_var: jax.Array | None = None, *, axis_name: str | None = None
) -> PopulationShape:
    """Mean, variance and kurtosis of each dimension of the population of codes.

    The fourth central moment is ``mean_i((mean_i - m)^4)`` of the means; of the mixture, with ``log_var``,
    ``mean_i((mean_i - m)^4 + 6 (mean_i - m)^2 s_i + 3 s_i^2)``.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None; see ``batch_moments``.
      axis_name: as in ``batch_moments``.

    Returns:
      ``PopulationShape`` with ``[d]`` each.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    moments = batch_moments(mean, log_var, axis_name=axis_name)
    deviation = jnp.sqrt(jnp.maximum(moments.var, _arrays.VARIANCE_FLOOR))
    standardised = (_arrays.at_least_float32(mean) - moments.mean[None, :]) / deviation[None, :]
    squares = jnp.square(jnp.clip(standardised, -_STANDARDISED_MAX, _STANDARDISED_MAX))
    fourth = jnp.square(squares)
    if log_var is not None:
        var = jnp.exp(_arrays.guarded_log_var(log_var)) / jnp.square(deviation)[None, :]
        fourth += 6.0 * squares * var + 3.0 * jnp.square(var)
    return PopulationShape(moments.mean, moments.var, _arrays.batch_mean(fourth, axis_name) - 3.0)
