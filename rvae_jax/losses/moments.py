"""Mean and variance, or covariance, of the population of codes: of a batch, and of several populations together.

``running_moments`` has estimates from more than one batch.
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
        var += _arrays.batch_mean_var(log_var, axis_name)
    return Moments(population_mean, var)


def batch_covariance(
    mean: jax.Array, log_var: jax.Array | None = None, *, shrinkage: float, axis_name: str | None = None
) -> CovarianceMoments:
    """Mean and covariance of the population of codes, estimated on the batch.

    ``S = 1/N sum_i (mean_i - m)(mean_i - m)^T``, plus ``diag(mean_i exp(log_var_i))`` if ``log_var`` is given, with
    every entry off the diagonal multiplied by ``1 - shrinkage`` (``shrink_covariance``). The covariance of N codes has
    at most rank N - 1, and its determinant is zero if that is less than d; with a shrinkage of 0.01 or more, the KL is
    finite for every batch.

    Sampling noise looks like correlation, and has a gradient: N independent codes show a total correlation of about
    ``d (d - 1) / (4 N)`` nats if N is well above d, and more otherwise (35 at d = 512, N = 2048). Shrinkage lowers it
    and does not remove it; ``correlation_shrinkage(N, d)`` keeps it below d/16 nats. An average over batches
    (``update_moments_average``) has more codes.

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
    cov = _arrays.batch_outer(mean - population_mean[None, :], axis_name)
    if log_var is not None:
        cov += jnp.diag(_arrays.batch_mean_var(log_var, axis_name))
    return shrink_covariance(CovarianceMoments(population_mean, cov), shrinkage)


def shrink_covariance(moments: CovarianceMoments, shrinkage: float | jax.Array) -> CovarianceMoments:
    """Multiplies every covariance of two dimensions by ``1 - shrinkage``; the variances stay.

    The smallest eigenvalue is then at least ``shrinkage`` times the smallest variance (Schaefer and Strimmer, 2005).

    Args:
      moments: ``[d]`` and ``[d, d]``.
      shrinkage: from 0 (none) to 1 (diagonal), a number or a scalar; see ``correlation_shrinkage``.

    Returns:
      ``CovarianceMoments``, ``[d]`` and ``[d, d]``.

    Raises:
      ValueError: the shapes do not match, or ``shrinkage`` is not in [0, 1].
    """
    cov = _arrays.covariance("shrink_covariance", *moments)
    _arrays.require_between("shrink_covariance", 0, 1, shrinkage=shrinkage)
    _arrays.require_rank("shrink_covariance", 0, shrinkage=shrinkage)
    kept = 1.0 - jnp.asarray(shrinkage).astype(cov.dtype)
    return CovarianceMoments(
        _arrays.at_least_float32(moments.mean), cov * jnp.where(jnp.eye(len(cov), dtype=bool), 1.0, kept)
    )


def correlation_shrinkage(count: float | jax.Array, latent_dim: int) -> jax.Array:
    """Shrinkage for a covariance that was estimated on ``count`` codes, ``max(0.01, d / (count + d))``.

    The best intensity for correlations that were estimated on n codes is ``1 / (1 + n rho^2)`` with the true
    correlations' root mean square rho (Schaefer and Strimmer, 2005; the variance of one estimate is 1/n). Here rho^2 is
    taken as 1/d, which is a total correlation of a quarter of a nat per dimension, and what n = d independent codes
    show by chance. So with few codes the covariance is nearly diagonal, and the correlations count as they become
    known. Independent codes show at most d/16 nats, at n = d, instead of ``d (d - 1) / (4 n)``. With 0.01 or more, the
    Cholesky factor of 512 dimensions is finite in float32 for any codes.

    Args:
      count: number of codes, for instance of ``codes_in_average``; a number or a scalar.
      latent_dim: d.

    Returns:
      A scalar, from 0.01 to 1.

    Raises:
      ValueError: ``count`` is negative.
    """
    _arrays.require_between("correlation_shrinkage", 0, float("inf"), count=count)
    return jnp.maximum(0.01, latent_dim / (_arrays.as_float(count) + latent_dim))


def combine_moments(
    moments: Moments | CovarianceMoments, weights: jax.Array | None = None
) -> Moments | CovarianceMoments:
    """Moments of the union of populations, ``m = sum_k w_k m_k``, ``v = sum_k w_k (v_k + (m_k - m)^2)``.

    Of covariances, ``V = sum_k w_k (V_k + (m_k - m)(m_k - m)^T)``. From the moments of the parts of a batch, it gives
    exactly those of the complete batch. This is the first of the two passes of gradient accumulation (see
    ``anchored_moments``).

    Args:
      moments: ``[k, d]`` each, those of k populations; or ``[k, d]`` and ``[k, d, d]``.
      weights: ``[k]``, numbers of codes, in any unit; None if all populations have the same number.

    Returns:
      ``Moments`` with ``[d]`` each, or ``CovarianceMoments``.

    Raises:
      ValueError: the shapes do not match.
    """
    _arrays.require_rank("combine_moments", 2, mean=moments.mean)
    count, size = jnp.shape(moments.mean)
    of_covariances = isinstance(moments, CovarianceMoments)
    _arrays.require_shape("combine_moments", moments._fields[1], moments[1], (count, size, size)[: 2 + of_covariances])
    mean, spread = (_arrays.at_least_float32(moment) for moment in moments)
    weights = jnp.ones(count, mean.dtype) if weights is None else jnp.asarray(weights).astype(mean.dtype)
    _arrays.require_shape("combine_moments", "weights", weights, (count,))
    shares = (weights / jnp.sum(weights))[:, None]
    combined = jnp.sum(shares * mean, axis=0)
    distance = mean - combined[None, :]
    if of_covariances:
        between = distance[:, :, None] * distance[:, None, :]
        return CovarianceMoments(combined, jnp.sum(shares[:, :, None] * (spread + between), axis=0))
    return Moments(combined, jnp.sum(shares * (spread + jnp.square(distance)), axis=0))
