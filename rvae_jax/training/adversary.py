"""The discriminator's side of a step: what it judges, both players' terms, and what steadies the game.

A *fake* is a reconstruction or, with ``loss.prior_fakes``, a *sample*: an image decoded from a code drawn from N(0, I).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax import losses
from rvae_jax.models import VAE, AnyDiscriminator, Reconstruction
from rvae_jax.models.features import crop
from rvae_jax.training.augmentation import NUMBERS, augment
from rvae_jax.training.draws import rows_of_batch
from rvae_jax.training.gradient_lengths import average_lengths, first_lengths
from rvae_jax.training.perceptual import draw_corners
from rvae_jax.training.state import TrainState

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Terms = dict[str, jax.Array]  # scalars by name
Draws = dict[str, Any]  # random numbers by purpose, one row an image or a code
Maps = list[jax.Array]  # logits by map

# Of LeCam's anchors, as in its released code.
LECAM_DECAY = 0.99
# The terms that are the discriminator's own.
OF_DISCRIMINATOR = ("discriminator", "r1", "lecam")


class Judgement(NamedTuple):
    """The discriminator's logits, ``[n, h, w, 1]`` each; of several maps where it looks at several sizes.

    Attributes:
      real: of images.
      fakes: of reconstructions and, if there are any, of samples; without a gradient to the VAE.
      fakes_for_vae: the same logits, without a gradient to the discriminator's weights.
    """

    real: Maps
    fakes: list[Maps]
    fakes_for_vae: list[Maps]


def make_draws(loss: LossConfig, key: jax.Array, images: jax.Array, latent_dim: int, axis_name: str | None) -> Draws:
    """The random numbers that a step needs besides the codes' noise; none unless the objective asks for them.

    Args:
      loss: the objective.
      key: of the step.
      images: of a device, ``[b, H, W, C]``; their values do not matter.
      latent_dim: d.
      axis_name: see ``draws.rows_of_batch``.

    Returns:
      ``prior``: codes from N(0, I), ``[share b, d]``; ``windows``: the corners of those of images, of reconstructions
      and, if there are any, of samples; ``augment``: for the same, see ``augmentation.augment``.
    """
    draws, rows = {}, len(images)
    samples = round(loss.prior_fakes * rows)
    if samples:
        shape = samples, latent_dim
        draws["prior"] = rows_of_batch(jax.random.normal, jax.random.fold_in(key, 1), shape, axis_name)
    if loss.discriminator_crop:
        draw = functools.partial(draw_corners, loss.discriminator_crop, axis_name=axis_name)
        # From the key of the perceptual term's, so that windows of the same size are the same.
        of_images = draw(key, images.shape)
        draws["windows"] = [of_images, of_images]
        if samples:
            draws["windows"].append(draw(jax.random.fold_in(key, 5), (samples, *images.shape[1:])))
    if loss.augment:
        draws["augment"] = [
            rows_of_batch(jax.random.uniform, jax.random.fold_in(key, 11 + kind), (count, NUMBERS), axis_name)
            for kind, count in enumerate((rows, rows, samples) if samples else (rows, rows))
        ]
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


def play(
    discriminator: AnyDiscriminator,
    loss: LossConfig,
    state: TrainState,
    params: Any,
    see: Callable[[jax.Array, jax.Array], Any],
    images: jax.Array,
    fakes: list[jax.Array],
    draws: Draws,
) -> tuple[Terms, Terms, Any]:
    """Both players' terms, unweighted; metrics of the discriminator; its norms' new statistics.

    Args:
      discriminator: the network.
      loss: the objective.
      state: the state before the step.
      params: the discriminator's weights, in which the gradient is taken.
      see: from images and windows of them to what the network takes, ``models.seen_by_discriminator``.
      images: ``[b, H, W, C]``.
      fakes: reconstructions and, if there are any, samples.
      draws: of ``make_draws``.
    """
    if loss.augment:
        pairs = zip([images, *fakes], draws["augment"], strict=True)
        images, *fakes = (augment(each, numbers, loss.augment) for each, numbers in pairs)
    shown = windows = [images, *fakes]
    if loss.discriminator_crop:
        pairs = zip(shown, draws["windows"], strict=True)
        windows = [crop(each, corners, loss.discriminator_crop) for each, corners in pairs]
    seen, *seen_fakes = map(see, shown, windows)
    judgement, batch_stats = judge(discriminator, params, state.discriminator.batch_stats, seen, seen_fakes)
    terms, metrics = adversarial_terms(loss, judgement)
    if loss.r1_weight:
        variables = {"params": params, "batch_stats": state.discriminator.batch_stats}
        terms["r1"] = _lazy_r1(lambda images: discriminator.apply(variables, images), loss, state.step, images)
    if loss.lecam_weight:
        terms["lecam"] = _lecam(loss, judgement, state.running["lecam"])
        metrics["discriminator/logit_real"] = _mean(lambda logits: logits, judgement.real)
        of_fakes = [_mean(lambda logits: logits, logits) for logits in judgement.fakes]
        metrics["discriminator/logit_fake"] = _mean_of_fakes(loss, of_fakes)
    return terms, metrics, batch_stats


def judge(
    discriminator: AnyDiscriminator, params: Any, batch_stats: Any, images: Any, fakes: list[Any]
) -> tuple[Judgement, Any]:
    """Shows the discriminator images, then the fakes; returns its logits, and its norms' statistics after all of them.

    Args:
      discriminator: the network.
      params: its weights.
      batch_stats: its norms' statistics.
      images: what it sees of images, ``[b, ...]``.
      fakes: what it sees of reconstructions and, if there are any, of samples.
    """

    def apply(params: Any, batch_stats: Any, seen: Any) -> tuple[Maps, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        result, updates = discriminator.apply(variables, seen, train=True, mutable=["batch_stats"])
        return jax.tree.leaves(result), updates["batch_stats"]

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
    """Both players' losses, unweighted, and the discriminator's accuracies.

    ``loss.prior_fakes`` is the samples' share s of the fakes: ``(1 - s) E[reconstructions] + s E[samples]``.
    """
    kind, (real, fakes, fakes_for_vae) = loss.adversarial, judgement
    adversarial = [_mean(lambda fake: losses.generator_loss(fake, kind=kind), logits) for logits in fakes_for_vae]
    discriminator = _mean(lambda real, fake: losses.discriminator_loss(real, fake, kind=kind), real, fakes[0])
    threshold = losses.DECISION_THRESHOLD[kind]
    accuracies = {
        "discriminator/accuracy_real": _mean(lambda logits: logits > threshold, real),
        "discriminator/accuracy_fake": _mean(lambda logits: logits < threshold, fakes[0]),
    }
    if loss.prior_fakes:
        of_fakes = [_mean(lambda fake: losses.fake_loss(fake, kind=kind), logits) for logits in fakes]
        discriminator += _mean_of_fakes(loss, of_fakes) - of_fakes[0]
        accuracies["discriminator/accuracy_prior"] = _mean(lambda logits: logits < threshold, fakes[1])
    return {"adversarial": _mean_of_fakes(loss, adversarial), "discriminator": discriminator}, accuracies


def _mean(function: Callable[..., jax.Array], *logits: Maps) -> jax.Array:
    """Mean of ``function`` over a map's images and patches, then over the maps, which so count alike."""
    means = [jnp.mean(function(*each)) for each in zip(*logits, strict=True)]
    return sum(means) / len(means)


def _mean_of_fakes(loss: LossConfig, means: list[jax.Array]) -> jax.Array:
    """The mean over all fakes, from that of reconstructions and, if there are any, that of samples."""
    if not loss.prior_fakes:
        return means[0]
    return (1.0 - loss.prior_fakes) * means[0] + loss.prior_fakes * means[1]


def _lazy_r1(
    discriminator: Callable[[jax.Array], jax.Array], loss: LossConfig, step: jax.Array, images: jax.Array
) -> jax.Array:
    """R1 at every ``loss.r1_every``-th step, times ``loss.r1_every``, else 0: on average over steps, R1."""

    def penalty() -> jax.Array:
        return loss.r1_every * jnp.mean(losses.r1_penalty(discriminator, images))

    return jax.lax.cond(step % loss.r1_every == 0, penalty, lambda: jnp.zeros(()))


def _lecam(loss: LossConfig, judgement: Judgement, anchors: losses.LeCamAnchors) -> jax.Array:
    """``losses.lecam_penalty``, with the anchors before this batch, which all parts of it know; 0 at the first step."""

    def distance(logits: Maps, anchor: jax.Array) -> jax.Array:
        return _mean(lambda logits: jnp.square(logits - anchor), logits)

    of_fakes = [distance(logits, anchors.real) for logits in judgement.fakes]
    penalty = distance(judgement.real, anchors.fake) + _mean_of_fakes(loss, of_fakes)
    return jnp.where(anchors.weight > 0, penalty, 0.0)


def first_running(loss: LossConfig) -> dict[str, Any]:
    """The running statistics of the discriminator's side before the first step."""
    running = {}
    if loss.adaptive_weight:
        running["adversarial_ratio"] = first_lengths()
    if loss.lecam_weight:
        running["lecam"] = losses.init_lecam_anchors()
    return running


def next_running(running: dict[str, Any], gradients: dict[str, Any], metrics: Terms) -> dict[str, Any]:
    """The running statistics after a step, from its gradient and its metrics, means over all of the batch."""
    running = dict(running)
    if "adversarial_ratio" in running:
        running["adversarial_ratio"] = average_lengths(running["adversarial_ratio"], gradients["lengths"])
    if "lecam" in running:
        means = (metrics[f"discriminator/logit_{name}"][None] for name in ("real", "fake"))
        _, running["lecam"] = losses.lecam_penalty(*means, running["lecam"], decay=LECAM_DECAY)
    return running
