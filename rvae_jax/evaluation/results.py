"""The result of an evaluation, and the file ``evaluation.json`` that holds it; docs/metrics.md defines every figure.

A field that is None by default was not measured, and is not in the file; ``Evaluation.skipped`` has the reason.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import dacite
import numpy as np
from etils import epath

from rvae_jax.errors import UserError
from rvae_jax.inference.samplers import SamplerName
from rvae_jax.storage.workdir import EVALUATION_FILE
from rvae_jax.system.files import read_json, write_atomically

FILE = EVALUATION_FILE
FORMAT = 3  # of the file; 1 had neither grid_energy, seam_energy nor lpips_vgg, 2 no population

_NUMBERS = {
    float: lambda value: float(value) if isinstance(value, int) else value,  # an OverflowError for thousands of digits
    int: lambda value: value if abs(value) < 1 << 63 else None,
}

_EMPTY_UNLESS_MEASURED = ("memorisation", "likelihood")  # {} in the file


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """Which model was evaluated."""

    workdir: str
    step: int
    steps: int
    data: str


@dataclasses.dataclass(frozen=True)
class ReconstructionFigures:
    """How close reconstructions are to their images."""

    l1: float
    l1_training: float
    sharpness: float
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    lpips_vgg: float | None = None
    grid_energy: float | None = None
    seam_energy: float | None = None
    rfid: float | None = None


@dataclasses.dataclass(frozen=True)
class SampleFigures:
    """The quality of one set of images: of one sampler, or of real ones."""

    sharpness: float
    grid_energy: float | None = None
    seam_energy: float | None = None
    lpips_diversity: float | None = None
    fid: float | None = None
    kid: float | None = None
    kid_std: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None


@dataclasses.dataclass(frozen=True)
class GenerationFigures:
    """Samples of each sampler, and training images (``real``) as what a perfect generator would reach."""

    real: SampleFigures
    prior: SampleFigures
    gaussian: SampleFigures
    mixture: SampleFigures


@dataclasses.dataclass(frozen=True)
class LatentFigures:
    """The latent space on one set of images; see ``metrics.latent.summary`` and ``metrics.latent.decompose``."""

    images: int
    active_units: float
    dimensions: float
    rate: float
    population_kl_means: float
    population_kl_mixture: float
    population_kl_gaussian: float
    population_mean_rms: float
    population_std: float
    population_std_mixture: float
    sigma_mean: float
    sigma_min: float
    excess_kurtosis_mean: float
    correlation_rms: float
    correlation_max: float
    correlation_noise: float
    mutual_information: float | None = None
    marginal_kl: float | None = None
    mutual_information_limit: float | None = None


@dataclasses.dataclass(frozen=True)
class DimensionFigures:
    """One value for each latent dimension; see ``metrics.latent.dimensions``."""

    mean: tuple[float, ...]
    var_means: tuple[float, ...]
    var_mixture: tuple[float, ...]
    sigma: tuple[float, ...]
    kl: tuple[float, ...]
    excess_kurtosis: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LatentSpaceFigures:
    """The latent space on held-out and on training images, and each dimension on training images."""

    held_out: LatentFigures
    training: LatentFigures
    dimensions: DimensionFigures


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the population's distance from N(0, I), in nats; see ``metrics.population``.

    Attributes:
      nats: its estimate.
      standard_error: of the estimate.
      chance: what the same estimate is for as many codes with the same variances, or 1 where they are larger, whose
        population is N(0, I).
    """

    nats: float
    standard_error: float
    chance: float


@dataclasses.dataclass(frozen=True)
class Gain:
    """How much likelier held-out codes are under a sampler than under N(0, I): the mean, in nats per code."""

    nats: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class PopulationFigures:
    """How far the population of the training images' codes is from N(0, I), and which sampler fits it best.

    Attributes:
      codes: how many training images' codes.
      held_out_codes: how many held-out images' codes.
      moments: distance in the means and variances of single dimensions.
      correlation: distance in correlation.
      posteriors: distance of the mixture of all posteriors.
      gaussian: gain by the fitted Gaussian.
      mixture: gain by the fitted mixture of Gaussians.
      best_sampler: the simplest sampler that none is better than.
      axes: a lower bound of the distance from the fitted Gaussian, by lines; None for too few codes.
      radius: another one, by how far from the centre codes lie.
    """

    codes: int
    held_out_codes: int
    moments: Part
    correlation: Part
    posteriors: Part
    gaussian: Gain
    mixture: Gain
    best_sampler: SamplerName
    axes: Part | None = None
    radius: Part | None = None


@dataclasses.dataclass(frozen=True)
class MemorisationFigures:
    """Shares of images that are copies of training images, and how many training images were searched."""

    copies: float
    copies_among_held_out: float
    training_images: int
    training_images_in_all: int


@dataclasses.dataclass(frozen=True)
class LikelihoodFigures:
    """Importance-weighted bounds on the log likelihood, with the trained scale and with the fitted one."""

    iwae: float
    bits_per_dimension: float
    scale: float
    iwae_fitted: float
    bits_per_dimension_fitted: float
    scale_fitted: float
    samples: int
    images: int


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the figures rest on: two evaluations can be compared if their protocols agree."""

    held_out_split: str
    held_out_images: int
    training_split: str
    training_images: int
    samples_of_each_sampler: int
    image_shape: tuple[int, int, int]
    images: str
    lpips: str
    ssim: str
    seed: int
    jax: str
    device: str
    inception_checksum: str | None = None
    inception_resizer: str | None = None
    distances: str | None = None
    channels: str | None = None


@dataclasses.dataclass(frozen=True)
class RecordedSettings:
    """The settings that the figures depend on; ``inception`` is the checksum of its weights, if there are any."""

    images: int
    training_images: int
    split: str
    inception: str | None
    likelihood_samples: int
    least_for_distances: int
    seed: int
    format: int = FORMAT


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything that was measured of a model.

    Attributes:
      model: which model.
      reconstruction: how close reconstructions are to their images.
      generation: the quality of samples.
      latent: the latent space.
      memorisation: copies of training images among samples; None if not measured.
      likelihood: bounds on the log likelihood; None if not measured.
      protocol: what the figures rest on.
      settings: the options.
      skipped: name of each figure that was not measured, and why.
      population: the certificate; None if not measured.
    """

    model: EvaluatedModel
    reconstruction: ReconstructionFigures
    generation: GenerationFigures
    latent: LatentSpaceFigures
    memorisation: MemorisationFigures | None
    likelihood: LikelihoodFigures | None
    protocol: Protocol
    settings: RecordedSettings
    skipped: dict[str, str]
    population: PopulationFigures | None = None


def population_parts(figures: PopulationFigures) -> dict[str, Part]:
    """The parts of the population's distance from N(0, I) that were measured, by name."""
    return {name: part for name, part in measured(figures).items() if isinstance(part, Part)}


def population_gains(figures: PopulationFigures) -> dict[str, Gain]:
    """What held-out codes gain by each fitted sampler, by name."""
    return {name: gain for name, gain in measured(figures).items() if isinstance(gain, Gain)}


def measured(figures: Any) -> dict[str, Any]:
    """The fields of one of the classes above by name, without those that were not measured."""
    values = ((field, getattr(figures, field.name)) for field in dataclasses.fields(figures))
    return {field.name: value for field, value in values if value is not None or field.default is not None}


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The content of ``evaluation.json``: numbers have six significant digits."""
    content = plain(evaluation)
    return content | {name: content[name] or {} for name in _EMPTY_UNLESS_MEASURED}


def from_dict(content: dict[str, Any]) -> Evaluation:
    """The inverse of ``to_dict``.

    Raises:
      ValueError: the content is not that of ``evaluation.json``.
    """
    try:
        content = content | {name: content[name] or None for name in _EMPTY_UNLESS_MEASURED}
        if content["settings"]["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"format {content['settings']['format']}; expected at most {FORMAT}")
        evaluation = dacite.from_dict(Evaluation, content, dacite.Config(_NUMBERS, cast=[tuple]))
    except (dacite.DaciteError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not an evaluation: {type(error).__name__}: {error}") from error
    _require_sizes(evaluation.latent)
    return evaluation


def _require_sizes(latent: LatentSpaceFigures) -> None:
    """Raises a ValueError unless there were images, and there is a value of each kind for each dimension."""
    found = {len(values) for values in vars(latent.dimensions).values()}
    if 0 in found or found != {latent.training.dimensions} or latent.training.images < 1:
        raise ValueError(f"{found} values for {latent.training.dimensions} dimensions, {latent.training.images} images")


def rounded(evaluation: Evaluation) -> Evaluation:
    """The evaluation as it would be read from its file."""
    return from_dict(to_dict(evaluation))


def to_bytes(evaluation: Evaluation) -> bytes:
    """``evaluation.json`` as bytes."""
    return (json.dumps(to_dict(evaluation), indent=1) + "\n").encode()


def write(folder: epath.Path, evaluation: Evaluation) -> epath.Path:
    """Writes ``evaluation.json`` into a folder, and returns its path."""
    path = folder / FILE
    write_atomically(path, to_bytes(evaluation))
    return path


def read(folder: epath.Path, step: int) -> Evaluation | None:
    """Reads ``evaluation.json`` in a folder; None if it is missing, damaged, or of another step or format."""
    try:
        evaluation = from_dict(read_json(folder / FILE))
    except (FileNotFoundError, UserError, ValueError):
        return None
    return evaluation if evaluation.model.step == step else None


def plain(value: Any) -> Any:
    """Figures as JSON types, numbers with six significant digits, without those that were not measured."""
    if dataclasses.is_dataclass(value):
        return {name: plain(part) for name, part in measured(value).items()}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}")
    return value
