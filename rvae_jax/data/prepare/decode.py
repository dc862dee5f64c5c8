"""Decodes the pictures that people have to upright RGB, or tells why that cannot be done faithfully."""

from __future__ import annotations

import contextlib
import io
import math
import re
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin

from rvae_jax.data import images
from rvae_jax.data.prepare import deep, png
from rvae_jax.data.prepare.sources import kinds
from rvae_jax.data.prepare.sources.source import UnusableError
from rvae_jax.errors import one_line

MAX_PIXELS = 200_000_000  # as phones have at most; decoding takes up to ten bytes for each

_MAX_TEXT = 1 << 26  # bytes in a PNG
_LARGE = 25_000_000  # pixels
_SMALL_FILE = 1 << 18  # bytes; a larger JPEG gains more from being decoded at a fraction of its size
NO_LOCK = contextlib.nullcontext()


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
      pixels: ``[h, w, 3]`` uint8, upright; a JPEG may be decoded at a half, a quarter or an eighth of its size.
      height: of the picture in its file, upright.
      width: likewise.
    """

    pixels: np.ndarray
    height: int
    width: int


def decode(
    data: bytes,
    shrinks: Callable[[int, int], float] = lambda height, width: 1.0,
    large_picture_lock: contextlib.AbstractContextManager = NO_LOCK,
    value_range: deep.Range | None = None,
) -> Picture:
    """Decodes a picture of one of ``kinds.FORMATS``, whatever its name says.

    The picture is turned upright by its EXIF orientation. Grey and palettes become RGB, transparency is laid on white,
    more than 8 bits are reduced to 8, CMYK is converted without a profile; colour profiles are ignored. Of several
    frames the first is taken.

    Args:
      data: the file's bytes.
      shrinks: from the picture's height and width to how many times it will be shrunk at least.
      large_picture_lock: held while a large picture is in memory, so that of several processes only one has one.
      value_range: of pictures of more than 8 bits, the values that become 0 and 255; see ``deep.to_8_bits``.

    Returns:
      The picture, decoded at no less than twice the size that it will be shrunk to.

    Raises:
      UnusableError: the picture cannot be used; the message is the reason.
    """
    if not data:
        raise UnusableError("empty file")
    if _ends_in_zeros(data):
        raise UnusableError("ends in zeros, as an interrupted download does")
    if _is_ordinary_jpeg(data):  # the usual case, twice as fast with OpenCV
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        with contextlib.suppress(cv2.error):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            if pixels is not None:
                return Picture(pixels, *pixels.shape[:2])
    try:
        with _pillow_limits_lifted():
            return _decode_any(data, shrinks, large_picture_lock, value_range)
    except UnusableError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        raise UnusableError(f"cannot be decoded: {one_line(error)}") from None


def _ends_in_zeros(data: bytes) -> bool:
    """Whether a JPEG or WebP has zeros where the rest of it should be, which decoders take for pixels."""
    if not data.endswith(bytes(64)):
        return False
    is_jpeg = data.startswith(b"\xff\xd8\xff") and not data.rstrip(b"\0").endswith(b"\xff\xd9")
    return is_jpeg or data[8:12] == b"WEBP"


# A JPEG's header of 8-bit pixels in 1 or 3 channels: height and width.
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc2]\0[\x0b\x11]\x08(..)(..)", re.DOTALL)


def _is_ordinary_jpeg(data: bytes) -> bool:
    """Whether it is complete, upright, of moderate size, and grey or RGB, as far as can be told without decoding it."""
    if len(data) > _SMALL_FILE or not (data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9")):
        return False  # OpenCV would fill in what is missing at the end
    frame = _JPEG_FRAME.search(data)
    if frame is None or int.from_bytes(frame[1], "big") * int.from_bytes(frame[2], "big") > _LARGE:
        return False
    return not any(mark in data for mark in (b"Exif\0", b"tiff:Orientation", b"Adobe\0"))


_limits_lock = threading.Lock()
_limits_lifted = 0  # how many calls are inside of it
_limits_before: tuple[int | None, int, int] = (None, 0, 0)


@contextlib.contextmanager
def _pillow_limits_lifted() -> Iterator[None]:
    """Without Pillow's limits, which refuse pictures of good cameras, and of editors that write long notes.

    They are global. With several threads in here, the first lifts them and the last puts them back.
    """
    global _limits_lifted, _limits_before
    with _limits_lock:
        if not _limits_lifted:
            _limits_before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
            _set_limits(None, _MAX_TEXT, _MAX_TEXT)
        _limits_lifted += 1
    try:
        yield
    finally:
        with _limits_lock:
            _limits_lifted -= 1
            if not _limits_lifted:
                _set_limits(*_limits_before)


def _set_limits(pixels: int | None, text_chunk: int, text_memory: int) -> None:
    Image.MAX_IMAGE_PIXELS = pixels
    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = text_chunk, text_memory


def deep_values(data: bytes) -> deep.Deep | None:
    """The stored values of a picture of more than 8 bits; None for one of 8 bits, which is not decoded.

    Raises:
      UnusableError: it cannot be read.
    """
    try:
        with _pillow_limits_lifted():
            image = _open(data)
            if isinstance(image, deep.Deep):
                return image
            if not deep.is_deep(image, data):
                return None
            image.load()
            return deep.read(image, data)
    except UnusableError:
        raise
    except Exception as error:  # as above
        raise UnusableError(f"cannot be decoded: {one_line(error)}") from None


def _open(data: bytes) -> Image.Image | deep.Deep:
    """The picture, not decoded yet; or the values of one that Pillow does not know."""
    kinds.let_pillow_read_heif()
    try:
        image = Image.open(io.BytesIO(data), formats=kinds.FORMATS)
    except Image.UnidentifiedImageError:
        if (values := deep.read_other_tiff(data, MAX_PIXELS)) is not None:
            return values
        missing = kinds.missing_for(data) or f"begins with {data[:12]!r}"
        raise UnusableError(f"not recognised as {', '.join(kinds.FORMATS)}; {missing}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnusableError(f"{width * height // 1_000_000} megapixels, expected at most {MAX_PIXELS // 1_000_000}")
    return image


def _decode_any(
    data: bytes,
    shrinks: Callable[[int, int], float],
    large_picture_lock: contextlib.AbstractContextManager,
    value_range: deep.Range | None,
) -> Picture:
    image = _open(data)
    if isinstance(image, deep.Deep):
        pixels = images.with_channels(np.atleast_3d(deep.mapped(image, value_range)), 3)
        return Picture(pixels, *pixels.shape[:2])
    width, height = image.size
    if image.format == "PNG":  # its checksums are checked only here
        image.verify()
        image = Image.open(io.BytesIO(data), formats=kinds.FORMATS)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        factor = shrinks(*((width, height) if _lies_on_its_side(image) else (height, width))) / 2
        if factor > 1:
            image.draft(None, tuple(max(1, int(side / factor)) for side in image.size))
    with large_picture_lock if math.prod(image.size) > _LARGE else NO_LOCK:
        image.load()
        if image.format == "PNG":
            png.require_complete(image, data)
        if _lies_on_its_side(image):
            width, height = height, width
        if deep.is_deep(image, data):
            image = deep.to_8_bits(image, data, value_range)
        with contextlib.suppress(Exception):  # the EXIF data is broken, the picture is not
            ImageOps.exif_transpose(image, in_place=True)
        return Picture(_to_rgb(image), height, width)


def _lies_on_its_side(image: Image.Image) -> bool:
    if image.format == "TIFF":  # Pillow tells its size upright
        return False
    with contextlib.suppress(Exception):  # the EXIF data is broken, the picture is not
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))
