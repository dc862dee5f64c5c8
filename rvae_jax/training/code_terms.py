"""The terms of the objective that depend on the codes alone, for the complete batch.

Where a term compares the population of codes with N(0, I), ``loss.moments`` says which population: that of the means,
or the mixture of the posteriors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from rvae_jax import losses
from rvae_jax.training.draws import rows_of_batch

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Terms = dict[str, jax.Array]  # scalars by name
Draws = dict[str, jax.Array]  # random numbers by purpose, one row an image

_DIRECTIONS = 256


def first_running(loss: LossConfig, latent_dim: int) -> dict[str, Any]:
    """The running statistics of the codes before the first step."""
    if not loss.moments_decay:
        return {}
    return {"moments": losses.init_moments_average(latent_dim, covariance=loss.covariance == "full")}


def make_draws(loss: LossConfig, key: jax.Array, noise: jax.Array, axis_name: str | None) -> Draws:
    """The random numbers that the terms need of each image: the posteriors' ``noise``, codes of the prior for MMD."""
    draws = {"noise": noise}
    if loss.mmd_weight:
        draws["mmd"] = rows_of_batch(jax.random.normal, jax.random.fold_in(key, 2), noise.shape, axis_name)
    return draws


def code_terms(
    loss: LossConfig,
    running: dict[str, Any],
    key: jax.Array,
    mean: jax.Array,
    log_var: jax.Array,
    draws: Draws,
    axis_name: str | None,
) -> tuple[Terms, dict[str, Any]]:
    """The terms, unweighted, and the running statistics after this batch.

    Args:
      loss: the objective.
      running: of the state.
      key: of the step, equal on all devices.
      mean: of the posteriors, ``[b, d]``.
      log_var: their log variances, ``[b, d]``.
      draws: of ``make_draws``, in the same order of images.
      axis_name: mapped axis over which the batch is split, or None. Terms of single images are means over the device's
        part of the batch; all others are equal on all devices.
    """
    if loss.kl == "population":
        moments, running = _population_moments(loss, running, mean, log_var, axis_name)
        terms = {
            "population_kl": losses.population_kl(moments),
            "variance_regularizer": jnp.mean(losses.variance_regularizer(log_var, target=loss.variance_target)),
        }
    elif loss.free_bits:
        free_bits = losses.free_bits_kl(mean, log_var, free_nats=loss.free_bits, axis_name=axis_name)
        terms = {"free_bits_kl": free_bits}
    else:
        terms = {"standard_kl": jnp.mean(losses.gaussian_kl(mean, log_var))}
    return terms | _comparisons_with_the_prior(loss, key, mean, log_var, draws, axis_name), running


def _population_moments(
    loss: LossConfig, running: dict[str, Any], mean: jax.Array, log_var: jax.Array, axis_name: str | None
) -> tuple[losses.Moments | losses.CovarianceMoments, dict[str, Any]]:
    """Moments by the configuration's conventions, of the batch or of the average that it is added to."""
    codes = mean, log_var if loss.moments == "mixture" else None
    has_covariance, count = loss.covariance == "full", _global_count(mean, axis_name)
    if has_covariance:
        moments = losses.batch_covariance(*codes, shrinkage=0.0, axis_name=axis_name)
    else:
        moments = losses.batch_moments(*codes, axis_name=axis_name)
    if loss.moments_decay:
        average = losses.update_moments_average(running["moments"], moments, decay=loss.moments_decay)
        moments = losses.anchored_moments(average.moments, *codes, axis_name=axis_name)
        count = losses.codes_in_average(average, count, decay=loss.moments_decay)
        running = running | {"moments": average}
    if has_covariance:
        moments = losses.shrink_covariance(moments, losses.correlation_shrinkage(count, mean.shape[1]))
    return moments, running


def _comparisons_with_the_prior(
    loss: LossConfig, key: jax.Array, mean: jax.Array, log_var: jax.Array, draws: Draws, axis_name: str | None
) -> Terms:
    """The terms with a weight of their own, those whose weight is not 0."""
    of_mixture, noise, terms = loss.moments == "mixture", draws["noise"], {}
    codes = mean, log_var if of_mixture else None
    if loss.mixture_kl_weight:
        terms["mixture_kl"] = jnp.mean(losses.mixture_kl(mean, log_var, noise, axis_name=axis_name))
    if loss.total_correlation_weight:
        # With the batch as the data set, every posterior of the mixture has the same weight.
        size = _global_count(mean, axis_name)
        parts = losses.kl_decomposition(mean, log_var, noise, dataset_size=size, axis_name=axis_name)
        terms["total_correlation"] = jnp.mean(parts.total_correlation)
    if loss.mmd_weight:
        z = mean + jnp.exp(0.5 * log_var) * noise if of_mixture else mean
        terms["mmd"] = losses.imq_mmd(z, draws["mmd"], axis_name=axis_name)
    if loss.sliced_weight:
        directions = losses.random_directions(jax.random.fold_in(key, 3), _DIRECTIONS, mean.shape[1])
        terms["sliced"] = losses.sliced_normality(*codes, directions, axis_name=axis_name)
    if loss.dip_weight:
        terms["dip"] = sum(losses.dip_penalty(losses.batch_covariance(*codes, shrinkage=0.0, axis_name=axis_name)))
    return terms


def _global_count(mean: jax.Array, axis_name: str | None) -> int:
    return mean.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
