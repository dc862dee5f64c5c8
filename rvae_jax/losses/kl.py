"""KL divergences to the prior in closed form: of each posterior, and of the population of codes."""

import math

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays
from rvae_jax.losses.moments import CovarianceMoments, Moments


def gaussian_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL(N(mean, s) || N(0, I)) of each image, ``sum_d 1/2 (mean^2 + s - 1 - log s)`` with ``s = exp(log_var)``.

    The KL of the standard VAE (Kingma and Welling, 2014); its mean over the data is called the rate. Averaging over d
    instead of summing divides the KL's weight by d.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.

    Returns:
      ``[b]``, nats per image, 0 or more.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    _arrays.require_codes("gaussian_kl", mean=mean, log_var=log_var)
    return jnp.sum(kl_by_dimension(mean, log_var), axis=-1)


def kl_by_dimension(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """The terms of ``gaussian_kl`` before the sum over d, ``1/2 (mean^2 + s - 1 - log s)``.

    Args:
      mean: any shape.
      log_var: natural logarithm of the variances, of the same shape.

    Returns:
      The same shape, nats per image and dimension, 0 or more.

    Raises:
      ValueError: the shapes differ.
    """
    _arrays.require_same_shape("kl_by_dimension", mean=mean, log_var=log_var)
    log_var = _arrays.guarded_log_var(log_var)
    return 0.5 * (jnp.expm1(log_var) - log_var + jnp.square(_arrays.at_least_float32(mean)))


def variance_regularizer(log_var: jax.Array, *, target: float = 1.0) -> jax.Array:
    """Pulls every posterior variance to a target t, ``sum_d 1/2 (s/t - 1 - log(s/t))`` with ``s = exp(log_var)``.

    It is KL(N(0, s) || N(0, t)). The released code has ``0.1 * mean_i sum_d (s - 1 - log s)``, which is a weight of 0.2
    with t = 1. With the "mixture" moments, t = 1 favours codes without information; see ``mixture_elbo``.

    Args:
      log_var: natural logarithm of the variances, ``[b, d]``.
      target: the variance t at which the term is zero, from 1e-14 to 1e14.

    Returns:
      ``[b]``, nats per image, 0 or more.

    Raises:
      ValueError: ``log_var`` is not ``[b, d]``, or ``target`` is out of range.
    """
    _arrays.require_codes("variance_regularizer", log_var=log_var)
    _arrays.require_between("variance_regularizer", _arrays.VARIANCE_FLOOR, 1 / _arrays.VARIANCE_FLOOR, target=target)
    log_var = _arrays.guarded_log_var(log_var)
    log_ratio = log_var - jnp.log(jnp.asarray(target, log_var.dtype))
    return 0.5 * jnp.sum(jnp.expm1(log_ratio) - log_ratio, axis=-1)


def population_kl(moments: Moments | CovarianceMoments) -> jax.Array:
    """KL(N(m, V) || N(0, I)) of the moment-matched Gaussian, ``1/2 (m^T m + tr V - d - log det V)``.

    With diagonal ``Moments`` that is the paper's ``sum_d 1/2 (m^2 + v - 1 - log v)``. With ``CovarianceMoments`` it is
    larger by ``gaussian_total_correlation``, so that correlations between dimensions cost as well. With the "mixture"
    moments, both are lower bounds of the KL of the mixture itself (estimated by ``mixture_kl``); the second is tighter.
    With the "means" moments of N Gaussian codes, the first overestimates by ``small_batch_bias(N)`` per dimension, a
    constant without gradient. The second overestimates far more, and with a gradient, unless N is well above d (see
    ``batch_covariance``).

    Args:
      moments: ``[d]`` each, see ``batch_moments``; or ``[d]`` and ``[d, d]``, see ``batch_covariance``, with a
        shrinkage of at least 0.01 unless N is several times d.

    Returns:
      A scalar, nats per image, 0 or more.

    Raises:
      ValueError: the shapes do not match.
      TypeError: ``moments`` is neither of the two.
    """
    if isinstance(moments, CovarianceMoments):
        correlated = gaussian_total_correlation(moments)
        return population_kl(Moments(moments.mean, jnp.diagonal(moments.cov))) + correlated
    if not isinstance(moments, Moments):
        raise TypeError(
            f"population_kl: moments is a {type(moments).__name__}, expected Moments or CovarianceMoments;"
            " of a MomentsAverage pass anchored_moments(average.moments, mean)"
        )
    _arrays.require_same_shape("population_kl", mean=moments.mean, var=moments.var)
    _arrays.require_rank("population_kl", 1, mean=moments.mean)
    mean, var = (_arrays.at_least_float32(moment) for moment in moments)
    return 0.5 * jnp.sum(jnp.square(mean) + var - 1.0 - jnp.log(_arrays.floored(var)))


def gaussian_total_correlation(moments: CovarianceMoments) -> jax.Array:
    """Total correlation of the moment-matched Gaussian, ``-1/2 log det R`` with the correlation matrix R.

    The KL from N(m, V) to the Gaussian with the same variances and no correlation (Watanabe, 1960).

    Args:
      moments: see ``batch_covariance``. The covariance must have full rank, or must have been shrunk.

    Returns:
      A scalar, nats, 0 or more.

    Raises:
      ValueError: the shapes are not ``[d]`` and ``[d, d]``.
    """
    cov = _arrays.covariance("gaussian_total_correlation", *moments)
    deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(cov), _arrays.VARIANCE_FLOOR))
    correlation = cov / deviation[:, None] / deviation[None, :]
    # Variances are at least the floor, as in the diagonal part.
    correlation = jnp.where(jnp.eye(len(cov), dtype=bool), 1.0, correlation)
    return -0.5 * _log_det(correlation)


@jax.custom_jvp
def _log_det(matrix: jax.Array) -> jax.Array:
    """Logarithm of the determinant of a symmetric positive matrix, by Cholesky."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix))))


@_log_det.defjvp
def _log_det_jvp(matrices: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """``d log det = sum inverse * d``, from the same factor, which takes a third of the time of differentiating it."""
    factor = jnp.linalg.cholesky(matrices[0])
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(factor), dtype=factor.dtype))
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor))), jnp.sum(inverse * tangents[0])


def small_batch_bias(batch_size: int) -> float:
    """Excess of ``population_kl(batch_moments(mean))`` over the population's KL for N Gaussian codes, per dimension.

    ``c(N) = -1/2 [digamma((N - 1)/2) + log(2/N)]``, the expectation of ``-1/2 log v`` with v the 1/N variance of N unit
    normals; the terms ``m^2 + v`` add no excess. It is 0.110 at N = 10 and 0.0079 at N = 128, or 56 and 4 nats for 512
    dimensions. It does not depend on the codes' mean and scale, so the gradient in these is unbiased (with 1/(N - 1) it
    would not be). It does depend on the shape of their distribution: at N = 10 it is 0.17 for Laplace and 0.08 for
    uniform codes. Subtract ``d * small_batch_bias(N)`` in reports; in the loss it changes nothing.

    Args:
      batch_size: N, of the global batch; at least 2.

    Returns:
      Nats per image and dimension.

    Raises:
      ValueError: ``batch_size`` is less than 2.
    """
    from scipy import special  # a dependency of JAX, imported only where it is used

    if batch_size < 2:
        raise ValueError(f"small_batch_bias: batch_size is {batch_size}, expected 2 or more")
    return float(-0.5 * (special.digamma((batch_size - 1) / 2) + math.log(2 / batch_size)))
