"""Complete objectives of a VAE: the paper's, and the standard one that it is compared with."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays
from rvae_jax.losses.kl import gaussian_kl, population_kl, variance_regularizer
from rvae_jax.losses.moments import CovarianceMoments, Moments, batch_moments

MomentsKind = Literal["means", "mixture"]


class MixtureELBO(NamedTuple):
    """The terms of ``mixture_elbo``, scalars, equal on all devices.

    Attributes:
      total: the loss of the VAE, the weighted sum of the others.
      reconstruction: mean over the batch, unweighted.
      population_kl: nats per image, unweighted.
      variance_regularizer: mean over the batch, nats per image, unweighted.
    """

    total: jax.Array
    reconstruction: jax.Array
    population_kl: jax.Array
    variance_regularizer: jax.Array


def mixture_elbo(
    reconstruction: jax.Array,
    mean: jax.Array,
    log_var: jax.Array,
    *,
    moments: MomentsKind | Moments | CovarianceMoments = "means",
    reconstruction_weight: float | jax.Array = 5000.0,
    population_weight: float | jax.Array = 1.0,
    variance_weight: float | jax.Array = 0.2,
    variance_target: float = 1.0,
    axis_name: str | None = None,
) -> MixtureELBO:
    """The objective of "How to train your VAE" without its GAN term: a loss, to be minimised.

    ``w_r mean_i(reconstruction_i) + w_p KL(N(m, v) || N(0, I)) + w_v mean_i sum_d 1/2 (s/t - 1 - log(s/t))``

    with m, v the moments of the population of codes and ``s = exp(log_var)`` (Rivera, ICIP 2024). The defaults, with
    ``l1_reconstruction``, are those of the released code; its GAN term is ``100 * mean(generator_loss(...))``.

    It is not a bound of the likelihood. Its population term is the KL of a Gaussian with the population's moments, not
    that of the mixture itself (``mixture_kl``). Where the two KL terms are zero depends on the moments and on the
    target t; a large reconstruction weight makes s smaller than there:

    * "means" and t = 1 (the released code): Var_i(mean) = 1 and s = 1; the population has variance 2.
    * "mixture" and t = 1: Var_i(mean) = 0 and s = 1, **full collapse**: the KL terms favour codes without information,
      and only the reconstruction prevents it.
    * "mixture" and t < 1: Var_i(mean) = 1 - t and s = t. The population is N(0, I), and a code carries up to
      ``1/2 log(1/t)`` nats per dimension there.

    Args:
      reconstruction: ``[b]``, e.g. from ``l1_reconstruction``.
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.
      moments: which moments of the batch, see ``batch_moments``; or the moments themselves, see ``anchored_moments``
        and ``batch_covariance``.
      reconstruction_weight: w_r.
      population_weight: w_p.
      variance_weight: w_v.
      variance_target: t.
      axis_name: mapped axis over which the batch is split into equal parts; see ``batch_moments``. The terms are then
        means over all devices; the caller must still average the gradients.

    Returns:
      ``MixtureELBO``.

    Raises:
      ValueError: the shapes do not match, ``moments`` is unknown, or ``variance_target`` is out of range.
      TypeError: ``moments`` is neither a name nor one of the two types.
    """
    _arrays.require_codes("mixture_elbo", mean=mean, log_var=log_var)
    _arrays.require_shape("mixture_elbo", "reconstruction", reconstruction, jnp.shape(mean)[:1])
    _arrays.require_rank(
        "mixture_elbo",
        0,
        reconstruction_weight=reconstruction_weight,
        population_weight=population_weight,
        variance_weight=variance_weight,
    )
    if moments == "means":
        moments = batch_moments(mean, axis_name=axis_name)
    elif moments == "mixture":
        moments = batch_moments(mean, log_var, axis_name=axis_name)
    elif isinstance(moments, str):
        raise ValueError(f"mixture_elbo: moments is {moments!r}, expected 'means', 'mixture', or Moments")
    population = population_kl(moments)
    _arrays.require_shape("mixture_elbo", "moments.mean", moments.mean, jnp.shape(mean)[1:])
    mean_reconstruction = _arrays.batch_mean(_arrays.at_least_float32(reconstruction), axis_name)
    regularizer = _arrays.batch_mean(variance_regularizer(log_var, target=variance_target), axis_name)
    total = reconstruction_weight * mean_reconstruction + population_weight * population + variance_weight * regularizer
    return MixtureELBO(total, mean_reconstruction, population, regularizer)


def beta_vae(
    reconstruction: jax.Array, mean: jax.Array, log_var: jax.Array, *, beta: float | jax.Array = 1.0
) -> jax.Array:
    """The standard VAE's objective with a weight on its KL, ``reconstruction_i + beta KL(N(mean_i, s_i) || N(0, I))``.

    beta-VAE (Higgins et al., 2017); with beta = 1 and a negative log likelihood (``gaussian_nll``, ``laplace_nll``) it
    is the negative ELBO. Unlike in ``mixture_elbo``, images do not interact, so the result is one value per image. With
    a mean over pixels instead of a sum, as in ``l1_reconstruction``, beta is effectively larger by ``h w c``. The
    paper's comparison is ``5000 * l1_reconstruction`` with beta = 1.

    Args:
      reconstruction: ``[b]``, with the caller's weight.
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.
      beta: weight of the KL.

    Returns:
      ``[b]``, to be minimised.

    Raises:
      ValueError: the shapes do not match.
    """
    _arrays.require_rank("beta_vae", 0, beta=beta)
    kl = gaussian_kl(mean, log_var)
    _arrays.require_shape("beta_vae", "reconstruction", reconstruction, kl.shape)
    return _arrays.at_least_float32(reconstruction) + beta * kl
