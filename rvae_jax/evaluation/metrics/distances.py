"""How far apart two sets of images are, by their features: FID, KID, precision, recall, density, coverage.

Features are ``[n, d]``, one row an image; everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg

_BLOCK = 2048  # rows whose distances to all others are held at a time


class KernelDistance(NamedTuple):
    """KID and how certain it is.

    Attributes:
      mean: over the subsets.
      std: over the subsets.
    """

    mean: float
    std: float


class Support(NamedTuple):
    """How two sets cover each other, each a share.

    Attributes:
      precision: fake samples within the real ones' neighbourhoods.
      recall: real ones within the fake ones' neighbourhoods.
      density: how many real neighbourhoods a fake one is within, over k; may exceed 1.
      coverage: real ones with a fake one in their neighbourhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[d]`` and covariance ``[d, d]`` with 1/(n - 1), as FID takes them."""
    features = features.astype(np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False)


def frechet_distance(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` (Heusel et al., 2017).

    The trace of the root is the sum of the singular values of ``C^(1/2) C'^(1/2)``, which exists and is real for every
    pair of covariances, those of fewer images than dimensions included.

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

    The mean over random subsets, drawn without replacement; of two sets of the same size that are no larger than a
    subset, the one estimate of all of them, with a deviation of 0.

    Args:
      features: ``[n, d]``.
      other: ``[m, d]``.
      subsets: how many.
      subset_size: images of each set in a subset.
      seed: of the subsets.
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

    A neighbourhood is the ball around a feature up to its k-th nearest of its own set, itself not counted.

    Args:
      real: ``[n, d]``.
      fake: ``[m, d]``.
      k: of precision and recall.
      k_density: of density and coverage.

    Raises:
      ValueError: a set has no k-th nearest.
    """
    if min(len(real), len(fake)) <= max(k, k_density):
        raise ValueError(f"{len(real)} and {len(fake)} rows; expected more than {max(k, k_density)}")
    real_radii = _radii(real, (k, k_density))
    (fake_radius,) = _radii(fake, (k,))
    precise = np.zeros(len(fake), bool)
    balls = np.zeros(len(fake))
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, distances in _distances(real, fake):
        precise |= np.any(distances <= real_radii[0][rows, None], axis=0)
        balls += np.sum(distances <= real_radii[1][rows, None], axis=0)
        recalled[rows] = np.any(distances <= fake_radius[None, :], axis=1)
        covered[rows] = np.min(distances, axis=1) <= real_radii[1][rows]
    return Support(
        float(precise.mean()), float(recalled.mean()), float(balls.mean() / k_density), float(covered.mean())
    )


def nearest(rows: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest ``count`` of ``others`` to each row: squared Euclidean distances and indices, ``[n, count]`` each."""
    found = [
        (np.take_along_axis(distances, order, axis=1), order)
        for _, distances in _distances(rows, others)
        for order in [np.argsort(distances, axis=1)[:, :count]]
    ]
    distances, indices = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(indices)


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = scipy.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _radii(features: np.ndarray, ks: tuple[int, ...]) -> list[np.ndarray]:
    # Each is its own nearest, and is not counted.
    sorted_rows = [np.partition(distances, ks, axis=1)[:, list(ks)] for _, distances in _distances(features, features)]
    return list(np.concatenate(sorted_rows).T)


def _distances(rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of rows to all others, a block of rows at a time."""
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    squares = np.sum(np.square(others), axis=1)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(rows)))
        part = rows[block]
        distances = np.sum(np.square(part), axis=1)[:, None] + squares[None, :] - 2.0 * part @ others.T
        yield block, np.maximum(distances, 0.0)
