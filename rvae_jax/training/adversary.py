"""The discriminator's side of a step: what it judges, both players' terms, and what steadies the game.

A *fake* is a reconstruction or, with ``loss.prior_fakes``, a *sample*: an image decoded from a code drawn from N(0, I).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax import losses
from rvae_jax.models import VAE, Discriminator, Reconstruction
from rvae_jax.training.draws import rows_of_batch

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Terms = dict[str, jax.Array]  # scalars by name
Draws = dict[str, jax.Array]  # random numbers by purpose, one row an image or a code
Lengths = dict[str, jax.Array]  # squared lengths of gradients by term

# Of the averages behind the adaptive weight: they remember some hundred steps.
RATIO_DECAY = 0.99


class Judgement(NamedTuple):
    """The discriminator's logits, ``[n, h, w, 1]`` each.

    Attributes:
      real: of images.
      fakes: of reconstructions and, if there are any, of samples; without a gradient to the VAE.
      fakes_for_vae: the same logits, without a gradient to the discriminator's weights.
    """

    real: jax.Array
    fakes: list[jax.Array]
    fakes_for_vae: list[jax.Array]


def make_draws(loss: LossConfig, key: jax.Array, rows: int, latent_dim: int, axis_name: str | None) -> Draws:
    """The random numbers that a step needs besides the codes' noise; none unless the objective asks for them.

    Args:
      loss: the objective.
      key: of the step.
      rows: b, images of a device.
      latent_dim: d.
      axis_name: see ``draws.rows_of_batch``.

    Returns:
      ``prior``: codes from N(0, I), ``[share b, d]``.
    """
    draws = {}
    if loss.prior_fakes:
        shape = round(loss.prior_fakes * rows), latent_dim
        draws["prior"] = rows_of_batch(jax.random.normal, jax.random.fold_in(key, 1), shape, axis_name)
    return draws


def run_vae(
    vae: VAE, variables: Any, images: jax.Array, noise: jax.Array, draws: Draws
) -> tuple[Reconstruction, list[jax.Array], Any]:
    """One pass of the VAE in training; returns its result, all fakes, and the norms' new statistics.

    Args:
      vae: the network.
      variables: its weights and statistics.
      images: ``[b, H, W, C]``.
      noise: ``[b, d]``.
      draws: of ``make_draws``.
    """
    apply = functools.partial(vae.apply, variables, images, noise, train=True, mutable=["batch_stats"])
    if "prior" not in draws:
        result, updates = apply()
        return result, [result.x_hat], updates
    (result, samples), updates = apply(prior=draws["prior"], method="reconstruct_and_sample")
    return result, [result.x_hat, samples], updates


def judge(
    discriminator: Discriminator, params: Any, batch_stats: Any, images: jax.Array, fakes: list[jax.Array]
) -> tuple[Judgement, Any]:
    """Shows the discriminator images, then the fakes; returns its logits, and its norms' statistics after all of them.

    Args:
      discriminator: the network.
      params: its weights.
      batch_stats: its norms' statistics.
      images: ``[b, H, W, C]``.
      fakes: reconstructions and, if there are any, samples, ``[n, H, W, C]`` each.
    """

    def apply(params: Any, batch_stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        result, updates = discriminator.apply(variables, images, train=True, mutable=["batch_stats"])
        return result, updates["batch_stats"]

    real, batch_stats = apply(params, batch_stats, images)
    judgement = Judgement(real, [], [])
    for fake in fakes:
        logits, after = apply(params, batch_stats, jax.lax.stop_gradient(fake))
        # The same computation as the line above, with the gradient stopped elsewhere: XLA does it once.
        for_vae, _ = apply(jax.lax.stop_gradient(params), batch_stats, fake)
        judgement.fakes.append(logits)
        judgement.fakes_for_vae.append(for_vae)
        batch_stats = after
    return judgement, batch_stats


def adversarial_terms(loss: LossConfig, judgement: Judgement) -> tuple[Terms, Terms]:
    """Both players' adversarial terms, unweighted, and the discriminator's accuracies.

    ``loss.prior_fakes`` is the samples' share s of the fakes: ``(1 - s) E[reconstructions] + s E[samples]``.
    """
    kind, (real, fakes, fakes_for_vae) = loss.adversarial, judgement
    adversarial = [jnp.mean(losses.generator_loss(logits, kind=kind)) for logits in fakes_for_vae]
    discriminator = jnp.mean(losses.discriminator_loss(real, fakes[0], kind=kind))
    threshold = losses.DECISION_THRESHOLD[kind]
    accuracies = {
        "discriminator/accuracy_real": jnp.mean(real > threshold),
        "discriminator/accuracy_fake": jnp.mean(fakes[0] < threshold),
    }
    if loss.prior_fakes:
        of_fakes = [jnp.mean(losses.fake_loss(logits, kind=kind)) for logits in fakes]
        discriminator += _mean_of_fakes(loss, of_fakes) - of_fakes[0]
        accuracies["discriminator/accuracy_prior"] = jnp.mean(fakes[1] < threshold)
    return {"adversarial": _mean_of_fakes(loss, adversarial), "discriminator": discriminator}, accuracies


def _mean_of_fakes(loss: LossConfig, means: list[jax.Array]) -> jax.Array:
    """The mean over all fakes, from that of reconstructions and, if there are any, that of samples."""
    if not loss.prior_fakes:
        return means[0]
    return (1.0 - loss.prior_fakes) * means[0] + loss.prior_fakes * means[1]


def first_running(loss: LossConfig) -> dict[str, Any]:
    """The running statistics of the discriminator's side before the first step."""
    running = {}
    if loss.adaptive_weight:
        running["adversarial_ratio"] = first_lengths()
    return running


def next_running(running: dict[str, Any], gradients: dict[str, Any]) -> dict[str, Any]:
    """The running statistics after a step, from its gradient, a mean over the parts of the batch."""
    if "adversarial_ratio" not in running:
        return running
    averages = jax.tree.map(
        lambda average, new: RATIO_DECAY * average + (1.0 - RATIO_DECAY) * new,
        running["adversarial_ratio"],
        gradients["lengths"],
    )
    return running | {"adversarial_ratio": averages}


def first_lengths() -> Lengths:
    """Zeros: averages before the first step, and what ``measure`` takes the gradient in."""
    return {"reconstruction": jnp.zeros(()), "adversarial": jnp.zeros(())}


def adaptive_factor(loss: LossConfig, averages: Lengths) -> jax.Array:
    """Factor that makes the generator's gradient in a reconstruction as long as that of the terms of likeness.

    The lengths are root mean squares over images and past steps, so that no single batch decides, and a discriminator
    that gets stronger lowers the factor at once. The factor is at most 1e4, and 0 at the first step, before anything is
    measured. VQGAN (Esser et al., 2021) compares gradients in the decoder's last weights, in the latest batch.
    """
    # The averages begin at 0 and are too small by one common factor, which the ratio does not have.
    reconstruction, adversarial = (jnp.sqrt(averages[name]) for name in ("reconstruction", "adversarial"))
    return losses.adaptive_generator_weight(reconstruction, adversarial / (1.0 - loss.prior_fakes))


def measure(fakes: list[jax.Array], lengths: Lengths, weight: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """The reconstructions for the terms of likeness, and the fakes for the discriminator, with gradients measured.

    The gradient of a loss in ``lengths`` is the mean, over images, of the squared length of the gradient that an
    image's own loss has in its reconstruction. On its way back to the VAE, the discriminator's gradient is multiplied
    by ``weight``, after it is measured.

    Args:
      fakes: reconstructions and, if there are any, samples.
      lengths: of ``first_lengths``.
      weight: scalar.
    """
    x_hat, *samples = fakes
    alike = _measured(x_hat, lengths["reconstruction"], jnp.ones(()))
    judged = [_measured(x_hat, lengths["adversarial"], weight)]
    return alike, judged + [_measured(images, jnp.zeros(()), weight) for images in samples]


@jax.custom_vjp
def _measured(images: jax.Array, square: jax.Array, weight: jax.Array) -> jax.Array:
    del square, weight
    return images


def _measured_forward(images: jax.Array, square: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    del square
    return images, weight


def _measured_backward(weight: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # The cotangent is of the mean over b images: b times it belongs to each image's own loss.
    square = cotangent.shape[0] * jnp.sum(jnp.square(cotangent))
    return weight * cotangent, square, jnp.zeros_like(weight)


_measured.defvjp(_measured_forward, _measured_backward)
