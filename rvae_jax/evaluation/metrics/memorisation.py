"""Whether images are copies of training images, pixel by pixel."""

import numpy as np

from rvae_jax.evaluation.metrics import distances

_SIZE = 32  # least length of the shorter side after reduction
_COPY_RATIO = 1 / 3


def nearest_training_images(images: np.ndarray, training: np.ndarray, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Finds the two training images nearest to each image.

    Distances are between pixels, after the shorter side is reduced to between 32 and 63.

    Args:
      images: uint8, ``[n, H, W, C]``.
      training: uint8, ``[m, H, W, C]``.
      mirrored: whether to use the mirror image of a training image where that is nearer.

    Returns:
      Euclidean distances and indices of the training images, ``[n, 2]`` each, the nearest first.

    Raises:
      ValueError: there are fewer than two training images.
    """
    if len(training) < 2:
        raise ValueError(f"{len(training)} training images; expected at least 2")
    sides = [training, training[:, :, ::-1]] if mirrored else [training]
    rows = _reduced(images)
    found = [distances.nearest(rows, _reduced(side), 2) for side in sides]
    near, indices = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    order = np.argsort(near, axis=1)
    near, indices = (np.take_along_axis(part, order, axis=1) for part in (near, indices))
    # An image and its mirror image count once: the second nearest is the first with another index.
    first_two = np.stack([np.zeros(len(rows), int), np.argmax(indices != indices[:, :1], axis=1)], axis=1)
    near, indices = (np.take_along_axis(part, first_two, axis=1) for part in (near, indices))
    return near, indices


def likeness(near: np.ndarray) -> np.ndarray:
    """Distance to the nearest training image over that to the second nearest, ``[n]``: near 1 if new, 0 for a copy."""
    return near[:, 0] / np.maximum(near[:, 1], 1e-6)


def copies(images: np.ndarray, training: np.ndarray, mirrored: bool) -> float:
    """The share of images that are three times nearer to one training image than to any other one."""
    near, _ = nearest_training_images(images, training, mirrored)
    return float(np.mean(likeness(near) < _COPY_RATIO))


def _reduced(images: np.ndarray) -> np.ndarray:
    """Images reduced by averaging blocks of pixels, as rows of values in [0, 1]."""
    n, height, width, channels = images.shape
    step = max(1, min(height, width) // _SIZE)
    height, width = height // step, width // step
    blocks = images[:, : height * step, : width * step].reshape(n, height, step, width, step, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1) / np.float32(255)
