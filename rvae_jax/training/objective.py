"""The terms of a configuration's objective, for one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from rvae_jax import losses
from rvae_jax.models import Reconstruction

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Terms = dict[str, jax.Array]  # scalars by name


def term_weights(loss: LossConfig, step: jax.Array) -> Terms:
    """Weight of every term at a step, by the term's name; the discriminator's own loss has no ramp."""
    kl = losses.ramp(step, loss.kl_start_step, loss.kl_ramp_steps)
    adversarial = losses.ramp(step, loss.adversarial_start_step, loss.adversarial_ramp_steps)
    return {
        "reconstruction": jnp.float32(loss.reconstruction_weight),
        "standard_kl": loss.beta * kl,
        "population_kl": loss.population_weight * kl,
        "variance_regularizer": loss.variance_weight * kl,
        "adversarial": loss.adversarial_weight * adversarial,
        "discriminator": jnp.float32(loss.adversarial_weight),
        "r1": jnp.float32(loss.adversarial_weight * loss.r1_weight),
        "lecam": jnp.float32(loss.adversarial_weight * loss.lecam_weight),
    }


def population_moments(
    loss: LossConfig, mean: jax.Array, log_var: jax.Array, axis_name: str | None, anchor: losses.Moments | None = None
) -> losses.Moments:
    """Moments of the population of codes, by the configuration's convention.

    Args:
      loss: the objective.
      mean: means of the posteriors, ``[b, d]``.
      log_var: their log variances, ``[b, d]``.
      axis_name: mapped axis over which the batch is split, or None.
      anchor: moments of a larger batch that these codes are a part of, or None; see ``losses.anchored_moments``.
    """
    codes = mean, log_var if loss.moments == "mixture" else None
    if anchor is None:
        return losses.batch_moments(*codes, axis_name=axis_name)
    return losses.anchored_moments(anchor, *codes, axis_name=axis_name)


def vae_terms(
    loss: LossConfig,
    weights: Terms,
    result: Reconstruction,
    images: jax.Array,
    moments: Callable[[jax.Array, jax.Array], losses.Moments],
) -> tuple[jax.Array, Terms]:
    """The VAE's loss without the adversarial term: its weighted sum, and its terms unweighted.

    Args:
      loss: the objective.
      weights: of ``term_weights``.
      result: of the VAE.
      images: that it was given.
      moments: from means and log variances to the moments of the population.
    """
    reconstruction = losses.l1_reconstruction(result.x_hat, images)
    if loss.kl == "standard":
        terms = {
            "reconstruction": jnp.mean(reconstruction),
            "standard_kl": jnp.mean(losses.gaussian_kl(result.mean, result.log_var)),
        }
        return sum(weights[name] * term for name, term in terms.items()), terms
    elbo = losses.mixture_elbo(
        reconstruction,
        result.mean,
        result.log_var,
        moments=moments(result.mean, result.log_var),
        reconstruction_weight=weights["reconstruction"],
        population_weight=weights["population_kl"],
        variance_weight=weights["variance_regularizer"],
        variance_target=loss.variance_target,
    )
    terms = elbo._asdict()
    return terms.pop("total"), terms
