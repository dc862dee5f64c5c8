"""What is made of a picture: an image, cut out, scaled and written as a TFDS example, or a reason why there is none."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from rvae_jax.data import images
from rvae_jax.data.images import Box
from rvae_jax.data.prepare.decode import UnusableError, decode
from rvae_jax.data.prepare.sources import Source
from rvae_jax.data.prepare.tables import Table, read_boxes
from rvae_jax.errors import UserError

# Of a file server or a device that is gone for now, and of want.
_MAY_PASS = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}

Shape = tuple[int, int, int]
Detector = Callable[[np.ndarray], Iterable[Iterable[float]]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is made of each picture.

    Attributes:
      shapes: (height, width, channels) of the images; each becomes a configuration of the data set.
      crop: (height, width) of the centre crop, of which the largest box of the shape's aspect ratio is taken; None for
        the whole picture.
      boxes: CSV of a box for each picture, which is cut out instead; see ``tables.read_boxes``.
      detector: ``module:function``, from RGB ``[h, w, 3]`` to boxes (left, top, width, height); the largest is cut out.
      margin: share of a box's size that is added to it on each side.
      enlarge: how many times a picture may be enlarged; a smaller one is skipped.
      encoding: ``raw`` pixels, which need no decoding in training, or ``png``, about half as large.
    """

    shapes: tuple[Shape, ...]
    crop: tuple[int, int] | None = None
    boxes: Path | None = None
    detector: str | None = None
    margin: float = 0.0
    enlarge: float = 2.0
    encoding: str = "raw"


def config_name(shape: Shape) -> str:
    """The name of a shape's TFDS configuration: ``64``, ``64x48`` (height first), ``64_grey``."""
    height, width, channels = shape
    return (f"{height}" if height == width else f"{height}x{width}") + ("_grey" if channels == 1 else "")


def described(settings: Settings) -> dict[str, Any]:
    """The settings but for the shapes; a file by its content, a detector by its name and its module's source."""
    values = dataclasses.asdict(settings)
    del values["shapes"]
    if settings.boxes:
        try:
            values["boxes"] = hashlib.sha256(settings.boxes.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"--boxes={settings.boxes}: {error.strerror}; expected a CSV file") from None
    if settings.detector:
        with contextlib.suppress(OSError, TypeError):  # of what is not written in Python
            code = inspect.getsource(inspect.getmodule(load_detector(settings.detector)))
            values["detector"] += f", source {hashlib.sha256(code.encode()).hexdigest()}"
    return values


@dataclasses.dataclass
class Outcome:
    """What became of a picture: by configuration a record, or the reason why there is none."""

    results: dict[str, bytes | str]
    digests: dict[str, str]
    size: tuple[int, int] = (0, 0)


class Maker:
    """Makes examples of pictures, by name."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source, self.settings = source, settings
        self.boxes = read_boxes(settings.boxes, source.files) if settings.boxes else None
        self.detector = load_detector(settings.detector) if settings.detector else None

    def __call__(self, name: str) -> Outcome:
        """Makes an outcome of whatever is wrong with a picture.

        Raises:
          UserError: its file cannot be read for a reason that may pass.
        """
        configs = [config_name(shape) for shape in self.settings.shapes]
        try:
            labels = self._labels(name)
            box = self._box(name)
            data = self.source.read(name)
            picture = decode(data, (lambda h, w: 1.0) if self.detector else functools.partial(self._shrinks, box))
        except UnusableError as error:
            return Outcome(dict.fromkeys(configs, str(error)), {})
        except OSError as error:
            vanished = isinstance(error, FileNotFoundError) and self.source.files[name] >= 0  # no broken link
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
                raise UnusableError(f"nothing of it in the {label}")
        return {label: table.row(name) for label, table in self.source.labels.items()}

    def _box(self, name: str) -> Box | None:
        if self.boxes is None:
            return None
        if name not in self.boxes:
            raise UnusableError("no box for it")
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
            return f"the detector failed: {type(error).__name__}: {' '.join(str(error).split())}"
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
                f"too small: {crop.height:.0f}x{crop.width:.0f} of {h}x{w} would be enlarged {enlarged:.1f} times"
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


def load_detector(spec: str) -> Detector:
    """The function that ``module:function`` names.

    Raises:
      UserError: there is no such function.
    """
    module, _, function = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
        if not callable(found):
            raise TypeError(f"{function} is a {type(found).__name__}")
    except Exception as error:  # whatever importing the user's module raises
        raise UserError(
            f"--detector={spec}: {type(error).__name__}: {' '.join(str(error).split())}; expected module:function, from"
            " an RGB image [h, w, 3] to boxes (left, top, width, height)"
        ) from None
    return found


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


def features(shape: Shape, encoding: str, source: Source) -> tfds.features.FeaturesDict:
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
