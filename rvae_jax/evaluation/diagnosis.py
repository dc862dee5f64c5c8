"""What is wrong with a model: known problems, the figures that show them, and what to try."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rvae_jax.config import Config
from rvae_jax.evaluation.results import Evaluation

# Limits. None is derived from theory: each lies between the values measured on models with the problem and on models
# without it; docs/metrics.md has the figures.
LEAST_ACTIVE = 0.1  # active units, as a share of the dimensions
LEAST_SIGMA = 0.05  # the posterior's deviation, as a share of the population's
MOST_PRIOR_FID = 1.2  # FID of the prior over that of a fitted sampler, both above the floor
PRIOR_FID_MARGIN = 2.0  # FID of the prior beyond that multiple
LEAST_PRIOR_SHARPNESS = 0.75  # gradient energy of samples from the prior over those from a fitted Gaussian
MOST_PRIOR_NATS = 0.25  # KL of the population's Gaussian to the prior, per dimension, beyond chance
MOST_ACCURATE = 0.95  # the discriminator's accuracy
LEAST_ACCURATE = 0.55
LEAST_SIMILAR = 0.75  # gradient energy over that of real images, for a discriminator to be excused
MOST_COPIES = 0.02  # copies as a share of the samples
MOST_OVERFIT = 2.0  # L1 on held-out images over L1 on training images
LEAST_SHARPNESS = 0.5  # gradient energy of reconstructions over that of real images
MOST_SHARPNESS = 1.5
MOST_GRID = 0.1  # energy at a grid's frequencies in excess of that beside them, over the real images' energy there
MOST_SEAMS = 0.2  # gradient energy at seams in excess of that beside them, over real images' gradient energy

_ACTIVE_DEVIATION = 0.1  # of a dimension's means over the population
_TAIL = 0.1  # last part of the run, over which the discriminator's accuracy is averaged


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model has one problem.

    Attributes:
      problem: name of the problem.
      found: whether the model has it; None if it cannot be told.
      finding: the figures that this rests on, in words.
      remedy: what to try; empty unless the problem was found.
      meaning: what a model with the problem does.
    """

    problem: str
    found: bool | None
    finding: str
    remedy: str = ""
    meaning: str = ""


def diagnose(evaluation: Evaluation, rows: list[dict[str, float]], config: Config) -> list[Verdict]:
    """Checks for every known problem that a model of this configuration can have.

    Args:
      evaluation: of the model.
      rows: of the run's ``metrics.jsonl``.
      config: of the run.
    """
    case = _Case(evaluation, rows, config)
    verdicts = []
    for problem, check in _CHECKS.items():
        with contextlib.suppress(_Inapplicable):
            verdicts.append(dataclasses.replace(_verdict(problem, check, case), meaning=_MEANINGS[problem]))
    return verdicts


class _Case(NamedTuple):
    """What the checks look at; see ``diagnose``."""

    evaluation: Evaluation
    rows: list[dict[str, float]]
    config: Config


class _Finding(NamedTuple):
    """The outcome of a check; ``figures`` are the numbers that ``found`` was computed from."""

    found: bool
    text: str
    remedy: str
    figures: Sequence[float]


class _Undecided(Exception):
    """It cannot be told whether the model has the problem; the message says why."""


class _Inapplicable(Exception):
    """A model of this kind cannot have the problem."""


def _verdict(problem: str, check: Callable[[_Case], _Finding], case: _Case) -> Verdict:
    try:
        found, text, remedy, figures = check(case)
    except _Undecided as reason:
        return Verdict(problem, None, str(reason))
    if not np.isfinite(figures).all():
        return Verdict(problem, None, f"A figure is not finite. {text}")
    return Verdict(problem, bool(found), text, remedy if found else "")


def _posterior_collapse(case: _Case) -> _Finding:
    latent, loss = case.evaluation.latent.training, case.config.loss
    remedy = "Raise loss.reconstruction_weight, or ramp the KL up with loss.kl_ramp."
    if loss.kl == "standard":
        remedy += " Lower loss.beta, or use loss.kl=population, which does not pull each posterior to the prior."
    elif loss.moments == "mixture":
        remedy += " Lower loss.variance_target: with the mixture's moments and a target of 1, collapse is optimal."
    return _Finding(
        latent.active_units < LEAST_ACTIVE * latent.dimensions,
        f"{latent.active_units:.0f} of {latent.dimensions:.0f} dimensions of the code depend on the image, and the code"
        f" carries {latent.rate:.3g} nats per image. Fewer than {LEAST_ACTIVE:.0%} of the dimensions is a collapse.",
        remedy,
        (latent.active_units, latent.rate),
    )


def _variance_collapse(case: _Case) -> _Finding:
    dimensions = case.evaluation.latent.dimensions
    sigma, deviation = np.array(dimensions.sigma), np.sqrt(dimensions.var_means)
    active = deviation > _ACTIVE_DEVIATION
    if not active.any():
        raise _Undecided("No dimension is active, so there are no posteriors to measure.")
    share = float(np.median(sigma[active] / deviation[active]))
    if case.config.loss.kl == "population":
        remedy = "Raise loss.variance_weight."
    else:
        remedy = "Raise loss.beta, or lower loss.reconstruction_weight."
    return _Finding(
        share < LEAST_SIGMA,
        f"The posterior of one image is {share:.3g} times as wide as all images' codes together (median over the"
        f" dimensions in use). Below {LEAST_SIGMA} it is a collapse.",
        remedy,
        (share,),
    )


def _prior_mismatch(case: _Case) -> _Finding:
    generation, latent = case.evaluation.generation, case.evaluation.latent.training
    if not latent.active_units:
        raise _Undecided("No dimension is active, so every code gives the same image.")
    codes, d = latent.images, latent.dimensions
    chance = d * (d - 1) / (4 * codes)
    distance = (
        f"A Gaussian with the codes' mean and covariance is {latent.population_kl_gaussian:.3g} nats from N(0, I);"
        f" with {codes:,} codes, chance explains about {chance:.2g}."
    )
    population = case.evaluation.population
    found = population.best_sampler if population is not None else "prior"
    sampler = "'gaussian' or 'mixture'" if found == "prior" else f"'{found}'"
    remedy = f"Sample with sampler={sampler}, which needs no training."
    if case.config.loss.kl == "standard":
        remedy += " Or raise loss.beta."
    else:
        remedy += (
            " Raising loss.population_weight helps where single dimensions differ from the prior. The KL sees"
            " correlation between dimensions only with loss.covariance=full."
        )
    sets = (generation.real, generation.prior, generation.gaussian, generation.mixture)
    floor, prior, *fits = (each.fid for each in sets)
    if None not in (floor, prior, *fits):
        fitted = min(fits)
        return _Finding(
            prior - floor > MOST_PRIOR_FID * (fitted - floor) + PRIOR_FID_MARGIN,
            f"FID is {prior:.1f} for samples from N(0, I), {fitted:.1f} for samples from the better of two"
            f" distributions fitted to the codes, and {floor:.1f} for real images; lower is better. Less the real"
            f" images' FID, the first may be {MOST_PRIOR_FID} times the second, plus {PRIOR_FID_MARGIN:g}. {distance}",
            remedy,
            (prior, fitted, floor),
        )
    share = generation.prior.sharpness / max(generation.gaussian.sharpness, 1e-9)
    nats = (latent.population_kl_gaussian - chance) / d if codes >= 2 * d else 0.0
    return _Finding(
        not LEAST_PRIOR_SHARPNESS < share < 1 / LEAST_PRIOR_SHARPNESS or nats > MOST_PRIOR_NATS,
        f"Samples from N(0, I) have {share:.2f} times the fine detail (gradient energy) of samples from a Gaussian"
        f" fitted to the codes; {LEAST_PRIOR_SHARPNESS} to {1 / LEAST_PRIOR_SHARPNESS:.2f} is alike. {distance} Up to"
        f" {MOST_PRIOR_NATS} nats per dimension beyond chance is alike.",
        remedy,
        (share, nats),
    )


def _accuracy(case: _Case) -> tuple[float, float, str]:
    """The discriminator's accuracy on real images and on reconstructions at the end of the run, and that in words."""
    loss = case.config.loss
    if loss.adversarial == "none" or not loss.adversarial_weight:
        raise _Inapplicable
    start = (1 - _TAIL) * case.config.steps
    names = [f"discriminator/accuracy_{side}" for side in ("real", "fake")]
    tail = [row for row in case.rows if row["step"] > start and all(name in row for name in names)]
    if not tail:
        raise _Undecided("metrics.jsonl has no rows of the last tenth of the run.")
    real, fake = (float(np.mean([row[name] for row in tail])) for name in names)
    text = (
        f"In the last tenth of the run, the discriminator was right on {real:.0%} of the patches of real images and"
        f" {fake:.0%} of those of reconstructions."
    )
    return real, fake, text


def _strong_discriminator(case: _Case) -> _Finding:
    real, fake, text = _accuracy(case)
    return _Finding(
        min(real, fake) > MOST_ACCURATE,
        f"{text} It is too strong if both are above {MOST_ACCURATE:.0%}.",
        "Lower loss.adversarial_weight, start it later (loss.adversarial_start), make the discriminator narrower"
        " (model.discriminator_filters), or use loss.adversarial=hinge.",
        (real, fake),
    )


def _weak_discriminator(case: _Case) -> _Finding:
    real, fake, text = _accuracy(case)
    sharpness = case.evaluation.reconstruction.sharpness
    similar = LEAST_SIMILAR < sharpness < 1 / LEAST_SIMILAR
    return _Finding(
        (real + fake) / 2 < LEAST_ACCURATE and not similar,
        f"{text} A mean below {LEAST_ACCURATE:.0%} is little better than guessing, which is right only where"
        f" reconstructions look like real images: they have {sharpness:.2f} times the fine detail (gradient energy),"
        f" and {LEAST_SIMILAR} to {1 / LEAST_SIMILAR:.2f} is alike.",
        "Make the discriminator wider or deeper (model.discriminator_filters), or let it learn for longer before it"
        " counts (loss.adversarial_start).",
        (real, fake),
    )


def _memorisation(case: _Case) -> _Finding:
    evaluation = case.evaluation
    figures = evaluation.memorisation
    if figures is None:
        raise _Undecided(evaluation.skipped.get("memorisation", "It was not measured") + ".")
    training, held_out = evaluation.reconstruction.l1_training, evaluation.reconstruction.l1
    found = figures.copies - figures.copies_among_held_out > MOST_COPIES or held_out > MOST_OVERFIT * training
    text = (
        f"{figures.copies:.1%} of the samples are copies: three times nearer to one of {figures.training_images:,}"
        f" training images than to any other. Of held-out images, {figures.copies_among_held_out:.1%} are;"
        f" {MOST_COPIES:.0%} more is too many. The mean absolute error is {training:.3g} on training images and"
        f" {held_out:.3g} on held-out ones; more than {MOST_OVERFIT:g} times as much is too much."
    )
    unseen = figures.training_images_in_all - figures.training_images
    if unseen and not found:
        raise _Undecided(f"{text} {unseen:,} more training images were not searched: raise --training_images.")
    return _Finding(
        found,
        text,
        "Train on more images or for fewer steps, raise data.jitter, or lower model.latent_dim and the filters.",
        (training, held_out),
    )


def _blur(case: _Case) -> _Finding:
    share, config = case.evaluation.reconstruction.sharpness, case.config
    remedy = "Train longer, with wider networks and a larger model.latent_dim."
    if config.loss.perceptual == "none":
        remedy += " Add a perceptual term: loss.perceptual=vgg16."
    if config.loss.adversarial == "none":
        remedy += " Then try a discriminator that starts late and has little weight (loss.adversarial,"
        remedy += " loss.adversarial_start, loss.adversarial_weight)."
    else:
        remedy += " A discriminator that weighs more or starts earlier adds texture, but not that of the images."
    if config.model.input_norm:
        remedy += " Turn model.input_norm off: it hides brightness and contrast from the encoder."
    return _Finding(
        share < LEAST_SHARPNESS,
        f"Reconstructions have {share:.2f} times the fine detail (gradient energy) of their images; below"
        f" {LEAST_SHARPNESS} they look blurred.",
        remedy,
        (share,),
    )


def _false_texture(case: _Case) -> _Finding:
    share = case.evaluation.reconstruction.sharpness
    return _Finding(
        share > MOST_SHARPNESS,
        f"Reconstructions have {share:.2f} times the fine detail (gradient energy) of their images; above"
        f" {MOST_SHARPNESS} some of it is false.",
        _less_texture(case.config),
        (share,),
    )


def _grid(case: _Case) -> _Finding:
    evaluation = case.evaluation
    generation = evaluation.generation
    sets = (generation.real, evaluation.reconstruction, generation.prior)
    grids, seams = [each.grid_energy for each in sets], [each.seam_energy for each in sets]
    if None in (*grids, *seams):
        why = evaluation.skipped.get("grid_energy", "the evaluation is of an earlier version")
        raise _Undecided(f"Grid energy was not measured: {why}.")
    remedy = _less_texture(case.config)
    if case.config.model.network == "paper":
        remedy += " Use networks without transposed convolutions: model.network=patches."
    return _Finding(
        max(grids[1:]) > MOST_GRID + max(grids[0], 0.0) or max(seams[1:]) > MOST_SEAMS + max(seams[0], 0.0),
        f"The strength of a pattern of 2 or 4 pixels (grid energy) is {grids[1]:.2f} in reconstructions, {grids[2]:.2f}"
        f" in samples from N(0, I) and {grids[0]:.2f} in real images; {MOST_GRID} above theirs and above 0 is too much."
        f" That of edges between cells (seam energy) is {seams[1]:.2f}, {seams[2]:.2f} and {seams[0]:.2f};"
        f" {MOST_SEAMS} above theirs is too much.",
        remedy,
        (*grids, *seams),
    )


def _less_texture(config: Config) -> str:
    if config.loss.adversarial == "none":
        return "Train longer."
    return "Train longer, lower loss.adversarial_weight, or start the discriminator later (loss.adversarial_start)."


_CHECKS = {
    "posterior collapse": _posterior_collapse,
    "variance collapse": _variance_collapse,
    "prior mismatch": _prior_mismatch,
    "discriminator too strong": _strong_discriminator,
    "discriminator too weak": _weak_discriminator,
    "memorisation": _memorisation,
    "blur": _blur,
    "false texture": _false_texture,
    "grid": _grid,
}

_MEANINGS = {
    "posterior collapse": "The decoder has learned to do without most of the code, so images look alike.",
    "variance collapse": "Posteriors are so narrow that the model is in effect an autoencoder, with gaps between.",
    "prior mismatch": "The codes of images do not follow N(0, I), so samples from it are worse than they need be.",
    "discriminator too strong": "The discriminator is hardly ever wrong, so the VAE can learn little from it.",
    "discriminator too weak": "The discriminator is hardly better than guessing, so it improves nothing.",
    "memorisation": "The model repeats its training images, instead of what they have in common.",
    "blur": "Reconstructions look soft: the fine detail of their images is missing.",
    "false texture": "Reconstructions look grainy, or show patterns that are not in their images.",
    "grid": "A pattern, perhaps faint, repeats every few pixels.",
}
