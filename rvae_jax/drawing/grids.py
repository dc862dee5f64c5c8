"""Images laid out in a grid."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image

from rvae_jax.data.pixels import evenly_spaced, to_float, to_uint8
from rvae_jax.inference import interpolation
from rvae_jax.system.files import write_atomically

SHOWN = 10  # images in a row
TRANSITIONS = 3
LEAST_TILE = 96


def grid(rows: Sequence[np.ndarray], gap: int = 2, least_tile: int = LEAST_TILE) -> np.ndarray:
    """Places rows of images, ``[n, h, w, c]`` in [-1, 1] each, one below the other.

    Args:
      rows: rows of images.
      gap: pixels between images.
      least_tile: smaller images are enlarged by an integer factor to at least this height, each pixel a square.

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


def cut_row(picture: np.ndarray, row: int, height: int, width: int, gap: int = 2) -> np.ndarray | None:
    """A row of a picture that ``grid`` drew with its own ``least_tile``: what it was given.

    Args:
      picture: ``[H, W, 3]`` uint8.
      row: which, from 0 on.
      height: of an image.
      width: of an image.
      gap: pixels between images.

    Returns:
      ``[n, height, width, 3]`` in [-1, 1], or None if the picture is not such a grid.
    """
    factor = max(1, math.ceil(LEAST_TILE / height))
    pitch_y, pitch_x = height * factor + gap, width * factor + gap
    rows, left_y = divmod(picture.shape[0] - gap, pitch_y)
    columns, left_x = divmod(picture.shape[1] - gap, pitch_x)
    if left_y or left_x or not columns or row >= rows:
        return None
    strip = picture[gap + row * pitch_y :][: height * factor : factor, gap:]
    tiles = strip.reshape(height, columns, pitch_x, 3)[:, :, : width * factor : factor]
    return to_float(tiles.swapaxes(0, 1))


def reconstruction_rows(images: np.ndarray, reconstructions: np.ndarray) -> list[np.ndarray]:
    """Rows of ``SHOWN`` images, each row followed by its reconstructions."""
    parts = [slice(start, start + SHOWN) for start in range(0, len(images), SHOWN)]
    return [shown[part] for part in parts for shown in (images, reconstructions)]


def reconstruction_grid(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """At most twenty images, evenly spaced, each above its reconstruction."""
    shown = evenly_spaced(2 * SHOWN, len(images))
    return grid(reconstruction_rows(images[shown], reconstructions[shown]))


def transition_codes(
    means: np.ndarray,
    pairs: int = TRANSITIONS,
    between: int = SHOWN - 2,
    kind: interpolation.Interpolation = "linear",
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs up images, evenly spaced, and interpolates between their codes: the paper's figure 5.

    Args:
      means: codes of the images, ``[n, d]``.
      pairs: maximum number of pairs.
      between: number of codes per pair, both ends included.
      kind: see ``interpolation.transition``.

    Returns:
      Indices of the paired images, ``[pairs, 2]``, and codes ``[pairs, between, d]``.
    """
    ends = evenly_spaced(2 * pairs, len(means))
    half = (len(ends) + 1) // 2
    chosen = np.stack([ends[: len(ends) - half], ends[half:]], axis=1) if len(ends) > 1 else np.zeros((1, 2), int)
    return chosen, interpolation.transition(means[chosen[:, 0]], means[chosen[:, 1]], between, kind)


def transition_rows(images: np.ndarray, pairs: np.ndarray, decoded: np.ndarray) -> list[np.ndarray]:
    """For each pair one row: an image, the decoded codes ``[pairs, n, h, w, c]``, the other image."""
    ends = zip(pairs, decoded, strict=True)
    return [np.concatenate([images[[a]], between, images[[b]]]) for (a, b), between in ends]


def transition_grid(images: np.ndarray, pairs: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """The grid of ``transition_rows``."""
    return grid(transition_rows(images, pairs, decoded))


def save_png(path: epath.Path, image: np.ndarray) -> None:
    """Writes ``[h, w, 3]`` uint8 atomically."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())
