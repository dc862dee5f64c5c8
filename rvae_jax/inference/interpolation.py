"""Paths through the latent space: between two codes, along dimensions, along attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

Interpolation = Literal["linear", "spherical"]


def transition(start: np.ndarray, end: np.ndarray, count: int, kind: Interpolation = "linear") -> np.ndarray:
    """Interpolates between pairs of codes, both ends included.

    ``linear``: ``(1 - t) a + t b``, as in the paper. ``spherical``: the direction turns at a constant rate and the
    length changes at a constant rate (Shoemake, 1985), so that codes in between are no nearer to the origin than the
    nearer end. Where two codes point in the same or in opposite directions, spherical falls back to linear.

    Args:
      start: ``[n, d]``.
      end: ``[n, d]``.
      count: number of codes per transition, at least 2.
      kind: ``linear`` or ``spherical``.

    Returns:
      ``[n, count, d]``.
    """
    t = np.linspace(0.0, 1.0, count)[None, :, None]
    start, end = start.astype(np.float64)[:, None], end.astype(np.float64)[:, None]
    weights = 1.0 - t, t
    if kind == "spherical":
        lengths = [np.maximum(np.linalg.norm(code, axis=-1, keepdims=True), 1e-12) for code in (start, end)]
        angle = np.arccos(np.clip(np.sum(start * end, axis=-1, keepdims=True) / (lengths[0] * lengths[1]), -1.0, 1.0))
        sine = np.sin(angle)
        turns = sine > 1e-6
        safe = np.where(turns, sine, 1.0)
        length = (1.0 - t) * lengths[0] + t * lengths[1]
        turned = (
            length / lengths[0] * np.sin((1.0 - t) * angle) / safe,
            length / lengths[1] * np.sin(t * angle) / safe,
        )
        weights = tuple(np.where(turns, new, old) for new, old in zip(turned, weights, strict=True))
    return (weights[0] * start + weights[1] * end).astype(np.float32)


def variants(code: np.ndarray, dimensions: tuple[int, int], steps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Moves a code along two dimensions, in every combination of steps: the paper's figure 4.

    Args:
      code: ``[d]``.
      dimensions: indices of the two dimensions.
      steps: what is added to the first, ``[r]``, and to the second, ``[c]``.

    Returns:
      ``[r, c, d]``.
    """
    codes = np.broadcast_to(code, (len(steps[0]), len(steps[1]), len(code))).copy()
    codes[:, :, dimensions[0]] += steps[0][:, None]
    codes[:, :, dimensions[1]] += steps[1][None, :]
    return codes


def along(code: np.ndarray, directions: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Moves a code along each direction: ``code + step * direction``.

    Args:
      code: ``[d]``.
      directions: ``[k, d]``.
      steps: ``[s]``.

    Returns:
      ``[k, s, d]``.
    """
    return (code[None, None] + steps[None, :, None] * directions[:, None]).astype(np.float32)


def attribute_directions(
    means: np.ndarray, attributes: Mapping[str, np.ndarray], orthogonal: bool = False, least: int = 5
) -> dict[str, np.ndarray]:
    """For each attribute, the mean code of images with it minus the mean code of images without it, ``[d]``.

    Attributes that occur together have similar directions. With ``orthogonal`` they are replaced by the nearest set of
    orthogonal directions (Löwdin, 1950), whatever their order, with their lengths kept.

    Args:
      means: codes of the images, ``[n, d]``.
      attributes: name to bool ``[n]``.
      orthogonal: whether to make the directions orthogonal.
      least: an attribute is left out unless this many images have it and this many do not.

    Returns:
      Name of each attribute that is kept to its direction.

    Raises:
      ValueError: ``orthogonal`` with more attributes than dimensions.
    """
    names = [name for name, has in attributes.items() if least <= has.sum() <= len(has) - least]
    if not names:
        return {}
    means = means.astype(np.float64)
    directions = np.stack([means[attributes[n]].mean(axis=0) - means[~attributes[n]].mean(axis=0) for n in names])
    if orthogonal:
        if len(names) > means.shape[1]:
            raise ValueError(f"{len(names)} attributes; expected at most the {means.shape[1]} dimensions of the code")
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        left, _, right = np.linalg.svd(directions / np.maximum(lengths, 1e-12), full_matrices=False)
        directions = left @ right * lengths
    return dict(zip(names, directions.astype(np.float32), strict=True))
