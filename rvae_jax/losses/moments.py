"""Mean and variance of the population of codes: of a batch, of many batches, of the parts of a batch.

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


class Moments(NamedTuple):
    """Mean and variance of the population of codes, one value per latent dimension.

    Attributes:
      mean: ``[d]``.
      var: ``[d]``, with 1/N.
    """

    mean: jax.Array
    var: jax.Array


class CovarianceMoments(NamedTuple):
    """Mean and covariance of the population of codes.

    Attributes:
      mean: ``[d]``.
      cov: ``[d, d]``, with 1/N.
    """

    mean: jax.Array
    cov: jax.Array


class MomentsAverage(NamedTuple):
    """Exponential average of the moments of past batches.

    Attributes:
      moments: ``[d]`` each, those of the mixture of the past batches; the newest has the largest weight.
      weight: scalar, ``1 - decay^t`` after t batches.
    """

    moments: Moments
    weight: jax.Array


class MeansQueue(NamedTuple):
    """The means of the newest images, without gradient.

    Attributes:
      means: ``[k, d]``, newest batch first.
      filled: scalar, number of rows in use.
    """

    means: jax.Array
    filled: jax.Array


def batch_moments(mean: jax.Array, log_var: jax.Array | None = None, *, axis_name: str | None = None) -> Moments:
    """Mean and variance of the population of codes, estimated on the batch.

    With ``mean`` alone (convention "means", the released code's) the variance is ``Var_i(mean_i)``. With ``log_var``
    (convention "mixture") it is ``Var_i(mean_i) + mean_i(exp(log_var_i))``: the moments of the mixture
    ``1/N sum_i N(mean_i, exp(log_var_i))`` by the law of total variance. Both use 1/N and two passes; ``E[x^2] -
    E[x]^2`` can be negative in float32, for instance for codes near 30 with deviation 0.01.

    Under ``pmap``, ``shard_map`` or ``vmap``, pass the mapped axis as ``axis_name``: the moments are then those of the
    global batch, and equal on every device. For right gradients the caller must also ``pmean`` the loss inside the
    differentiated function, and ``pmean`` the gradients. Under ``jit`` with global arrays, leave it None.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None.
      axis_name: mapped axis over which the batch is split into equal parts.

    Returns:
      ``Moments`` with ``[d]`` each.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    _arrays.require_codes("batch_moments", mean=mean, log_var=log_var)
    mean = _arrays.at_least_float32(mean)
    population_mean = _arrays.batch_mean(mean, axis_name)
    var = _arrays.batch_mean(jnp.square(mean - population_mean[None, :]), axis_name)
    if log_var is not None:
        var += _mean_var(log_var, axis_name)
    return Moments(population_mean, var)


def batch_covariance(
    mean: jax.Array, log_var: jax.Array | None = None, *, shrinkage: float, axis_name: str | None = None
) -> CovarianceMoments:
    """Mean and covariance of the population of codes, estimated on the batch.

    ``S = 1/N sum_i (mean_i - m)(mean_i - m)^T``, with every entry off the diagonal multiplied by ``1 - shrinkage``,
    plus ``diag(mean_i exp(log_var_i))`` if ``log_var`` is given. The covariance of N codes has at most rank N - 1, and
    its determinant is zero if that is less than d. After shrinkage towards the diagonal, the smallest eigenvalue is at
    least ``shrinkage`` times the smallest variance, and the variances are unchanged (Schaefer and Strimmer, 2005; here
    the caller chooses the intensity). With 0.01 or more, the KL is finite for every batch.

    Sampling noise looks like correlation, and has a gradient: N independent codes show a total correlation of about
    ``d (d - 1) / (4 N)`` nats if N is well above d, and more otherwise (35 at d = 512, N = 2048). Shrinkage lowers it
    and does not remove it. The averages and queues of this module support diagonal ``Moments`` only.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None; see ``batch_moments``.
      shrinkage: from 0 (none: for ``dip_penalty``, or if N is well above d) to 1 (diagonal).
      axis_name: as in ``batch_moments``.

    Returns:
      ``CovarianceMoments``, ``[d]`` and ``[d, d]``.

    Raises:
      ValueError: the shapes differ, are not ``[b, d]``, or ``shrinkage`` is not in [0, 1].
    """
    _arrays.require_codes("batch_covariance", mean=mean, log_var=log_var)
    _arrays.require_between("batch_covariance", 0, 1, shrinkage=shrinkage)
    mean = _arrays.at_least_float32(mean)
    population_mean = _arrays.batch_mean(mean, axis_name)
    centred = mean - population_mean[None, :]
    # By default, GPUs and TPUs multiply in TF32 or bfloat16.
    cov = jnp.matmul(centred.T, centred, precision="highest") / mean.shape[0]
    if axis_name is not None:
        cov = jax.lax.pmean(cov, axis_name)
    cov *= 1.0 - shrinkage * (1.0 - jnp.eye(len(cov), dtype=cov.dtype))
    if log_var is not None:
        cov += jnp.diag(_mean_var(log_var, axis_name))
    return CovarianceMoments(population_mean, cov)


def combine_moments(moments: Moments, weights: jax.Array | None = None) -> Moments:
    """Moments of the union of populations, ``m = sum_k w_k m_k``, ``v = sum_k w_k (v_k + (m_k - m)^2)``.

    From the moments of the parts of a batch, it gives exactly those of the complete batch. This is the first of the two
    passes of gradient accumulation (see ``anchored_moments``).

    Args:
      moments: ``[k, d]`` each, those of k populations.
      weights: ``[k]``, numbers of codes, in any unit; None if all populations have the same number.

    Returns:
      ``Moments`` with ``[d]`` each.

    Raises:
      ValueError: the shapes differ, or are not ``[k, d]`` and ``[k]``.
    """
    _arrays.require_rank("combine_moments", 2, mean=moments.mean)
    _arrays.require_same_shape("combine_moments", mean=moments.mean, var=moments.var)
    mean, var = (_arrays.at_least_float32(moment) for moment in moments)
    weights = jnp.ones(len(mean), mean.dtype) if weights is None else jnp.asarray(weights).astype(mean.dtype)
    _arrays.require_shape("combine_moments", "weights", weights, mean.shape[:1])
    shares = (weights / jnp.sum(weights))[:, None]
    combined = jnp.sum(shares * mean, axis=0)
    return Moments(combined, jnp.sum(shares * (var + jnp.square(mean - combined[None, :])), axis=0))


def anchored_moments(
    population: Moments, mean: jax.Array, log_var: jax.Array | None = None, *, axis_name: str | None = None
) -> Moments:
    """Moments of a larger population, with the gradient that codes of this batch have within it.

    The values are ``population``'s, which has no gradient. The derivatives are those of ``mean_i(mean_i)`` and
    ``mean_i((mean_i - m)^2)`` (``+ mean_i(exp(log_var_i))``), with the population's m: the effect that codes at these
    places have on the moments of a population of which the batch is a fair sample. They do not shrink with the
    population's size, so the weights of the objective keep their meaning.

    Gradient accumulation: first compute ``batch_moments`` of all parts and ``combine_moments`` them. Then average, over
    the parts, the gradients of an objective that uses ``anchored_moments``. With equal parts this is exactly the
    gradient of the complete batch; the average of the gradients of each part's own KL is not.

    Args:
      population: ``[d]`` each; equal on all devices.
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None; of the same convention as ``population``.
      axis_name: as in ``batch_moments``.

    Returns:
      ``Moments`` with ``[d]`` each.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]`` and ``[d]``.
    """
    _arrays.require_codes("anchored_moments", mean=mean, log_var=log_var)
    for name, moment in population._asdict().items():
        _arrays.require_shape("anchored_moments", f"population.{name}", moment, jnp.shape(mean)[1:])
    mean = _arrays.at_least_float32(mean)
    population = Moments(*(jax.lax.stop_gradient(moment.astype(mean.dtype)) for moment in population))
    var = _arrays.batch_mean(jnp.square(mean - population.mean[None, :]), axis_name)
    if log_var is not None:
        var += _mean_var(log_var, axis_name)
    of_batch = Moments(_arrays.batch_mean(mean, axis_name), var)
    return Moments(*map(_arrays.straight_through, population, of_batch))


def init_moments_average(latent_dim: int) -> MomentsAverage:
    """An average that has seen no batch."""
    return MomentsAverage(Moments(jnp.zeros(latent_dim), jnp.zeros(latent_dim)), jnp.zeros(()))


def update_moments_average(average: MomentsAverage, moments: Moments, *, decay: float) -> MomentsAverage:
    """Adds a batch to an exponential average of moments.

    Each batch has ``decay`` times the weight of the next one. The result is the ``combine_moments`` of all batches with
    these weights, so differences between the batches' means are part of the variance. The average is debiased: after
    the first batch it equals that batch's moments, and the initial zeros have no weight. For a constant encoder, it is
    as precise as the moments of ``N (1 + decay) / (1 - decay)`` codes, with batches of N. The gradient through
    ``anchored_moments`` has much less noise than the batch's own, and a small bias towards smaller codes, since the
    average includes the newest batch: at N = 10 and decay 0.9 it vanishes at a variance that is 1.4 % lower.

    Use the result in the objective through ``anchored_moments``. It is equal on all devices if ``moments`` is, as
    with ``batch_moments(axis_name=...)``.

    Args:
      average: state of the training loop, from ``init_moments_average``.
      moments: ``[d]`` each, of the batch.
      decay: in [0, 1); with 0, only the newest batch counts.

    Returns:
      The new state, without gradient.

    Raises:
      ValueError: the shapes differ, or ``decay`` is not in [0, 1).
    """
    _arrays.require_decay("update_moments_average", decay)
    _arrays.require_same_shape(
        "update_moments_average",
        mean=moments.mean,
        var=moments.var,
        average_mean=average.moments.mean,
        average_var=average.moments.var,
    )
    average, moments = jax.tree.map(_arrays.at_least_float32, (average, moments))
    both = jax.tree.map(lambda old, new: jnp.stack([old, new.astype(old.dtype)]), average.moments, moments)
    old_weight = decay * average.weight
    combined = combine_moments(both, jnp.stack([old_weight, jnp.full_like(old_weight, 1 - decay)]))
    return jax.lax.stop_gradient(MomentsAverage(combined, old_weight + (1 - decay)))


def init_means_queue(length: int, latent_dim: int) -> MeansQueue:
    """An empty queue for the means of ``length`` images."""
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
    _arrays.require_rank("update_means_queue", 2, mean=mean)
    _arrays.require_shape("update_means_queue", "mean", mean, (jnp.shape(mean)[0], latent_dim))
    newest, _ = _arrays.global_batch(mean.astype(queue.means.dtype), axis_name)
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
    _arrays.require_rank("queue_moments", 2, means=queue.means)
    means = _arrays.at_least_float32(queue.means)
    is_filled = (jnp.arange(len(means), dtype=jnp.int32) < queue.filled)[:, None]
    count = jnp.maximum(queue.filled, 1).astype(means.dtype)
    mean = jnp.sum(jnp.where(is_filled, means, 0.0), axis=0) / count
    var = jnp.sum(jnp.where(is_filled, jnp.square(means - mean[None, :]), 0.0), axis=0) / count
    if log_var is not None:
        _arrays.require_rank("queue_moments", 2, log_var=log_var)
        _arrays.require_shape("queue_moments", "log_var", log_var, (jnp.shape(log_var)[0], len(mean)))
        var += _mean_var(log_var, axis_name)
    return Moments(mean, var)


def _mean_var(log_var: jax.Array, axis_name: str | None) -> jax.Array:
    return _arrays.batch_mean(jnp.exp(_arrays.guarded_log_var(log_var)), axis_name)
