"""Moments of the population of codes from more than one batch.

The moments of a small batch are noisy. Three estimates use more codes: an exponential average over batches
(``update_moments_average``), a queue of past means (``update_means_queue``), and, if a batch is processed in parts to
save memory, the moments of all its parts (``combine_moments``). ``anchored_moments`` puts any of them into the
objective of a batch: the value is that of the estimate, the gradient that of the batch's codes within such a
population.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays
from rvae_jax.losses.moments import CovarianceMoments, Moments, combine_moments


class MomentsAverage(NamedTuple):
    """Exponential average of the moments of past batches.

    Attributes:
      moments: those of the mixture of the past batches; the newest has the largest weight.
      weight: scalar, ``1 - decay^t`` after t batches.
    """

    moments: Moments | CovarianceMoments
    weight: jax.Array


class MeansQueue(NamedTuple):
    """The means of the newest images, without gradient.

    Attributes:
      means: ``[k, d]``, newest batch first.
      filled: scalar, number of rows in use.
    """

    means: jax.Array
    filled: jax.Array


def anchored_moments(
    population: Moments | CovarianceMoments,
    mean: jax.Array,
    log_var: jax.Array | None = None,
    *,
    axis_name: str | None = None,
) -> Moments | CovarianceMoments:
    """Moments of a larger population, with the gradient that codes of this batch have within it.

    The values are ``population``'s, which has no gradient. The derivatives are those of ``mean_i(mean_i)`` and
    ``mean_i((mean_i - m)^2)`` (``+ mean_i(exp(log_var_i))``), with the population's m, or of the outer products
    ``mean_i((mean_i - m)(mean_i - m)^T)``: the effect that codes at these places have on the moments of a population of
    which the batch is a fair sample. They do not shrink with the population's size, so the weights of the objective
    keep their meaning.

    Gradient accumulation: first compute the moments of all parts and ``combine_moments`` them. Then average, over the
    parts, the gradients of an objective that uses ``anchored_moments``. With equal parts this is exactly the gradient
    of the complete batch; the average of the gradients of each part's own KL is not.

    Args:
      population: ``[d]`` each, or ``[d]`` and ``[d, d]``; equal on all devices.
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None; of the same convention as ``population``.
      axis_name: as in ``batch_moments``.

    Returns:
      Moments of the type of ``population``.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``, ``[d]`` and ``[d, d]``.
    """
    _arrays.require_codes("anchored_moments", mean=mean, log_var=log_var)
    of_covariances, size = isinstance(population, CovarianceMoments), jnp.shape(mean)[1]
    for name, moment, axes in zip(population._fields, population, (1, 1 + of_covariances), strict=True):
        _arrays.require_shape("anchored_moments", f"population.{name}", moment, (size,) * axes)
    mean = _arrays.at_least_float32(mean)
    population = type(population)(*(jax.lax.stop_gradient(moment.astype(mean.dtype)) for moment in population))
    centred = mean - population.mean[None, :]
    if of_covariances:
        spread = _arrays.batch_outer(centred, axis_name)
    else:
        spread = _arrays.batch_mean(jnp.square(centred), axis_name)
    if log_var is not None:
        var = _arrays.batch_mean_var(log_var, axis_name)
        spread += jnp.diag(var) if of_covariances else var
    of_batch = _arrays.batch_mean(mean, axis_name), spread
    # The batch has no part in the values, unless it is not finite.
    values = [moment + 0 * jax.lax.stop_gradient(batch) for moment, batch in zip(population, of_batch, strict=True)]
    return type(population)(*map(_arrays.straight_through, values, of_batch))


def init_moments_average(latent_dim: int, *, covariance: bool = False) -> MomentsAverage:
    """An average that has seen no batch, of ``Moments`` or of ``CovarianceMoments``, in JAX's default float type."""
    mean = jnp.zeros(latent_dim)
    moments = CovarianceMoments(mean, jnp.zeros((latent_dim, latent_dim))) if covariance else Moments(mean, mean.copy())
    return MomentsAverage(moments, jnp.zeros(()))


def update_moments_average(
    average: MomentsAverage, moments: Moments | CovarianceMoments, *, decay: float
) -> MomentsAverage:
    """Adds a batch to an exponential average of moments.

    Each batch has ``decay`` times the weight of the next one. The result is the ``combine_moments`` of all batches with
    these weights, so differences between the batches' means are part of the variance. The average is debiased: after
    the first batch it equals that batch's moments, and the initial zeros have no weight. For a constant encoder, it is
    as precise as the moments of ``codes_in_average`` codes, after many batches of N of ``N (1 + decay) / (1 - decay)``.
    The gradient through ``anchored_moments`` has much less noise than the batch's own, and a small bias towards smaller
    codes, since the average includes the newest batch: at N = 10 and decay 0.9 it vanishes at a variance that is 1.4 %
    lower.

    Use the result in the objective through ``anchored_moments``; shrink a covariance (``shrink_covariance``) by
    ``correlation_shrinkage`` of the codes in the average, since that of the first batches has no determinant. The
    average is equal on all devices if ``moments`` is, as with ``batch_moments(axis_name=...)``.

    Args:
      average: state of the training loop, from ``init_moments_average``.
      moments: of the batch, of the same type as the average's; covariances not shrunk.
      decay: in [0, 1); with 0, only the newest batch counts.

    Returns:
      The new state, without gradient.

    Raises:
      ValueError: the shapes differ, or ``decay`` is not in [0, 1).
      TypeError: ``moments`` is of another type than the average's.
    """
    _arrays.require_decay("update_moments_average", decay)
    if type(moments) is not type(average.moments):
        raise TypeError(
            f"update_moments_average: moments is a {type(moments).__name__}, expected"
            f" {type(average.moments).__name__} as in the average; see init_moments_average(covariance=...)"
        )
    for name, old, new in zip(moments._fields, average.moments, moments, strict=True):
        _arrays.require_same_shape("update_moments_average", **{name: new, f"average_{name}": old})
    average, moments = jax.tree.map(_arrays.at_least_float32, (average, moments))
    both = jax.tree.map(lambda old, new: jnp.stack([old, new.astype(old.dtype)]), average.moments, moments)
    old_weight = decay * average.weight
    combined = combine_moments(both, jnp.stack([old_weight, jnp.full_like(old_weight, 1 - decay)]))
    return jax.lax.stop_gradient(MomentsAverage(combined, old_weight + (1 - decay)))


def codes_in_average(average: MomentsAverage, batch_size: int, *, decay: float) -> jax.Array:
    """How many codes the moments of an average are worth, ``N (1 + decay) / (1 - decay) * w / (2 - w)``.

    It is ``N / sum_k s_k^2`` with the batches' shares s: N after the first batch, N t after t batches of a long memory,
    and ``N (1 + decay) / (1 - decay)`` in the end.

    Args:
      average: of ``update_moments_average``; its weight is w.
      batch_size: N, of the global batch.
      decay: as in ``update_moments_average``.

    Returns:
      A scalar; 0 for an average that has seen no batch.

    Raises:
      ValueError: ``decay`` is not in [0, 1).
    """
    _arrays.require_decay("codes_in_average", decay)
    weight = _arrays.at_least_float32(average.weight)
    return batch_size * (1 + decay) / (1 - decay) * weight / (2.0 - weight)


def init_means_queue(length: int, latent_dim: int) -> MeansQueue:
    """An empty queue for the means of ``length`` images, in JAX's default float type."""
    return MeansQueue(jnp.zeros((length, latent_dim)), jnp.zeros((), jnp.int32))


def update_means_queue(queue: MeansQueue, mean: jax.Array, *, axis_name: str | None = None) -> MeansQueue:
    """Adds the batch's means to the queue, and drops the oldest.

    Use ``queue_moments`` of the result in the objective through ``anchored_moments``.

    Args:
      queue: state of the training loop, from ``init_means_queue``; equal on all devices.
      mean: ``[b, d]``.
      axis_name: mapped axis over which the batch is split; the queue then holds the global batch, on every device.

    Returns:
      The new state, without gradient.

    Raises:
      ValueError: ``mean`` is not ``[b, d]`` with the queue's d, or the global batch is longer than the queue.
    """
    length, latent_dim = jnp.shape(queue.means)
    _arrays.require_codes("update_means_queue", mean=mean)
    _arrays.require_shape("update_means_queue", "mean", mean, (jnp.shape(mean)[0], latent_dim))
    newest, _ = _arrays.global_batch(_arrays.as_float(mean).astype(queue.means.dtype), axis_name)
    if len(newest) > length:
        raise ValueError(f"update_means_queue: a batch of {len(newest)} does not fit in a queue of {length}")
    means = jax.lax.stop_gradient(jnp.concatenate([newest, queue.means])[:length])
    return MeansQueue(means, jnp.minimum(queue.filled + len(newest), length))


def queue_moments(queue: MeansQueue, log_var: jax.Array | None = None, *, axis_name: str | None = None) -> Moments:
    """Moments of the means in the queue, as ``batch_moments`` computes them.

    Args:
      queue: see ``update_means_queue``.
      log_var: for the convention "mixture", the log variances of the batch, ``[b, d]``. Their
        ``mean_i(exp(log_var_i))`` is added; the variances vary less than the means, and need no queue.
      axis_name: as in ``batch_moments``; used for ``log_var``.

    Returns:
      ``Moments`` with ``[d]`` each; zeros for an empty queue.

    Raises:
      ValueError: the queue's means are not ``[k, d]``, or ``log_var`` is not ``[b, d]`` with the same d.
    """
    _arrays.require_codes("queue_moments", means=queue.means)
    means = _arrays.at_least_float32(queue.means)
    is_filled = (jnp.arange(len(means), dtype=jnp.int32) < queue.filled)[:, None]
    count = jnp.maximum(queue.filled, 1).astype(means.dtype)
    mean = jnp.sum(jnp.where(is_filled, means, 0.0), axis=0) / count
    var = jnp.sum(jnp.where(is_filled, jnp.square(means - mean[None, :]), 0.0), axis=0) / count
    if log_var is not None:
        _arrays.require_codes("queue_moments", log_var=log_var)
        _arrays.require_shape("queue_moments", "log_var", log_var, (jnp.shape(log_var)[0], len(mean)))
        var += _arrays.batch_mean_var(log_var, axis_name)
    return Moments(mean, var)
