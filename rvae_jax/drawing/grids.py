"""Pictures of what a model does: grids of images, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image

from rvae_jax.data.pixels import evenly_spaced, to_uint8
from rvae_jax.inference import interpolation
from rvae_jax.system.files import write_atomically

SHOWN = 10
TRANSITIONS = 3
LEAST_TILE = 96


def grid(rows: Sequence[np.ndarray], gap: int = 2, least_tile: int = LEAST_TILE) -> np.ndarray:
    """Lays rows of images, ``[n, h, w, c]`` in [-1, 1] each, one below the other.

    Args:
      rows: rows of images.
      gap: pixels between them.
      least_tile: smaller images are enlarged to at least this height by a whole factor, each pixel a square.

    Returns:
      ``[H, W, 3]`` uint8, on white.
    """
    height, width = rows[0].shape[1:3]
    factor = max(1, math.ceil(least_tile / height))
    columns = max(len(row) for row in rows)
    pitch_y, pitch_x = height * factor + gap, width * factor + gap
    canvas = np.full((len(rows) * pitch_y + gap, columns * pitch_x + gap, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(to_uint8(row)):
            tile = image.repeat(factor, axis=0).repeat(factor, axis=1)
            top, left = y * pitch_y + gap, x * pitch_x + gap
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile[..., :3]
    return canvas


def reconstruction_grid(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """At most twenty images, evenly spaced, each above its reconstruction."""
    shown = evenly_spaced(2 * SHOWN, len(images))
    rows = []
    for start in range(0, len(shown), SHOWN):
        part = shown[start : start + SHOWN]
        rows += [images[part], reconstructions[part]]
    return grid(rows)


def transition_codes(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convex combinations of the codes of pairs of images, ``(1 - t) z_a + t z_b``: the paper's figure 5.

    Args:
      means: codes of the images, ``[n, d]``.

    Returns:
      Indices of the paired images, ``[pairs, 2]``, and codes ``[pairs, SHOWN - 2, d]`` with t from 0 to 1.
    """
    ends = evenly_spaced(2 * TRANSITIONS, len(means))
    half = (len(ends) + 1) // 2
    pairs = np.stack([ends[: len(ends) - half], ends[half:]], axis=1) if len(ends) > 1 else np.zeros((1, 2), int)
    return pairs, interpolation.transition(means[pairs[:, 0]], means[pairs[:, 1]], SHOWN - 2)


def transition_grid(images: np.ndarray, pairs: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """One row a pair: an image, the decoded combinations ``[pairs, n, h, w, c]``, the other image."""
    ends = zip(pairs, decoded, strict=True)
    return grid([np.concatenate([images[[a]], between, images[[b]]]) for (a, b), between in ends])


def save_png(path: epath.Path, image: np.ndarray) -> None:
    """Writes ``[h, w, 3]`` uint8; the file is there only when it is whole."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())
