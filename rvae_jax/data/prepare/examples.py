"""Makes a TFDS example of a picture, cut out and scaled, or tells why that cannot be done."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from rvae_jax.data import images
from rvae_jax.data.images import Box
from rvae_jax.data.prepare.decode import NO_LOCK, decode
from rvae_jax.data.prepare.settings import PreparationSettings, load_detector
from rvae_jax.data.prepare.sources.source import Source, UnusableError
from rvae_jax.data.prepare.sources.tables import Table, read_boxes
from rvae_jax.data.prepared import Shape, config_name
from rvae_jax.errors import UserError, one_line

# A file server or a device is away for now, or something is used up.
_MAY_PASS = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


@dataclasses.dataclass
class Outcome:
    """What was made of a picture.

    Attributes:
      results: configuration to a record, or to the reason why there is none.
      digests: configuration to a hash of the image's pixels, where there is an image.
      size: (height, width) of the picture.
    """

    results: dict[str, bytes | str]
    digests: dict[str, str]
    size: tuple[int, int] = (0, 0)


class Maker:
    """Makes examples of pictures, by name.

    Raises:
      UserError: the settings' boxes or detector cannot be used.
    """

    def __init__(
        self,
        source: Source,
        settings: PreparationSettings,
        large_picture_lock: contextlib.AbstractContextManager = NO_LOCK,
    ) -> None:
        self.source, self.settings, self.large_picture_lock = source, settings, large_picture_lock
        self.boxes = read_boxes(settings.boxes, source.files) if settings.boxes else None
        self.detector = load_detector(settings.detector) if settings.detector else None

    def __call__(self, name: str) -> Outcome:
        """Makes an example, or finds the reason why that cannot be done.

        Raises:
          UserError: the file cannot be read now, but perhaps later.
        """
        configs = [config_name(shape) for shape in self.settings.shapes]
        try:
            labels = self._labels(name)
            box = self._box(name)
            shrinks = (lambda h, w: 1.0) if self.detector else functools.partial(self._shrinks, box)
            picture = decode(self.source.read(name), shrinks, self.large_picture_lock, self.settings.value_range)
        except UnusableError as error:
            return Outcome(dict.fromkeys(configs, str(error)), {})
        except OSError as error:
            vanished = isinstance(error, FileNotFoundError) and self.source.files[name] >= 0  # not a broken link
            if vanished or error.errno in _MAY_PASS:
                raise UserError(f"{name}: {error.strerror}; the same command goes on from here") from error
            return Outcome(dict.fromkeys(configs, f"cannot be read: {error.strerror or error}"), {})
        outcome = Outcome({}, {}, (picture.height, picture.width))
        if self.detector:
            box = self._detect(picture.pixels)
        for shape, config in zip(self.settings.shapes, configs, strict=True):
            try:
                if isinstance(box, str):
                    raise UnusableError(box)
                image = self._image(picture.pixels, picture.height, picture.width, box, shape)
                outcome.results[config] = self._record(image, name, labels)
                outcome.digests[config] = hashlib.sha256(image).hexdigest()[:16]
            except UnusableError as error:
                outcome.results[config] = str(error)
        return outcome

    def _labels(self, name: str) -> dict[str, dict[str, Any]]:
        for label, table in self.source.labels.items():
            if name not in table:
                raise UnusableError(f"it is not in the {label}")
        return {label: table.row(name) for label, table in self.source.labels.items()}

    def _box(self, name: str) -> Box | None:
        if self.boxes is None:
            return None
        if name not in self.boxes:
            raise UnusableError("it has no box")
        box = Box(**{side: float(value) for side, value in self.boxes.row(name).items()})
        if not (np.isfinite(box).all() and min(box.width, box.height) >= 1):
            raise UnusableError(
                f"its box is {box.width:g} wide and {box.height:g} high, at ({box.left:g}, {box.top:g})"
            )
        return box.widened(self.settings.margin)

    def _detect(self, pixels: np.ndarray) -> Box | str:
        try:
            found = [Box(*map(float, tuple(box)[:4])) for box in self.detector(pixels)]
        except Exception as error:
            return f"the detector failed: {type(error).__name__}: {one_line(error)}"
        found = [box for box in found if np.isfinite(box).all() and min(box.width, box.height) >= 1]
        if not found:
            return "the detector found nothing"
        return max(found, key=lambda box: box.width * box.height).widened(self.settings.margin)

    def _crop(self, h: int, w: int, box: Box | None, shape: Shape) -> Box:
        if box is not None:
            return box.with_aspect(*shape[:2])
        return images.centre_crop(h, w, self.settings.crop, *shape[:2])

    def _shrinks(self, box: Box | None, h: int, w: int) -> float:
        crops = ((self._crop(h, w, box, shape), shape) for shape in self.settings.shapes)
        return min(min(crop.height / shape[0], crop.width / shape[1]) for crop, shape in crops)

    def _image(self, pixels: np.ndarray, h: int, w: int, box: Box | None, shape: Shape) -> np.ndarray:
        height, width, channels = shape
        crop = self._crop(h, w, box, shape)
        least = self.settings.crop or (1, 1)
        if box is None and (least[0] > h or least[1] > w):
            raise UnusableError(f"{h}x{w} pixels, smaller than the crop of {least[0]}x{least[1]}")
        if box is not None and not (
            crop.left + crop.width > 0 and crop.left < w and crop.top + crop.height > 0 and crop.top < h
        ):
            raise UnusableError(f"its box lies outside of its {h}x{w} pixels")
        if crop.height > 2 * h + 2 or crop.width > 2 * w + 2:
            raise UnusableError(f"its box of {crop.height:.0f}x{crop.width:.0f} reaches far beyond its {h}x{w} pixels")
        enlarged = max(height / crop.height, width / crop.width)
        if enlarged > self.settings.enlarge:
            raise UnusableError(
                f"too small: {crop.height:.0f}x{crop.width:.0f} of {h}x{w} would be enlarged {enlarged:.1f} times, more"
                f" than --enlarge={self.settings.enlarge:g}"
            )
        part = images.cut(pixels, crop.scaled(pixels.shape[0] / h, pixels.shape[1] / w))
        return np.ascontiguousarray(images.with_channels(images.resize(part, height, width), channels))

    def _record(self, image: np.ndarray, name: str, labels: dict[str, dict[str, Any]]) -> bytes:
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(_encode(image, self.settings.encoding))
        feature["name"].bytes_list.value.append(name.encode("utf-8", "surrogateescape"))
        for label, row in labels.items():
            for column, value in row.items():
                _set(feature[f"{label}/{column}"], value)
        return example.SerializeToString(deterministic=True)


def _encode(image: np.ndarray, encoding: str) -> bytes:
    if encoding == "raw":
        return image.tobytes()
    bgr = image[:, :, ::-1] if image.shape[2] == 3 else image
    return cv2.imencode(".png", bgr)[1].tobytes()


def _set(feature: tf_example_pb2.Feature, value: bool | int | float | str) -> None:
    if isinstance(value, float):
        feature.float_list.value.append(value)
    elif isinstance(value, int):
        feature.int64_list.value.append(int(value))
    else:
        feature.bytes_list.value.append(value.encode("utf-8", "surrogateescape"))


def tfds_features(shape: Shape, encoding: str, source: Source) -> tfds.features.FeaturesDict:
    """The TFDS features of the examples."""
    image = (
        tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
        if encoding == "raw"
        else tfds.features.Image(shape=shape, encoding_format="png")
    )
    labels = {label: _label_features(table) for label, table in source.labels.items()}
    return tfds.features.FeaturesDict({"image": image, "name": tfds.features.Text(), **labels})


def _label_features(table: Table) -> dict[str, Any]:
    return {
        name: tfds.features.Text() if values.dtype == object else tfds.features.Scalar(values.dtype.type)
        for name, values in table.columns.items()
    }
