"""The mixture of the batch's posteriors, by Monte Carlo: its KL, its information, its decomposition.

The mixture is ``q(z) = 1/N sum_j N(z; mean_j, s_j)``. It is evaluated at one code of each posterior, ``z_i = mean_i +
sqrt(s_i) noise_i``. The caller passes the noise, so that the functions are pure; for a smaller error, ``jax.vmap`` over
several draws of it. The work is O(N^2 d), since every pair of images is compared, and gradients keep three or four
arrays ``[N, N, d]`` (0.4 to 0.5 GB at N = 256, d = 512). In densities, a variance is at least ``VARIANCE_FLOOR``.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays

Weighting = Literal["stratified", "weighted"]


class KLDecomposition(NamedTuple):
    """Three parts of the KL, ``[b]`` each, nats per image; their sum is ``log q(z|x) - log p(z)``.

    Attributes:
      mutual_information: ``log q(z|x) - log q(z)``, of image and code.
      total_correlation: ``log q(z) - sum_d log q(z_d)``.
      dimension_kl: ``sum_d [log q(z_d) - log p(z_d)]``.
    """

    mutual_information: jax.Array
    total_correlation: jax.Array
    dimension_kl: jax.Array


def mixture_kl(mean: jax.Array, log_var: jax.Array, noise: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """KL(q(z) || N(0, I)) of the batch's mixture, estimated by ``log q(z_i) - log p(z_i)``.

    The mean over the batch is an unbiased estimate of the mixture's KL. As an estimate of the KL of the mixture over
    the data set it is too high, since N posteriors cover less than all of them. It is at most log N below the mean KL
    (Hoffman and Johnson, 2016).

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.
      noise: standard normal, ``[b, d]``; different on each device.
      axis_name: mapped axis over which the batch is split into equal parts; the mixture is then that of all parts. The
        caller averages the result over devices.

    Returns:
      ``[b]``, nats per image.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    codes = _draw("mixture_kl", mean, log_var, noise, axis_name)
    return _log_mixture(codes) - jnp.sum(codes.log_prior, axis=-1)


def mutual_information(
    mean: jax.Array, log_var: jax.Array, noise: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Information that a code carries about its image's index in the batch, by ``log q(z_i|x_i) - log q(z_i)``.

    Its mean is at most log N. In expectation it is a lower bound of the information about the image's index in the data
    set; near log N, the batch is too small for the bound to be tight. Its sum with ``mixture_kl`` of the same noise is
    a Monte Carlo estimate of the mean KL (Hoffman and Johnson, 2016).

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.
      noise: standard normal, ``[b, d]``; different on each device.
      axis_name: as in ``mixture_kl``.

    Returns:
      ``[b]``, nats per image, at most log N; the expectation of its mean is 0 or more.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    codes = _draw("mutual_information", mean, log_var, noise, axis_name)
    return jnp.sum(codes.log_posterior, axis=-1) - _log_mixture(codes)


def kl_decomposition(
    mean: jax.Array,
    log_var: jax.Array,
    noise: jax.Array,
    *,
    dataset_size: int,
    weighting: Weighting = "stratified",
    axis_name: str | None = None,
) -> KLDecomposition:
    """Mutual information, total correlation and dimension-wise KL (beta-TCVAE: Chen et al., 2018).

    beta-TCVAE minimises ``reconstruction + mutual_information + beta total_correlation + dimension_kl``. The density of
    the mixture over the data set, of D images, is estimated from the batch, of N images, as ``sum_j w_ij q(z_i|x_j)``:

    * "stratified": ``w_ii = 1/D``, and ``w_ij = (D - 1) / (D (N - 1))`` for the others. This is an unbiased estimate of
      q(z_i) if the others are drawn without replacement. It is the paper's minibatch stratified sampling, averaged over
      the order of the batch (the paper gives one of the others another weight); averaging lowers the variance a little
      unless N is much smaller than D. The reference code, and libraries that copy it, have 1/D in the first column of w
      instead of on its diagonal, and so overestimate q(z_i). The logarithm of an unbiased density is a little too low.
    * "weighted": ``w_ij = 1/(D N)``, the paper's minibatch weighted sampling. The parts are those of the mixture of the
      batch, shifted by ``log D``, ``(d - 1) log D`` and ``-d log D``; the gradients are the same.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.
      noise: standard normal, ``[b, d]``; different on each device.
      dataset_size: D, at least N.
      weighting: ``stratified`` or ``weighted``.
      axis_name: as in ``mixture_kl``.

    Returns:
      ``KLDecomposition`` with ``[b]`` each.

    Raises:
      ValueError: the shapes differ or are not ``[b, d]``, the global batch has one image or more than ``dataset_size``,
        or ``weighting`` is unknown.
    """
    codes = _draw("kl_decomposition", mean, log_var, noise, axis_name)
    size = codes.log_densities.shape[1]
    if not 2 <= size <= dataset_size:
        raise ValueError(f"kl_decomposition: expected 2 to dataset_size = {dataset_size} images in a batch, got {size}")
    match weighting:
        case "stratified":
            others = math.log((dataset_size - 1) / (dataset_size * (size - 1)))
            log_weights = jnp.where(codes.is_own, -math.log(dataset_size), others)
        case "weighted":
            log_weights = jnp.full(codes.is_own.shape, -math.log(dataset_size * size))
        case _:
            raise ValueError(f"kl_decomposition: weighting is {weighting!r}, expected 'stratified' or 'weighted'")
    log_weights = log_weights.astype(codes.log_densities.dtype)
    log_joint = jax.nn.logsumexp(jnp.sum(codes.log_densities, axis=-1) + log_weights, axis=1)
    log_marginals = jnp.sum(jax.nn.logsumexp(codes.log_densities + log_weights[:, :, None], axis=1), axis=-1)
    return KLDecomposition(
        mutual_information=jnp.sum(codes.log_posterior, axis=-1) - log_joint,
        total_correlation=log_joint - log_marginals,
        dimension_kl=log_marginals - jnp.sum(codes.log_prior, axis=-1),
    )


class _Codes(NamedTuple):
    """Log densities of codes drawn from the posteriors.

    Attributes:
      log_densities: ``[b, N, d]``, of code i under posterior j of the global batch.
      is_own: ``[b, N]``, whether j is i.
      log_posterior: ``[b, d]``, of code i under its own posterior.
      log_prior: ``[b, d]``, under N(0, 1).
    """

    log_densities: jax.Array
    is_own: jax.Array
    log_posterior: jax.Array
    log_prior: jax.Array


def _draw(function: str, mean: jax.Array, log_var: jax.Array, noise: jax.Array, axis_name: str | None) -> _Codes:
    _arrays.require_codes(function, mean=mean, log_var=log_var, noise=noise)
    mean, log_var, noise = (_arrays.at_least_float32(array) for array in (mean, log_var, noise))
    log_var = _arrays.guard(log_var, _arrays.LOG_VARIANCE_FLOOR, _arrays.LOG_VAR_MAX)
    offset = jnp.exp(0.5 * log_var) * noise
    all_means, rows = _arrays.global_batch(mean, axis_name)
    all_log_vars, _ = _arrays.global_batch(log_var, axis_name)
    # A difference of means, not of codes: far from zero, a code's rounding error can exceed its posterior's width.
    distance = mean[:, None, :] - all_means[None, :, :] + offset[:, None, :]
    return _Codes(
        log_densities=_log_normal(distance * jnp.exp(-0.5 * all_log_vars)[None, :, :], all_log_vars[None, :, :]),
        is_own=rows[:, None] == jnp.arange(len(all_means))[None, :],
        log_posterior=_log_normal(noise, log_var),
        log_prior=_log_normal(mean + offset, jnp.zeros_like(mean)),
    )


def _log_mixture(codes: _Codes) -> jax.Array:
    joint = jnp.sum(codes.log_densities, axis=-1)
    return jax.nn.logsumexp(joint, axis=1) - math.log(joint.shape[1])


def _log_normal(standardised: jax.Array, log_var: jax.Array) -> jax.Array:
    return -0.5 * (jnp.square(standardised) + log_var + math.log(2 * math.pi))
