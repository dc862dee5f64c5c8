"""Cuts, scales, and converts images between grey and RGB; all uint8."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Box(NamedTuple):
    """A rectangle in an image, in pixels; it may reach beyond the border."""

    left: float
    top: float
    width: float
    height: float

    def scaled(self, y: float, x: float) -> Box:
        """The box in an image ``y`` times as high and ``x`` times as wide."""
        return Box(self.left * x, self.top * y, self.width * x, self.height * y)

    def widened(self, margin: float) -> Box:
        """The box with ``margin`` times its size added on each side."""
        left, top = self.left - margin * self.width, self.top - margin * self.height
        return Box(left, top, self.width * (1 + 2 * margin), self.height * (1 + 2 * margin))

    def with_aspect(self, height: int, width: int) -> Box:
        """The smallest box of the shape ``height``:``width`` that has the same centre and contains this one."""
        new_width, new_height = (
            max(self.width, self.height * width / height),
            max(self.height, self.width * height / width),
        )
        left, top = self.left - (new_width - self.width) / 2, self.top - (new_height - self.height) / 2
        return Box(left, top, new_width, new_height)


def centre_box(h: int, w: int, crop: tuple[int, int]) -> Box:
    """The box of (height, width) ``crop`` in the middle of an image of ``h`` x ``w``."""
    return Box((w - crop[1]) // 2, (h - crop[0]) // 2, crop[1], crop[0])


def largest_crop(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the largest crop of an image of ``h`` x ``w`` that has the shape ``height``:``width``."""
    return max(1, min(h, round(w * height / width))), max(1, min(w, round(h * width / height)))


def centre_crop(h: int, w: int, crop: tuple[int, int] | None, height: int, width: int) -> Box:
    """The largest box of the shape ``height``:``width`` in the middle of an image of ``h`` x ``w``, or of its ``crop``.

    Nothing is distorted by scaling this box, whatever the shape of ``crop``, the (height, width) of the centre crop.
    """
    return centre_box(h, w, largest_crop(*(crop or (h, w)), height, width))


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of ``image`` ``[h, w, c]`` in ``box``, to the nearest pixel; mirrored beyond the border."""
    h, w = image.shape[:2]
    left, top = round(box.left), round(box.top)
    right, bottom = max(left + 1, round(box.left + box.width)), max(top + 1, round(box.top + box.height))
    if top >= 0 and left >= 0 and bottom <= h and right <= w:
        return image[top:bottom, left:right]
    return image[np.ix_(_mirrored(top, bottom, h), _mirrored(left, right, w))]


def _mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """The indices ``start`` to ``stop - 1``, mirrored at the borders into 0 to ``size - 1``."""
    if size == 1:
        return np.zeros(stop - start, int)
    place = np.arange(start, stop) % (2 * size - 2)
    return np.minimum(place, 2 * size - 2 - place)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` ``[h, w, c]`` at another size: averaged over areas where it shrinks, cubic where it grows."""
    # In two steps: the area filter does not average along one axis while the other one grows.
    shrunk = min(width, image.shape[1]), min(height, image.shape[0])
    resized = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        resized = cv2.resize(resized, (width, height), interpolation=cv2.INTER_CUBIC)
    return resized.reshape(height, width, image.shape[2])


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """``image`` ``[h, w, 1 or 3]`` as grey (luma of ITU-R BT.601) or as RGB."""
    if image.shape[2] == channels:
        return image
    converted = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if channels == 1 else cv2.COLOR_GRAY2RGB)
    return converted.reshape(*image.shape[:2], channels)
