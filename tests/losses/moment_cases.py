"""Moments of the population of codes, and statistics of the codes."""

import jax.numpy as jnp
import numpy as np
import scipy.stats
from case_parts import (
    COVARIANCE,
    LOG_VARS,
    MEAN,
    MEANS,
    PART_VARIANCES,
    PARTS,
    VARIANCE,
    WEIGHT,
    Argument,
    Case,
    constant,
)

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, MeansQueue, Moments, MomentsAverage


def pooled(means, second_moments, weights):
    """Mean and variance of a mixture by its raw moments."""
    mean = np.average(means, axis=0, weights=weights)
    return mean, np.average(second_moments, axis=0, weights=weights) - mean**2


def mixture_moments(mean, log_var):
    return pooled(mean, mean**2 + np.exp(log_var), None)


def _covariance(mean, log_var=None, shrinkage=0.1):
    cov = np.cov(mean.T, bias=True)
    shrunk = (1 - shrinkage) * cov + shrinkage * np.diag(np.diag(cov))
    return mean.mean(0), shrunk if log_var is None else shrunk + np.diag(np.exp(log_var).mean(0))


def _shrunk_covariance(*codes):
    return losses.batch_covariance(*codes, shrinkage=0.1)


def _kurtosis(mean, log_var):
    centre, var = mixture_moments(mean, log_var)
    fourth = np.vectorize(lambda loc, scale: scipy.stats.norm.moment(4, loc, scale))(mean - centre, np.exp(log_var / 2))
    return centre, var, fourth.mean(0) / var**2 - 3


def _latent_statistics(mean, log_var):
    sigma = np.exp(log_var / 2)
    root_mean_square = np.sqrt(np.mean(mean.mean(0) ** 2))
    active = np.float64(np.sum(mean.var(0) > 0.01))
    return active, root_mean_square, np.mean(mean.std(0)), sigma.mean(), sigma.min()


def _anchored_at(mean, _, *codes):
    """The function with the derivatives of ``anchored_moments`` at this population."""
    return lambda _, __, means, *log_vars: (
        means.mean(0),
        ((means - mean) ** 2).mean(0) + sum(np.exp(log_var).mean(0) for log_var in log_vars),
    )


def _anchored_covariance_at(mean, _, *codes):
    """The same for a population with a covariance."""
    return lambda _, __, means, *log_vars: (
        means.mean(0),
        sum(np.outer(code, code) for code in means - mean) / len(means)
        + sum(np.diag(np.exp(log_var).mean(0)) for log_var in log_vars),
    )


def pooled_covariance(means, covs, weights):
    """Mean and covariance of a mixture by its raw moments."""
    mean = np.average(means, axis=0, weights=weights)
    second = [cov + np.outer(each, each) for each, cov in zip(means, covs, strict=True)]
    return mean, np.average(second, axis=0, weights=weights) - np.outer(mean, mean)


def _average(means, variances):
    average = losses.init_moments_average(means.shape[1])
    for mean, var in zip(means, variances, strict=True):
        average = losses.update_moments_average(average, Moments(mean, var), decay=0.7)
    return average


def _average_oracle(means, variances):
    return *pooled(means, variances + means**2, [0.7**2, 0.7, 1]), 1 - 0.7**3


def _update_average(old_mean, old_var, weight, mean, var):
    return losses.update_moments_average(
        MomentsAverage(Moments(old_mean, old_var), weight), Moments(mean, var), decay=0.9
    )


def _update_average_oracle(old_mean, old_var, weight, mean, var):
    means, second = np.stack([old_mean, mean]), np.stack([old_var + old_mean**2, var + mean**2])
    return *pooled(means, second, [0.9 * weight, 0.1]), 0.9 * weight + 0.1


def _update_covariance_average(old_mean, old_cov, weight, mean, cov):
    average = MomentsAverage(CovarianceMoments(old_mean, old_cov), weight)
    return losses.update_moments_average(average, CovarianceMoments(mean, cov), decay=0.9)


def _update_covariance_average_oracle(old_mean, old_cov, weight, mean, cov):
    return *pooled_covariance([old_mean, mean], [old_cov, cov], [0.9 * weight, 0.1]), 0.9 * weight + 0.1


def _codes_in_average(odds):
    average = MomentsAverage(Moments(jnp.zeros(4), jnp.zeros(4)), odds / 4)
    return losses.codes_in_average(average, 6, decay=0.7)


def _queue(*batches):
    queue = losses.init_means_queue(7, 4)
    for batch in batches:
        queue = losses.update_means_queue(queue, batch)
    return queue


def _queued(*batches):
    return np.concatenate(batches[::-1])[:7]


def _queue_oracle(*batches):
    queued = _queued(*batches)
    return np.concatenate([queued, np.zeros((7 - len(queued), 4))]), len(queued)


MOMENTS = {
    "batch_moments means": Case(losses.batch_moments, lambda mean: (np.mean(mean, 0), np.var(mean, 0)), [MEANS]),
    "batch_moments mixture": Case(losses.batch_moments, mixture_moments, [MEANS, LOG_VARS]),
    "batch_covariance means": Case(_shrunk_covariance, _covariance, [MEANS]),
    "batch_covariance mixture": Case(_shrunk_covariance, _covariance, [MEANS, LOG_VARS]),
    "batch_covariance not shrunk": Case(
        lambda mean: losses.batch_covariance(mean, shrinkage=0), lambda mean: _covariance(mean, shrinkage=0), [MEANS]
    ),
    "batch_covariance diagonal": Case(
        lambda mean: losses.batch_covariance(mean, shrinkage=1), lambda mean: _covariance(mean, shrinkage=1), [MEANS]
    ),
    "combine_moments": Case(
        lambda mean, var: losses.combine_moments(Moments(mean, var)),
        lambda mean, var: pooled(mean, var + mean**2, None),
        [PARTS, PART_VARIANCES],
    ),
    "combine_moments weighted": Case(
        lambda mean, var, weights: losses.combine_moments(Moments(mean, var), weights),
        lambda mean, var, weights: pooled(mean, var + mean**2, weights),
        [PARTS, PART_VARIANCES, Argument("weight", (3,))],
    ),
    "combine_moments of covariances": Case(
        lambda mean, cov, weights: losses.combine_moments(
            CovarianceMoments(mean, jnp.stack([cov, 2 * cov, 4 * cov])), weights
        ),
        lambda mean, cov, weights: pooled_covariance(mean, [cov, 2 * cov, 4 * cov], weights),
        [PARTS, COVARIANCE, Argument("weight", (3,))],
    ),
    "shrink_covariance": Case(
        lambda mean, cov, shrinkage: losses.shrink_covariance(CovarianceMoments(mean, cov), shrinkage),
        lambda mean, cov, shrinkage: (mean, (1 - shrinkage) * cov + shrinkage * np.diag(np.diag(cov))),
        [MEAN, COVARIANCE, WEIGHT],
    ),
    "correlation_shrinkage": Case(
        lambda count: losses.correlation_shrinkage(count, 4), lambda count: np.maximum(0.01, 4 / (count + 4)), [WEIGHT]
    ),
    "correlation_shrinkage of many codes": Case(
        lambda count: losses.correlation_shrinkage(1000 * count, 1), lambda count: np.float64(0.01), [WEIGHT]
    ),
    "codes_in_average": Case(_codes_in_average, lambda odds: 6 * (1.7 / 0.3) / (8 / odds - 1), [WEIGHT]),
    "anchored_moments of a covariance": Case(
        lambda mean, cov, *codes: losses.anchored_moments(CovarianceMoments(mean, cov), *codes),
        lambda mean, cov, *_: (mean, cov),
        [MEAN, COVARIANCE, MEANS],
        _anchored_covariance_at,
    ),
    "anchored_moments of a covariance, mixture": Case(
        lambda mean, cov, *codes: losses.anchored_moments(CovarianceMoments(mean, cov), *codes),
        lambda mean, cov, *_: (mean, cov),
        [MEAN, COVARIANCE, MEANS, LOG_VARS],
        _anchored_covariance_at,
    ),
    "anchored_moments means": Case(
        lambda mean, var, *codes: losses.anchored_moments(Moments(mean, var), *codes),
        lambda mean, var, *_: (mean, var),
        [MEAN, VARIANCE, MEANS],
        _anchored_at,
    ),
    "anchored_moments mixture": Case(
        lambda mean, var, *codes: losses.anchored_moments(Moments(mean, var), *codes),
        lambda mean, var, *_: (mean, var),
        [MEAN, VARIANCE, MEANS, LOG_VARS],
        _anchored_at,
    ),
    "update_moments_average": Case(
        _update_average,
        _update_average_oracle,
        [MEAN, VARIANCE, WEIGHT, MEAN, VARIANCE],
        constant(_update_average_oracle),
    ),
    "update_moments_average of covariances": Case(
        _update_covariance_average,
        _update_covariance_average_oracle,
        [MEAN, COVARIANCE, WEIGHT, MEAN, COVARIANCE],
        constant(_update_covariance_average_oracle),
    ),
    "update_moments_average of three batches": Case(
        _average, _average_oracle, [PARTS, PART_VARIANCES], constant(_average_oracle)
    ),
    "update_means_queue": Case(_queue, _queue_oracle, [PARTS] * 2, constant(_queue_oracle)),
    "update_means_queue that is full": Case(_queue, _queue_oracle, [PARTS] * 3, constant(_queue_oracle)),
    "queue_moments": Case(
        lambda means: losses.queue_moments(MeansQueue(means, jnp.int32(3))),
        lambda means: (np.mean(means[:3], 0), np.var(means[:3], 0)),
        [MEANS],
    ),
    "queue_moments mixture": Case(
        lambda means, log_var: losses.queue_moments(MeansQueue(means, jnp.int32(4)), log_var),
        lambda means, log_var: (np.mean(means[:4], 0), np.var(means[:4], 0) + np.mean(np.exp(log_var), 0)),
        [MEANS, LOG_VARS],
    ),
}

STATISTICS = {
    "active_units": Case(
        lambda mean, var: losses.active_units(Moments(mean, var), threshold=1.0),
        lambda mean, var: np.float64(np.sum(var > 1)),
        [MEAN, VARIANCE],
    ),
    "population_shape means": Case(
        losses.population_shape,
        lambda mean: (np.mean(mean, 0), np.var(mean, 0), scipy.stats.kurtosis(mean)),
        [MEANS],
    ),
    "population_shape mixture": Case(losses.population_shape, _kurtosis, [MEANS, LOG_VARS]),
    "latent_statistics": Case(
        losses.latent_statistics, _latent_statistics, [MEANS, LOG_VARS], constant(_latent_statistics)
    ),
}
