"""Mean and variance of the population of codes: of a batch, of many batches, of the parts of a batch.

With few images in a batch its moments are noisy. Three estimates look further: an exponential average
(``update_moments_average``), a queue of past means (``update_means_queue``), and, for the parts of a batch that is too
large for memory, the moments of all parts (``combine_moments``). ``anchored_moments`` puts any of them into the
objective of the batch at hand: the value is that of the estimate, the gradient that of the batch's codes within such a
population.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays


class Moments(NamedTuple):
    """Mean and variance of the population of codes, one value a latent dimension.

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
      moments: ``[d]`` each, those of the mixture of the past batches, the newest weighing most.
      weight: scalar, ``1 - decay^t`` after t batches.
    """

    moments: Moments
    weight: jax.Array


class MeansQueue(NamedTuple):
    """The means of the newest images, without gradient.

    Attributes:
      means: ``[k, d]``, newest batch first.
      filled: scalar, how many of them are.
    """

    means: jax.Array
    filled: jax.Array


def batch_moments(mean: jax.Array, log_var: jax.Array | None = None, *, axis_name: str | None = None) -> Moments:
    """Mean and variance of the population of codes, estimated on the batch.

    With ``mean`` alone (convention "means", the released code's) the variance is ``Var_i(mean_i)``. With ``log_var``
    (convention "mixture") it is ``Var_i(mean_i) + mean_i(exp(log_var_i))``: the moments of the mixture
    ``1/N sum_i N(mean_i, exp(log_var_i))`` by the law of total variance. Both use 1/N and two passes; ``E[x^2] -
    E[x]^2`` is negative in float32 for codes near 30 with deviation 0.01.

    Under ``pmap``, ``shard_map`` or ``vmap`` give the mapped axis as ``axis_name``: the moments are then those of the
    global batch, and equal on every device. For right gradients the caller must also ``pmean`` the loss inside the
    differentiated function, and the gradients. Under ``jit`` with global arrays leave it None.

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

    ``S = 1/N sum_i (mean_i - m)(mean_i - m)^T``, plus ``diag(mean_i exp(log_var_i))`` where ``log_var`` is given; then
    every entry off the diagonal is multiplied by ``1 - shrinkage``. A batch of N codes has a covariance of rank N - 1
    at most, whose determinant is zero if that is less than d; shrunk towards its diagonal, its smallest eigenvalue is
    at least ``shrinkage`` times the smallest variance, and the variances stay as they are (Schaefer and Strimmer, 2005,
    with the intensity left to the caller). 0.01 and more is finite for every batch.

    Sampling noise looks like correlation, and its gradient is not zero: N independent codes show a total correlation of
    about ``d (d - 1) / (4 N)`` nats for N well above d, more below (35 at d = 512, N = 2048). Shrinkage lowers that and
    does not remove it. The averages and queues of this module are of diagonal ``Moments`` only.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None; see ``batch_moments``.
      shrinkage: from 0 (none, for ``dip_penalty``, or N well above d) to 1 (diagonal).
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
    # GPUs and TPUs would otherwise multiply in TF32 or bfloat16.
    cov = jnp.matmul(centred.T, centred, precision="highest") / mean.shape[0]
    if axis_name is not None:
        cov = jax.lax.pmean(cov, axis_name)
    cov *= 1.0 - shrinkage * (1.0 - jnp.eye(len(cov), dtype=cov.dtype))
    if log_var is not None:
        cov += jnp.diag(_mean_var(log_var, axis_name))
    return CovarianceMoments(population_mean, cov)


def combine_moments(moments: Moments, weights: jax.Array | None = None) -> Moments:
    """Moments of several populations taken together, ``m = sum_k w_k m_k``, ``v = sum_k w_k (v_k + (m_k - m)^2)``.

    With the moments of the parts of a batch, it gives those of the whole batch, exactly: the first of the two passes
    of gradient accumulation (see ``anchored_moments``).

    Args:
      moments: ``[k, d]`` each, those of k populations.
      weights: ``[k]``, how many codes each has, in any unit; None where all have as many.

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
    ``mean_i((mean_i - m)^2)`` (``+ mean_i(exp(log_var_i))``), with the population's m: what codes at these places do to
    the moments of a population of which the batch is a fair sample. They do not shrink with the population's size, so
    that weights of the objective carry over.

    Gradient accumulation: first collect ``batch_moments`` of all parts and ``combine_moments`` them; then average over
    the parts the gradients of an objective that uses ``anchored_moments``. Equal parts then give exactly the gradient
    of the whole batch, while code that averages over the parts the gradients of each part's own KL gives another.

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
    """An average over no batch yet."""
    return MomentsAverage(Moments(jnp.zeros(latent_dim), jnp.zeros(latent_dim)), jnp.zeros(()))


def update_moments_average(average: MomentsAverage, moments: Moments, *, decay: float) -> MomentsAverage:
    """Adds a batch to an exponential average of moments.

    The batch before the newest counts ``decay`` times as much as it, and so on; the result is the ``combine_moments``
    of all batches with these weights, so that the movement of the batches' means is part of the variance. It is never
    pulled towards the zeros that it starts from: after the first batch it holds that batch's moments. Averaged batches
    of N codes are worth ``N (1 + decay) / (1 - decay)`` codes, as far as the encoder does not move. The gradient
    through ``anchored_moments``, much quieter than the batch's own, is a little biased towards smaller codes, since the
    average knows the newest batch: at N = 10 and decay 0.9 the balance is at a variance 1.4 % lower.

    Use the result in the objective through ``anchored_moments``. It is the same on all devices if ``moments`` is, which
    ``batch_moments(axis_name=...)`` sees to.

    Args:
      average: the state that the step carries, from ``init_moments_average``.
      moments: ``[d]`` each, of the batch.
      decay: in [0, 1); 0 keeps the newest batch alone.

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
    """Puts the batch's means into the queue, and drops the oldest.

    Use ``queue_moments`` of the result in the objective through ``anchored_moments``.

    Args:
      queue: the state that the step carries, from ``init_means_queue``; equal on all devices.
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
    """Moments of the means in the queue, as ``batch_moments`` of them would be.

    Args:
      queue: see ``update_means_queue``.
      log_var: for the convention "mixture" the log variances of the batch, ``[b, d]``, whose ``mean_i(exp(log_var_i))``
        is added; they vary less than the means, and need no queue.
      axis_name: as in ``batch_moments``; used for ``log_var``.

    Returns:
      ``Moments`` with ``[d]`` each; zeros for an empty queue.

    Raises:
      ValueError: the queue's means are not ``[k, d]``, or ``log_var`` is not ``[b, d]`` with the same d.
    """
    _arrays.require_rank("queue_moments", 2, means=queue.means)
    means = _arrays.at_least_float32(queue.means)
    is_filled = (jnp.arange(len(means)) < queue.filled)[:, None]
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
