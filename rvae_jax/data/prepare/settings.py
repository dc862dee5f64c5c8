"""What is made of each picture: sizes, crops, boxes, encoding."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rvae_jax.data.prepare.deep import Range
from rvae_jax.data.prepared import Shape
from rvae_jax.errors import UserError, one_line

Detector = Callable[[np.ndarray], Iterable[Iterable[float]]]


@dataclasses.dataclass(frozen=True)
class PreparationSettings:
    """What is made of each picture.

    Attributes:
      shapes: (height, width, channels) of the images; each becomes a configuration of the data set.
      crop: (height, width) of the centre crop, of which the largest box of the shape's aspect ratio is taken; None for
        the entire picture.
      boxes: CSV with a box for each picture, which is cut out instead; see ``tables.read_boxes``.
      detector: ``module:function``, from RGB ``[h, w, 3]`` to boxes (left, top, width, height); the largest is cut out.
      margin: share of a box's size that is added to it on each side.
      enlarge: how many times a picture may be enlarged; a smaller one is skipped.
      value_range: of pictures of more than 8 bits, the values that become 0 and 255; None for all of their type.
      encoding: ``raw`` pixels, which need no decoding in training, or ``png``, about half as large.
    """

    shapes: tuple[Shape, ...]
    crop: tuple[int, int] | None = None
    boxes: Path | None = None
    detector: str | None = None
    margin: float = 0.0
    enlarge: float = 2.0
    encoding: str = "raw"
    value_range: Range | None = None


def as_recorded(settings: PreparationSettings) -> dict[str, Any]:
    """The settings without the shapes, as ``preparation.json`` has them.

    A file stands there by its content, a detector by its name and its module's source.

    Raises:
      UserError: there is no such file or detector.
    """
    values = dataclasses.asdict(settings)
    del values["shapes"]
    if settings.value_range is None:  # as earlier versions recorded it
        del values["value_range"]
    if settings.boxes:
        try:
            values["boxes"] = hashlib.sha256(settings.boxes.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"--boxes={settings.boxes}: {error.strerror}; expected a CSV file") from None
    if settings.detector:
        with contextlib.suppress(OSError, TypeError):  # a module that is not written in Python
            code = inspect.getsource(inspect.getmodule(load_detector(settings.detector)))
            values["detector"] += f", source {hashlib.sha256(code.encode()).hexdigest()}"
    return values


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
            f"--detector={spec}: {type(error).__name__}: {one_line(error)}; expected module:function, from"
            " an RGB image [h, w, 3] to boxes (left, top, width, height)"
        ) from None
    return found
