"""Whether samples are copies of training images."""

from __future__ import annotations

import numpy as np

from rvae_jax.evaluation.material import ImageSets
from rvae_jax.evaluation.metrics import memorisation
from rvae_jax.evaluation.results import MemorisationFigures

_LEAST_TRAINING_IMAGES = 3


def measure_memorisation(
    images: ImageSets, samples: np.ndarray, mirrored: bool, skipped: dict[str, str]
) -> MemorisationFigures | None:
    """Counts copies among samples, and, for comparison, among held-out images.

    Args:
      images: the run's images.
      samples: uint8, ``[n, H, W, C]``.
      mirrored: whether the mirror image of a training image counts as that image.
      skipped: takes the reason where there are too few training images.
    """
    if len(images.training) < _LEAST_TRAINING_IMAGES:
        skipped["memorisation"] = f"{len(images.training)} training images; expected at least {_LEAST_TRAINING_IMAGES}"
        return None
    return MemorisationFigures(
        copies=memorisation.copies(samples, images.training, mirrored),
        copies_among_held_out=memorisation.copies(images.held_out, images.training, mirrored),
        training_images=len(images.training),
        training_images_in_all=images.training_total,
    )
