"""Conversions between bytes and floats, and indices that are evenly spaced."""

from typing import Any

import numpy as np


def to_float(images: Any) -> Any:
    """uint8 images, of NumPy or JAX, as float32 in [-1, 1]."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1], clipped, as uint8 of the same shape."""
    return np.round((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def evenly_spaced(count: int, total: int) -> np.ndarray:
    """At most ``count`` different indices, evenly spaced over ``total``."""
    return np.arange(min(count, total)) * total // min(count, total)
