"""What an arm that is not ours can do."""

from __future__ import annotations

import abc

import numpy as np

from benchmarks.comparison.cpu_time import Clock
from rvae_jax.evaluation.material import ImageSets, Material, material_of


class Model(abc.ABC):
    """A model of images, made with a seed. Images are uint8 ``[n, H, W, C]``; codes ``[n, d]``.

    Attributes:
      packages: names of the packages whose versions matter.
    """

    packages: tuple[str, ...]

    @abc.abstractmethod
    def train(self, images: np.ndarray, clock: Clock) -> tuple[int, int]:
        """Trains on the images and their mirror images until the clock says so, for at least one batch.

        Returns:
          The number of images in all batches, and of batches.
        """

    @abc.abstractmethod
    def encode(self, images: np.ndarray, label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Means and log variances of the images' codes; minus infinity where there is no variance."""

    @abc.abstractmethod
    def decode(self, codes: np.ndarray, label: str | None = None) -> np.ndarray:
        """Images of codes."""

    def material(self, images: ImageSets, seed: int) -> Material:
        """What the judge sees: reconstructions from the means, and samples without noise, as of our own models."""
        return material_of(images, self.encode, self.decode, seed, lambda _: None)
