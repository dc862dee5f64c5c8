"""The VAE's objective for one batch: the terms' weights, the terms of images, and their sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from rvae_jax import losses
from rvae_jax.models import Reconstruction

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Terms = dict[str, jax.Array]  # scalars by name


def ramps(loss: LossConfig, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shares of their full weights that the KL terms and the generator's loss have at a step.

    Raises:
      ValueError: a start or a ramp is a share of the run; expected are steps, which ``config.in_steps`` makes of it.
    """
    lengths = (loss.kl_start, loss.kl_ramp), (loss.adversarial_start, loss.adversarial_ramp)
    for start, ramp in lengths:
        if 0 < start < 1 or 0 < ramp < 1:
            raise ValueError(f"a start of {start} with a ramp of {ramp}: expected steps; see rvae_jax.config.in_steps")
    kl, adversarial = (losses.ramp(step, int(start), int(ramp)) for start, ramp in lengths)
    return kl, adversarial


def term_weights(loss: LossConfig, step: jax.Array) -> Terms:
    """Weight of every term at a step, by the term's name; the discriminator's own loss has no ramp."""
    kl, adversarial = ramps(loss, step)
    return {
        "reconstruction": jnp.float32(loss.reconstruction_weight),
        "perceptual": jnp.float32(loss.perceptual_weight),
        "standard_kl": loss.beta * kl,
        "free_bits_kl": loss.beta * kl,
        "population_kl": loss.population_weight * kl,
        "variance_regularizer": loss.variance_weight * kl,
        "mixture_kl": loss.mixture_kl_weight * kl,
        "total_correlation": loss.total_correlation_weight * kl,
        "mmd": loss.mmd_weight * kl,
        "sliced": loss.sliced_weight * kl,
        "dip": loss.dip_weight * kl,
        "adversarial": loss.adversarial_weight * adversarial,
        "discriminator": jnp.float32(loss.adversarial_weight),
        "r1": jnp.float32(loss.adversarial_weight * loss.r1_weight),
        "lecam": jnp.float32(loss.adversarial_weight * loss.lecam_weight),
    }


def vae_terms(
    loss: LossConfig,
    weights: Terms,
    result: Reconstruction,
    images: jax.Array,
    others: Terms,
    axis_name: str | None,
) -> tuple[jax.Array, Terms]:
    """The VAE's loss without the adversarial term: its weighted sum, and its terms unweighted.

    Args:
      loss: the objective.
      weights: of ``term_weights``.
      result: of the VAE.
      images: that it was given.
      others: the other terms, of ``perceptual`` and ``code_terms``.
      axis_name: mapped axis over which the batch is split, or None.
    """
    terms = {"reconstruction": jnp.mean(_reconstruction(loss, result.x_hat, images, axis_name))} | others
    return sum(weights[name] * term for name, term in terms.items()), terms


def _reconstruction(loss: LossConfig, x_hat: jax.Array, images: jax.Array, axis_name: str | None) -> jax.Array:
    """Of each image, ``[b]``; likelihoods have the scale that fits the batch best (sigma-VAE)."""
    match loss.reconstruction:
        case "l1":
            return losses.l1_reconstruction(x_hat, images)
        case "l2":
            return losses.l2_reconstruction(x_hat, images)
    likelihood = {"gaussian": losses.gaussian_nll, "laplace": losses.laplace_nll}[loss.reconstruction]
    scale = losses.optimal_log_scale(x_hat, images, kind=loss.reconstruction, axis_name=axis_name)
    return likelihood(x_hat, images, scale)
