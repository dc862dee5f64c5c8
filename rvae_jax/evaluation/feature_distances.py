"""Distances between real and generated images by Inception's features, which are cached for real images."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np

from rvae_jax.errors import UserError
from rvae_jax.evaluation.material import ImageSets, Label, Material
from rvae_jax.evaluation.metrics import distances, inception
from rvae_jax.evaluation.results import ReconstructionFigures, SampleFigures
from rvae_jax.evaluation.settings import EvaluationSettings
from rvae_jax.inference.batching import Batched
from rvae_jax.system.files import write_atomically

_WHAT = "FID, KID, precision and recall"


@dataclasses.dataclass(frozen=True)
class FeatureDistances:
    """Distances to the held-out images.

    Attributes:
      checksum: of Inception's weights.
      rfid: of the reconstructions.
      generation: for ``real`` and each sampler, the fields of ``SampleFigures`` that are distances.
    """

    checksum: str
    rfid: float
    generation: dict[str, dict[str, float]]


def measure_feature_distances(
    material: Material, settings: EvaluationSettings, label: Label, skipped: dict[str, str]
) -> FeatureDistances | None:
    """Compares the features of training images, samples and reconstructions with those of held-out images.

    None if there are too few images, or no weights; ``skipped`` takes the reason.
    """
    images = material.images
    reason = _too_few(images, settings.least_for_distances)
    if reason is None:
        try:
            network = inception.load(settings.inception)
        except UserError as error:
            reason = str(error)
    if reason is not None:
        skipped["fid"] = f"{_WHAT}: {reason}"
        return None
    extract = Batched(inception.features, network.layers)

    def of_real(images: np.ndarray, name: str) -> np.ndarray:
        cached = None if settings.cache is None else _cache_file(settings.cache, images, network.checksum)
        features = None if cached is None else _read_features(cached, len(images))
        if features is None:
            features = extract(images, label=label(f"features: {name}"))
            if cached is not None:
                _write_features(cached, features)
        return features

    real = of_real(images.held_out, "held-out")
    reference = distances.feature_statistics(real)

    def compare(features: np.ndarray) -> dict[str, float]:
        kid = distances.kernel_distance(real, features, seed=settings.seed)
        return {
            "fid": distances.frechet_distance(*reference, *distances.feature_statistics(features)),
            "kid": kid.mean,
            "kid_std": kid.std,
            **distances.support(real, features)._asdict(),
        }

    generation = {"real": compare(of_real(images.training[images.matched], "training"))}
    for name, samples in material.samples.items():
        generation[name] = compare(extract(samples, label=label(f"features: {name}")))
    features = extract(material.reconstructions, label=label("features: reconstructions"))
    rfid = distances.frechet_distance(*reference, *distances.feature_statistics(features))
    return FeatureDistances(network.checksum, rfid, generation)


def with_distances(
    reconstruction: ReconstructionFigures, generation: dict[str, SampleFigures], found: FeatureDistances
) -> tuple[ReconstructionFigures, dict[str, SampleFigures]]:
    """The same figures with the distances filled in."""
    sets = {name: dataclasses.replace(generation[name], **values) for name, values in found.generation.items()}
    return dataclasses.replace(reconstruction, rfid=found.rfid), sets


def _too_few(images: ImageSets, least: int) -> str | None:
    count, matched = len(images.held_out), len(images.matched)
    if count < least:
        return (
            f"{count} held-out images, expected at least {least}; with fewer, the figures depend more on their number"
            " than on the model"
        )
    if matched < count:
        return (
            f"{matched} training images to compare with, expected as many as the {count} held-out ones; lower --images"
            " or raise --training_images"
        )
    return None


def _cache_file(folder: Path, images: np.ndarray, checksum: str) -> Path:
    content = hashlib.sha256(images.tobytes() + repr((images.shape, checksum)).encode())
    return folder / f"{content.hexdigest()[:24]}.npy"


def _read_features(path: Path, count: int) -> np.ndarray | None:
    with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged
        features = np.load(path)
        if features.shape == (count, inception.FEATURES):
            return features
    return None


def _write_features(path: Path, features: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, features)
    write_atomically(path, content.getvalue())
