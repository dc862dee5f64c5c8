"""The mean face, and principal components by ``rvae_jax.training.principal_components``, ours."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.comparison.cpu_time import Clock
from benchmarks.comparison.model import Model
from rvae_jax.data.pixels import to_float, to_uint8
from rvae_jax.evaluation.material import ImageSets, Material, Posteriors
from rvae_jax.training.principal_components import principal_components

_CHUNK = 512
_ROWS = 1024


class MeanFace(Model):
    """The mean of the training images and their mirror images, for every image. It has no codes, and no samples."""

    packages = ("numpy",)

    def __init__(self, seed: int) -> None:
        del seed

    def train(self, images: np.ndarray, clock: Clock) -> tuple[int, int]:
        mean = to_float(images.mean(axis=0, dtype=np.float64))
        self._mean = to_uint8((mean + mean[:, ::-1]) / 2)
        return len(images), 0

    def encode(self, images: np.ndarray, label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        return (np.zeros((len(images), 0), np.float32),) * 2

    def decode(self, codes: np.ndarray, label: str | None = None) -> np.ndarray:
        return np.repeat(self._mean[None], len(codes), axis=0)

    def material(self, images: ImageSets, seed: int) -> Material:
        held_out, training = (Posteriors(*self.encode(each)) for each in (images.held_out, images.training))
        matched = self.decode(training.mean[images.matched])
        return Material(images, held_out, training, self.decode(held_out.mean), None, {}, matched)


class PCA(Model):
    """Principal components of the training images and their mirror images, with white codes.

    Codes are ``(x - m) V^T / s`` and images ``m + (z s) V``, so N(0, I) samples N(0, s^2) of the components. Images
    beyond the last full chunk of 512, in a random order, are left out.
    """

    packages = ("jax", "numpy")

    def __init__(self, seed: int, dimensions: int) -> None:
        self._seed, self._dimensions = seed, dimensions

    def train(self, images: np.ndarray, clock: Clock) -> tuple[int, int]:
        both = np.concatenate([images, images[:, :, ::-1]])
        chunk = min(_CHUNK, len(both))
        order = np.random.default_rng(self._seed).permutation(len(both))[: len(both) // chunk * chunk]
        chunks = both[order].reshape(-1, chunk, images[0].size)
        found = principal_components(chunks, self._dimensions, jax.random.key(self._seed))
        self._shape = images.shape[1:]
        self._mean, self._components = np.asarray(found.mean), np.asarray(found.components)
        self._deviations = np.asarray(found.deviations)
        return len(order), 0

    def encode(self, images: np.ndarray, label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        scale = np.maximum(self._deviations, 1e-6)
        parts = [images[start : start + _ROWS] for start in range(0, len(images), _ROWS)]
        codes = [(to_float(part).reshape(len(part), -1) - self._mean) @ self._components.T / scale for part in parts]
        mean = np.concatenate(codes)
        return mean, np.full_like(mean, -np.inf)

    def decode(self, codes: np.ndarray, label: str | None = None) -> np.ndarray:
        images = self._mean + (codes * self._deviations) @ self._components
        return to_uint8(images.reshape(len(codes), *self._shape))
