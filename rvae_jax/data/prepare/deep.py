"""Pictures of more than 8 bits: integers of 12, 16 or 32 bits, and floating-point numbers."""

from __future__ import annotations

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from rvae_jax.data.prepare.sources.source import UnusableError

Range = tuple[float, float]  # the stored values that become 0 and 255

_PNG_DEPTH = 24  # where a PNG has its bits per value
_WHITE_IS_ZERO, _SEPARATE_PLANES, _PREMULTIPLIED = 0, 2, 1  # of a TIFF's tags
_SAMPLE_FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point", 5: "complex", 6: "complex"}


class Deep(NamedTuple):
    """A picture's stored values.

    Attributes:
      values: ``[h, w]`` grey or ``[h, w, 3]`` RGB, as they are in the file.
      most: the largest value that the file's type has room for; None for floating point.
      inverted: whether the smallest value is white.
    """

    values: np.ndarray
    most: int | None
    inverted: bool = False


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether the values of a picture, as its file ``data`` has them, do not fit into 8 bits."""
    return image.mode[0] in "IF" or (image.mode in ("RGB", "RGBA") and _bits(image, data) == 16)


def read(image: Image.Image, data: bytes) -> Deep:
    """The values of a deep picture; ``image`` is loaded.

    Raises:
      UnusableError: they cannot be read as they are.
    """
    if image.mode == "F":
        return Deep(np.asarray(image), None, _inverted(image))
    if image.mode[0] == "I":
        return Deep(np.asarray(image), (1 << min(16, _bits(image, data))) - 1, _inverted(image))
    if _tag(image, "ExtraSamples", ()) == (_PREMULTIPLIED,):
        raise UnusableError("its 16-bit colours are multiplied by their transparency; save them as they are")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # Pillow has their upper 8 bits only
    if values is None or values.dtype != np.uint16 or values.shape[:2] != image.size[::-1]:
        raise UnusableError("its 16-bit colours cannot be read in full")
    if values.ndim == 2 or values.shape[2] < 3:
        return Deep(values.reshape(values.shape[:2]), 65535)
    return Deep(np.ascontiguousarray(values[:, :, 2::-1]), 65535)


def to_8_bits(image: Image.Image, data: bytes, value_range: Range | None) -> Image.Image:
    """A deep picture in 8 bits, not turned: grey, RGB or RGBA.

    Args:
      image: the picture, loaded.
      data: its file.
      value_range: the stored values that become 0 and 255; None for all that the type has room for, of which colours
        keep the upper 8 bits, and grey is rounded.

    Raises:
      UnusableError: floating-point or 32-bit values without a range, or they cannot be read.
    """
    if _tag(image, "PlanarConfiguration") == _SEPARATE_PLANES and image.mode in ("RGB", "RGBA"):
        raise UnusableError("its 16-bit colours lie in separate planes; save them interleaved")
    key = image.info.get("transparency")  # a PNG's one colour that is transparent
    coloured = image.mode in ("RGB", "RGBA")
    if coloured and value_range is None and key is None:
        return image
    deep = read(image, data)
    shallow = image.copy() if coloured and value_range is None else Image.fromarray(mapped(deep, value_range))
    if key is not None:
        same = deep.values == np.asarray(key)
        alpha = np.where(same.all(axis=2) if coloured else same, 0, 255)
        shallow.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    elif image.mode == "RGBA":
        shallow.putalpha(image.getchannel("A"))
    shallow.info = {name: value for name, value in image.info.items() if name != "transparency"}  # it has the EXIF
    return shallow


def mapped(deep: Deep, value_range: Range | None) -> np.ndarray:
    """The values as uint8; see ``to_8_bits``."""
    values = deep.values
    least, most = values.min(), values.max()
    if not np.isfinite([least, most]).all():
        raise UnusableError("floating-point pixels that are not finite")
    if value_range is None:
        if deep.most is None:
            raise UnusableError(
                f"floating-point pixels from {least:g} to {most:g}; --range=LOW,HIGH or auto takes them"
            )
        if least < 0 or most > deep.most:
            raise UnusableError(
                f"32-bit pixels from {least} to {most}, expected 8 or 16 bits; --range=LOW,HIGH or auto takes them"
            )
        value_range = 0, deep.most
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        table = _scaled(np.arange(1 << 16), value_range)
        found = table[values]
    else:
        found = _scaled(values, value_range)
    return 255 - found if deep.inverted else found


def _scaled(values: np.ndarray, value_range: Range) -> np.ndarray:
    low, high = value_range
    shares = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return np.floor(shares * 255 + 0.5).astype(np.uint8)


def _bits(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[_PNG_DEPTH]
    return max(_tag(image, "BitsPerSample", (8,)))


def _inverted(image: Image.Image) -> bool:
    return _tag(image, "PhotometricInterpretation") == _WHITE_IS_ZERO


def _tag(image: Image.Image, name: str, default: object = None) -> object:
    """A tag of a TIFF, by its name in the standard; of other formats, the default."""
    return getattr(image, "tag_v2", {}).get(ExifTags.Base[name], default)


def read_other_tiff(data: bytes, most_pixels: int) -> Deep | None:
    """The values of a TIFF that Pillow does not know, upright, if they are floating-point; None if it is no TIFF.

    Raises:
      UnusableError: they are something else, or too many.
    """
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        height, width = (tags[ExifTags.Base[side]] for side in ("ImageLength", "ImageWidth"))
    except Exception:  # whatever a file that is no TIFF, or a broken one, leads Pillow into
        return None
    bits = tags.get(ExifTags.Base.BitsPerSample, (1,))
    kind = _SAMPLE_FORMATS.get(tags.get(ExifTags.Base.SampleFormat, (1,))[0], "unknown")
    readable = kind == "floating-point" and bits[0] >= 32 and len(bits) in (1, 3) and height * width <= most_pixels
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if readable else None
    if values is None or values.dtype.kind != "f":
        raise UnusableError(
            f"TIFF of {height}x{width} pixels of {len(bits)} {kind} values of {bits[0]} bits each, which is not read;"
            " expected integers of 8 or 16 bits, or floating point of 32 or 64"
        )
    inverted = tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO
    return Deep(values if values.ndim == 2 else np.ascontiguousarray(values[:, :, ::-1]), None, inverted)
