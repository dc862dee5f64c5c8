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
        "standard_kl": loss.beta * kl,
        "population_kl": loss.population_weight * kl,
        "variance_regularizer": loss.variance_weight * kl,
        "adversarial": loss.adversarial_weight * adversarial,
        "discriminator": jnp.float32(loss.adversarial_weight),
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


def adversarial_terms(
    loss: LossConfig, real: jax.Array, fake: jax.Array, fake_for_vae: jax.Array
) -> tuple[Terms, Terms]:
    """Both players' adversarial terms, unweighted, and the discriminator's accuracies.

    Args:
      loss: the objective.
      real: logits of images.
      fake: logits of reconstructions, without a gradient to the VAE.
      fake_for_vae: the same logits, without a gradient to the discriminator's weights.
    """
    terms = {
        "adversarial": jnp.mean(losses.generator_loss(fake_for_vae, kind=loss.adversarial)),
        "discriminator": jnp.mean(losses.discriminator_loss(real, fake, kind=loss.adversarial)),
    }
    threshold = losses.DECISION_THRESHOLD[loss.adversarial]
    accuracies = {
        "discriminator/accuracy_real": jnp.mean(real > threshold),
        "discriminator/accuracy_fake": jnp.mean(fake < threshold),
    }
    return terms, accuracies
