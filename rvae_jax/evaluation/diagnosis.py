"""What is wrong with a model, in words: known illnesses, the figures that show them, and what to try."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rvae_jax.config import Config

# Where an illness begins. None of these is from theory: each lies between what healthy models and ill ones were
# measured to have; docs/metrics.md has the figures.
LEAST_ACTIVE = 0.1  # share of the dimensions
LEAST_SIGMA = 0.05  # posterior's deviation, as a share of the population's
MOST_PRIOR_FID = (
    1.2  # FID of samples from the prior, as a multiple of those from a fitted distribution, above the floor
)
PRIOR_FID_MARGIN = 2.0  # and by how much it must be more
LEAST_PRIOR_SHARPNESS = 0.75  # gradient energy of samples from the prior, as a share of those from a fitted Gaussian
MOST_PRIOR_NATS = 0.25  # KL of the population's Gaussian to the prior, a dimension, beyond chance
MOST_SURE = 0.95  # discriminator's accuracy
LEAST_SURE = 0.55
LEAST_ALIKE = (
    0.75  # reconstructions' gradient energy, as a share of the real images', for a discriminator to be excused
)
MOST_COPIES = 0.02  # share of samples
MOST_OVERFIT = 2.0  # held-out images' L1, as a multiple of the training images'
LEAST_SHARPNESS = 0.5  # reconstructions' gradient energy, as a share of the real images'
MOST_SHARPNESS = 1.5

_TAIL = 0.1  # of the run, whose mean the discriminator is judged by


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One illness, looked for in one model.

    Attributes:
      illness: its name.
      ill: whether the model has it; None where it cannot be told.
      finding: what was found, with the figures that it rests on.
      remedy: what to try, empty where nothing is wrong.
    """

    illness: str
    ill: bool | None
    finding: str
    remedy: str = ""


def verdicts(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> list[Verdict]:
    """Looks for every known illness.

    Args:
      evaluation: of ``evaluator.evaluate``.
      rows: of the run's ``metrics.jsonl``.
      config: of the run.
    """
    looked_for = (
        _posterior_collapse,
        _variance_collapse,
        _prior_mismatch,
        _strong_discriminator,
        _weak_discriminator,
        _memorisation,
        _blur,
        _false_texture,
    )
    return [look(evaluation, rows, config) for look in looked_for]


def _verdict(illness: str, ill: bool, finding: str, remedy: str, *figures: float) -> Verdict:
    """``figures`` are those that ``ill`` was told by."""
    if not np.isfinite(figures).all():
        return Verdict(illness, None, f"A figure is not finite. {finding}")
    return Verdict(illness, bool(ill), finding, remedy if ill else "")


def _posterior_collapse(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    latent = evaluation["latent"]["training"]
    active, dimensions = latent["active_units"], latent["dimensions"]
    remedy = "Raise loss.reconstruction_weight, or ramp the KL up with loss.kl_ramp_steps."
    if config.loss.kl == "standard":
        remedy += " Lower loss.beta, or take loss.kl=population, which does not ask each posterior to be the prior."
    elif config.loss.moments == "mixture":
        remedy += " Lower loss.variance_target: with the mixture's moments and a target of 1 collapse is optimal."
    return _verdict(
        "posterior collapse",
        active < LEAST_ACTIVE * dimensions,
        f"{active:.0f} of {dimensions:.0f} dimensions are active, the rate is {latent['rate']:.3g} nats an image;"
        f" fewer than {LEAST_ACTIVE:.0%} active would be collapse.",
        remedy,
        active,
        latent["rate"],
    )


def _variance_collapse(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    dimensions = {name: np.array(values) for name, values in evaluation["latent"]["dimensions"].items()}
    deviation = np.sqrt(dimensions["var_means"])
    active = deviation > 0.1
    if not active.any():
        return Verdict("variance collapse", None, "No dimension is active, so there is no code to be too precise.")
    share = float(np.median(dimensions["sigma"][active] / deviation[active]))
    remedy = (
        "Raise loss.variance_weight."
        if config.loss.kl == "population"
        else "Raise loss.beta, or lower loss.reconstruction_weight."
    )
    return _verdict(
        "variance collapse",
        share < LEAST_SIGMA,
        f"The posterior's deviation is {share:.3g} of the population's (median over active dimensions), and below"
        f" {LEAST_SIGMA} the model would be an autoencoder whose latent space has holes.",
        remedy,
        share,
    )


def _prior_mismatch(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    generation, latent = evaluation["generation"], evaluation["latent"]["training"]
    if not latent["active_units"]:
        return Verdict("prior mismatch", None, "No dimension is active, so every code gives the same image.")
    codes, d = latent["images"], latent["dimensions"]
    chance = d * (d - 1) / (4 * codes)
    distance = (
        f"the population's Gaussian is {latent['population_kl_gaussian']:.3g} nats from the prior, of which chance"
        f" correlation of {codes:,} codes makes about {chance:.2g}"
    )
    remedy = "Sample with sampler='gaussian' or 'mixture', which costs no training."
    if config.loss.kl == "standard":
        remedy += " Or raise loss.beta."
    else:
        remedy += (
            " Raising loss.population_weight helps where single dimensions differ from the prior; that they are"
            " correlated, the paper's KL does not see."
        )
    if "fid" in generation["prior"]:
        floor = generation["real"]["fid"]
        prior, fitted = generation["prior"]["fid"], min(generation[name]["fid"] for name in ("gaussian", "mixture"))
        return _verdict(
            "prior mismatch",
            prior - floor > MOST_PRIOR_FID * (fitted - floor) + PRIOR_FID_MARGIN,
            f"FID is {prior:.1f} from the prior and {fitted:.1f} from the better fitted distribution, where real images"
            f" have {floor:.1f}; above that, more than {MOST_PRIOR_FID} times as much and {PRIOR_FID_MARGIN:g} would be"
            f" a mismatch; {distance}.",
            remedy,
            prior,
            fitted,
            floor,
        )
    prior, fitted = generation["prior"]["sharpness"], generation["gaussian"]["sharpness"]
    share = prior / max(fitted, 1e-9)
    nats = (latent["population_kl_gaussian"] - chance) / d if codes >= 2 * d else 0.0
    return _verdict(
        "prior mismatch",
        not LEAST_PRIOR_SHARPNESS < share < 1 / LEAST_PRIOR_SHARPNESS or nats > MOST_PRIOR_NATS,
        f"Samples from the prior have {share:.2f} times the gradient energy of those from a fitted Gaussian, where"
        f" outside of {LEAST_PRIOR_SHARPNESS} to {1 / LEAST_PRIOR_SHARPNESS:.2f} would be a mismatch; {distance}, where"
        f" more than {MOST_PRIOR_NATS} a dimension beyond chance would be one.",
        remedy,
        share,
        nats,
    )


def _discriminator(
    judge: Callable[[float, float], tuple[bool, str, str]],
    illness: str,
    rows: list[dict[str, float]],
    config: Config,
) -> Verdict:
    if config.loss.adversarial == "none" or not config.loss.adversarial_weight:
        return Verdict(illness, None, "The model was trained without a discriminator.")
    tail = [row for row in rows if "discriminator/accuracy_real" in row and row["step"] > (1 - _TAIL) * config.steps]
    if not tail:
        return Verdict(illness, None, "metrics.jsonl has no rows of the last tenth of the run.")
    real, fake = (float(np.mean([row[f"discriminator/accuracy_{side}"] for row in tail])) for side in ("real", "fake"))
    ill, limit, remedy = judge(real, fake)
    found = f"In the last tenth of the run it told {real:.0%} of the real and {fake:.0%} of the reconstructed patches"
    return _verdict(illness, ill, f"{found}; {limit}.", remedy, real, fake)


def _strong_discriminator(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    def judge(real: float, fake: float) -> tuple[bool, str, str]:
        return (
            min(real, fake) > MOST_SURE,
            f"both above {MOST_SURE:.0%} would leave the VAE nothing to learn from it",
            "Lower loss.adversarial_weight, let it join later (loss.adversarial_start_step), make it narrower"
            " (model.discriminator_filters), or take loss.adversarial=hinge.",
        )

    return _discriminator(judge, "discriminator too strong", rows, config)


def _weak_discriminator(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    sharpness = evaluation["reconstruction"]["sharpness"]
    alike = LEAST_ALIKE < sharpness < 1 / LEAST_ALIKE

    def judge(real: float, fake: float) -> tuple[bool, str, str]:
        return (
            (real + fake) / 2 < LEAST_SURE and not alike,
            f"a mean below {LEAST_SURE:.0%} would be guessing, where reconstructions differ from images: they have"
            f" {sharpness:.2f} of the gradient energy, outside of {LEAST_ALIKE} to {1 / LEAST_ALIKE:.2f}",
            "Make it wider or deeper (model.discriminator_filters), or raise loss.adversarial_weight and"
            " optimizer.learning_rate.",
        )

    return _discriminator(judge, "discriminator too weak", rows, config)


def _memorisation(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    found = evaluation["memorisation"]
    if not found:
        return Verdict("memorisation", None, evaluation["skipped"]["memorisation"] + ".")
    training, held_out = evaluation["reconstruction"]["l1_training"], evaluation["reconstruction"]["l1"]
    copies, by_chance = found["copies"], found["copies_among_held_out"]
    ill = copies - by_chance > MOST_COPIES or held_out > MOST_OVERFIT * training
    finding = (
        f"{copies:.1%} of the samples are three times nearer to one of {found['training_images']:,} training images"
        f" than to any other, and so are {by_chance:.1%} of the held-out images; {MOST_COPIES:.0%} more would be"
        f" copying. L1 is {training:.3g} on training images and {held_out:.3g} on held-out ones; more than"
        f" {MOST_OVERFIT:g} times as much would be knowing them by heart."
    )
    missed = found["training_images_in_all"] - found["training_images"]
    if missed and not ill:
        return Verdict(
            "memorisation",
            None,
            f"{finding} In {missed:,} more training images it was not looked for: raise --training_images.",
        )
    return _verdict(
        "memorisation",
        ill,
        finding,
        "Train on more images or for fewer steps, raise data.jitter, or lower model.latent_dim and the filters.",
        training,
        held_out,
    )


def _blur(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    share = evaluation["reconstruction"]["sharpness"]
    remedy = "Train longer, with wider model.decoder_filters and more model.latent_dim."
    if config.loss.adversarial == "none":
        remedy += " Turn the discriminator on: loss.adversarial=bce."
    else:
        remedy += " Raise loss.adversarial_weight, or let the discriminator join earlier."
    if config.model.input_norm:
        remedy += " model.input_norm hides brightness and contrast from the code; turn it off."
    return _verdict(
        "blur",
        share < LEAST_SHARPNESS,
        f"Reconstructions have {share:.2f} of the real images' gradient energy; below {LEAST_SHARPNESS} they look"
        " blurred.",
        remedy,
        share,
    )


def _false_texture(evaluation: dict[str, Any], rows: list[dict[str, float]], config: Config) -> Verdict:
    share = evaluation["reconstruction"]["sharpness"]
    remedy = "Train longer"
    if config.loss.adversarial != "none":
        remedy += ", lower loss.adversarial_weight, or let the discriminator join later (loss.adversarial_start_step)"
    return _verdict(
        "false texture",
        share > MOST_SHARPNESS,
        f"Reconstructions have {share:.2f} of the real images' gradient energy; above {MOST_SHARPNESS} they have grain"
        " or a checkerboard that the images have not.",
        f"{remedy}.",
        share,
    )
