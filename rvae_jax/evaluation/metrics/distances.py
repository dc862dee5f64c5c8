"""Distances between two sets of images by their features: FID, KID, precision, recall, density, coverage.

Features are ``[n, d]``, one row per image; everything is computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

_WORKING_MEMORY = 256  # MiB of distances that are held at a time


class KernelDistance(NamedTuple):
    """KID and its uncertainty.

    Attributes:
      mean: mean over the subsets.
      std: standard deviation over the subsets.
    """

    mean: float
    std: float


class Support(NamedTuple):
    """How much two sets of images overlap.

    Attributes:
      precision: share of fake images within the neighbourhood of a real one.
      recall: share of real images within the neighbourhood of a fake one.
      density: mean number of real neighbourhoods that a fake image is within, over k; may exceed 1.
      coverage: share of real images with a fake one in their neighbourhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def feature_statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[d]`` and covariance ``[d, d]`` with 1/(n - 1), as FID uses them."""
    features = features.astype(np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False)


def frechet_distance(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` (Heusel et al., 2017).

    The trace of the root is computed as the sum of the singular values of ``C^(1/2) C'^(1/2)``, which is real for every
    pair of covariances, even with fewer images than dimensions.

    Args:
      mean: ``[d]``.
      cov: ``[d, d]``.
      other_mean: ``[d]``.
      other_cov: ``[d, d]``.
    """
    root = _root(cov) @ _root(other_cov)
    cross = np.sum(scipy.linalg.svdvals(root, check_finite=True))
    difference = np.sum(np.square(mean - other_mean))
    return float(difference + np.trace(cov) + np.trace(other_cov) - 2.0 * cross)


def kernel_distance(
    features: np.ndarray, other: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID: the squared maximum mean discrepancy with the kernel ``(x y / d + 1)^3``, unbiased (Binkowski et al., 2018).

    The mean over random subsets, drawn without replacement. Two sets of equal size that fit into one subset give a
    single estimate, with a deviation of 0.

    Args:
      features: ``[n, d]``.
      other: ``[m, d]``.
      subsets: number of subsets.
      subset_size: number of images of each set in a subset.
      seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    size = min(subset_size, len(features), len(other))
    if size == len(features) == len(other):
        subsets = 1
    values = []
    for _ in range(subsets):
        x, y = (rows[rng.choice(len(rows), size, replace=False)].astype(np.float64) for rows in (features, other))
        same = sum(np.sum(kernel) - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
        values.append(same / (size * (size - 1)) - 2.0 * np.mean(_kernel(x, y)))
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def support(real: np.ndarray, fake: np.ndarray, k: int = 3, k_density: int = 5) -> Support:
    """Precision and recall (Kynkaanniemi et al., 2019, there on VGG-16), density and coverage (Naeem et al., 2020).

    The neighbourhood of an image is the ball around its features that reaches to its k-th nearest neighbour in its own
    set.

    Args:
      real: ``[n, d]``.
      fake: ``[m, d]``.
      k: number of neighbours for precision and recall.
      k_density: number of neighbours for density and coverage.

    Raises:
      ValueError: a set is too small to have a k-th neighbour.
    """
    if min(len(real), len(fake)) <= max(k, k_density):
        raise ValueError(f"{len(real)} and {len(fake)} rows; expected more than {max(k, k_density)}")
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    real_radius, real_radius_density = _radii(real, (k, k_density))
    (fake_radius,) = _radii(fake, (k,))
    precise, balls = np.zeros(len(fake), bool), np.zeros(len(fake))
    recalled, covered = [], []
    start = 0
    for distances in pairwise_distances_chunked(real, fake, working_memory=_WORKING_MEMORY):
        rows = slice(start, start := start + len(distances))
        within = distances <= real_radius_density[rows, None]
        precise |= np.any(distances <= real_radius[rows, None], axis=0)
        balls += np.sum(within, axis=0)
        recalled.append(np.any(distances <= fake_radius[None, :], axis=1))
        covered.append(np.any(within, axis=1))
    return Support(
        float(precise.mean()),
        float(np.concatenate(recalled).mean()),
        float(balls.mean() / k_density),
        float(np.concatenate(covered).mean()),
    )


def nearest(rows: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the ``count`` nearest of ``others`` to each row: Euclidean distances and indices, ``[n, count]`` each."""
    return NearestNeighbors(n_neighbors=count, algorithm="brute").fit(others).kneighbors(rows)


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = scipy.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _radii(features: np.ndarray, ks: tuple[int, ...]) -> list[np.ndarray]:
    near, _ = nearest(features, features, max(ks) + 1)  # the nearest is the image itself
    return [near[:, k] for k in ks]
