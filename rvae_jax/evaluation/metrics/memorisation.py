"""Whether images are copies of training images, as pixels."""

import numpy as np

from rvae_jax.evaluation.metrics import distances

_SIZE = 32
_COPY_RATIO = 1 / 3


def nearest(images: np.ndarray, training: np.ndarray, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """The two training images nearest to each image, as pixels, the shorter side reduced to 32 to 63.

    Args:
      images: uint8, ``[n, H, W, C]``.
      training: uint8, ``[m, H, W, C]``.
      mirrored: whether a training image is as near as its mirror image where that is nearer.

    Returns:
      Euclidean distances and indices, ``[n, 2]`` each, the nearest first.

    Raises:
      ValueError: there are fewer than two training images.
    """
    if len(training) < 2:
        raise ValueError(f"{len(training)} training images; expected at least 2")
    sides = [training, training[:, :, ::-1]] if mirrored else [training]
    rows = _reduced(images)
    found = [distances.nearest(rows, _reduced(side), 2) for side in sides]
    squares, indices = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    order = np.argsort(squares, axis=1)
    squares, indices = (np.take_along_axis(part, order, axis=1) for part in (squares, indices))
    # An image and its mirror image are one: the second nearest is the first that is another.
    first_two = np.stack([np.zeros(len(rows), int), np.argmax(indices != indices[:, :1], axis=1)], axis=1)
    squares, indices = (np.take_along_axis(part, first_two, axis=1) for part in (squares, indices))
    return np.sqrt(squares), indices


def likeness(near: np.ndarray) -> np.ndarray:
    """Distance to the nearest over that to the second nearest, ``[n]``: 1 for what is new, 0 for a copy."""
    return near[:, 0] / np.maximum(near[:, 1], 1e-6)


def copies(images: np.ndarray, training: np.ndarray, mirrored: bool) -> float:
    """The share of images that are three times nearer to one training image than to any other; see ``nearest``."""
    near, _ = nearest(images, training, mirrored)
    return float(np.mean(likeness(near) < _COPY_RATIO))


def _reduced(images: np.ndarray) -> np.ndarray:
    """Rows of values in [0, 1], of images reduced by the mean of whole blocks."""
    n, height, width, channels = images.shape
    step = max(1, min(height, width) // _SIZE)
    height, width = height // step, width // step
    blocks = images[:, : height * step, : width * step].reshape(n, height, step, width, step, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1) / np.float32(255)
