"""The options of an evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

LEAST_FOR_DISTANCES = 1_000


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and on how many images.

    Attributes:
      images: maximum number of held-out images; as many samples are drawn from each sampler.
      training_images: maximum number of training images that are encoded and searched for copies.
      split: the held-out images: ``train``, ``selection`` or ``validation`` of the run, or a split in TFDS's syntax.
      inception: file with Inception's weights, or None for the installed package.
      cache: folder for the features of real images, or None to keep none.
      likelihood_samples: samples per image for the bound on the likelihood.
      least_for_distances: minimum number of images for FID, KID, precision and recall.
      seed: seed of all random draws.
    """

    images: int = 10_000
    training_images: int = 10_000
    split: str = "validation"
    inception: Path | None = None
    cache: Path | None = None
    likelihood_samples: int = 64
    least_for_distances: int = LEAST_FOR_DISTANCES
    seed: int = 0
