"""Regularizers of other VAEs, for comparison; beta-VAE is in ``elbo``, beta-TCVAE in ``mixture``."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays
from rvae_jax.losses.kl import kl_by_dimension
from rvae_jax.losses.moments import CovarianceMoments, Moments

IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class DIPPenalty(NamedTuple):
    """The two terms of ``dip_penalty``, scalars.

    Attributes:
      off_diagonal: ``sum_{i != j} cov_ij^2``.
      diagonal: ``sum_i (cov_ii - 1)^2``.
    """

    off_diagonal: jax.Array
    diagonal: jax.Array


def free_bits_kl(mean: jax.Array, log_var: jax.Array, *, free_nats: float, axis_name: str | None = None) -> jax.Array:
    """KL to the prior with a free amount per dimension, ``sum_d max(free_nats, mean_i KL_id)``.

    Free bits (Kingma et al., 2016), with one group per dimension. As in the paper, the batch's mean is compared.
    Clamping each image instead would remove the gradient of images below the amount, even in dimensions that are well
    used on average.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.
      free_nats: nats per image and dimension, the paper's lambda, 0 or more.
      axis_name: as in ``batch_moments``.

    Returns:
      A scalar, nats per image, at least ``d * free_nats``.

    Raises:
      ValueError: the shapes differ or are not ``[b, d]``, or ``free_nats`` is negative.
    """
    _arrays.require_codes("free_bits_kl", mean=mean, log_var=log_var)
    _arrays.require_between("free_bits_kl", 0, float("inf"), free_nats=free_nats)
    return jnp.sum(jnp.maximum(free_nats, _arrays.batch_mean(kl_by_dimension(mean, log_var), axis_name)))


def dip_penalty(moments: CovarianceMoments) -> DIPPenalty:
    """Distance of the codes' covariance from the identity, off and on the diagonal.

    DIP-VAE (Kumar et al., 2018) adds ``w_od off_diagonal + w_d diagonal`` to the ELBO. DIP-VAE-I uses
    ``batch_covariance(mean, shrinkage=0)``, and DIP-VAE-II ``batch_covariance(mean, log_var, shrinkage=0)``, the
    covariance of the mixture. Computed as ``E[z z^T] - E[z] E[z]^T``, it is lost to rounding far from zero.

    Args:
      moments: see ``batch_covariance``; covariances are clipped to 1e15 in size.

    Returns:
      ``DIPPenalty``.

    Raises:
      ValueError: the shapes are not ``[d]`` and ``[d, d]``.
    """
    cov = _arrays.covariance("dip_penalty", *moments)
    is_diagonal = jnp.eye(len(cov), dtype=bool)
    squares = _arrays.guarded_square(jnp.where(is_diagonal, cov - 1.0, cov))
    return DIPPenalty(
        off_diagonal=jnp.sum(jnp.where(is_diagonal, 0.0, squares)), diagonal=jnp.sum(jnp.diagonal(squares))
    )


def imq_mmd(
    z: jax.Array, prior: jax.Array, *, scales: Sequence[float] = IMQ_SCALES, axis_name: str | None = None
) -> jax.Array:
    """Squared maximum mean discrepancy of codes and draws from the prior, with the inverse multiquadratic kernel.

    ``mean_{i != j} k(z_i, z_j) + mean_{i != j} k(p_i, p_j) - 2 mean_ij k(z_i, p_j)`` with ``k(a, b) = sum_s C / (C + |a
    - b|^2)``, ``C = 2 d s``: the unbiased estimate, which can be negative. It is the regularizer of WAE-MMD (Tolstikhin
    et al., 2018) and, with this kernel instead of a Gaussian one, of InfoVAE (Zhao et al., 2019). Distances are
    computed from differences; ``|a|^2 + |b|^2 - 2 ab`` would be wrong for close codes far from zero.

    Args:
      z: codes, sampled or means, ``[b, d]``.
      prior: draws from N(0, I), ``[p, d]``; different on each device.
      scales: the s; 2 d is the mean squared distance of two draws from the prior.
      axis_name: mapped axis over which both are split into equal parts.

    Returns:
      A scalar, at most ``2 len(scales)`` in size.

    Raises:
      ValueError: the arrays are not ``[b, d]`` and ``[p, d]``, or there is only one code or one draw.
    """
    _arrays.require_rank("imq_mmd", 2, z=z, prior=prior)
    _arrays.require_shape("imq_mmd", "prior", prior, (jnp.shape(prior)[0], jnp.shape(z)[1]))
    z, prior = _arrays.at_least_float32(z), _arrays.at_least_float32(prior)
    all_z, z_rows = _arrays.global_batch(z, axis_name)
    all_prior, prior_rows = _arrays.global_batch(prior, axis_name)
    if min(len(all_z), len(all_prior)) < 2:
        raise ValueError(f"imq_mmd: expected at least 2 rows, got z {jnp.shape(z)} and prior {jnp.shape(prior)}")

    def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
        squares = jnp.sum(jnp.square(a[:, None, :] - b[None, :, :]), axis=-1)
        constants = [2.0 * a.shape[1] * scale for scale in scales]
        return sum(constant / (constant + squares) for constant in constants)

    def mean_of_pairs(a: jax.Array, all_a: jax.Array, rows: jax.Array) -> jax.Array:
        is_own = rows[:, None] == jnp.arange(len(all_a))[None, :]
        return jnp.sum(jnp.where(is_own, 0.0, kernel(a, all_a)), axis=1) / (len(all_a) - 1)

    within_z = _arrays.batch_mean(mean_of_pairs(z, all_z, z_rows), axis_name)
    within_prior = _arrays.batch_mean(mean_of_pairs(prior, all_prior, prior_rows), axis_name)
    across = _arrays.batch_mean(jnp.mean(kernel(z, all_prior), axis=1), axis_name)
    return within_z + within_prior - 2.0 * across


def batch_norm_kl_bound(moments: Moments) -> jax.Array:
    """Lower bound of the mean KL that follows from the means alone, ``sum_d 1/2 (m^2 + v)``.

    BN-VAE (Zhu et al., 2020) normalises the means over the batch to mean m and variance v, and so keeps the KL from
    vanishing. In any VAE, the mean of ``gaussian_kl`` is this bound plus the mean of ``variance_regularizer``.

    Args:
      moments: of the means, ``batch_moments(mean)``, ``[d]`` each.

    Returns:
      A scalar, nats per image, 0 or more.

    Raises:
      ValueError: the shapes differ, or are not ``[d]``.
    """
    _arrays.require_same_shape("batch_norm_kl_bound", mean=moments.mean, var=moments.var)
    _arrays.require_rank("batch_norm_kl_bound", 1, mean=moments.mean)
    mean, var = (_arrays.at_least_float32(moment) for moment in moments)
    return 0.5 * jnp.sum(jnp.square(mean) + var)
