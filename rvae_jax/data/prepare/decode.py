"""Pictures as people have them, to upright RGB. What cannot be shown faithfully says why."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 500_000_000

# Pillow's own limits refuse what a good camera, or an editor that writes long notes, makes.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26
_LARGE = 25_000_000  # pixels
one_large_picture: contextlib.AbstractContextManager = contextlib.nullcontext()  # held by who has one in memory
_SMALL_FILE = 1 << 18  # bytes; a larger JPEG gains more from being decoded at a fraction of its size


class UnusableError(Exception):
    """A picture that cannot be used. The message is the reason, for the report."""


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
      pixels: ``[h, w, 3]`` uint8, upright; a JPEG may be decoded at a half, a quarter or an eighth of its size.
      height: of the whole picture.
      width: of the whole picture.
    """

    pixels: np.ndarray
    height: int
    width: int


def decode(data: bytes, shrinks: Callable[[int, int], float] = lambda height, width: 1.0) -> Picture:
    """Decodes a JPEG, PNG, WebP, BMP or TIFF, whatever its name says.

    Turned upright by its EXIF orientation. Grey and palettes become RGB, transparency is laid on white, 16 bits are
    reduced to 8, CMYK is converted without a profile; colour profiles are ignored. Of several frames the first counts.

    Args:
      data: the file's bytes.
      shrinks: from the picture's height and width, how many times it will be shrunk at least.

    Returns:
      The picture, decoded at no less than twice the size that it will be shrunk to.

    Raises:
      UnusableError: with the reason.
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
        return _decode_any(data, shrinks)
    except UnusableError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        raise UnusableError(f"cannot be decoded: {_one_line(error)}") from None


def _ends_in_zeros(data: bytes) -> bool:
    """Whether a JPEG or WebP has zeros where the rest of it should be, which decoders take for pixels."""
    if not data.endswith(bytes(64)):
        return False
    is_jpeg = data.startswith(b"\xff\xd8\xff") and not data.rstrip(b"\0").endswith(b"\xff\xd9")
    return is_jpeg or data[8:12] == b"WEBP"


# A JPEG's header of 8-bit pixels in 1 or 3 channels: height and width.
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc2]\0[\x0b\x11]\x08(..)(..)", re.DOTALL)


def _is_ordinary_jpeg(data: bytes) -> bool:
    """Whether it is whole, upright, of moderate size and grey or RGB, as far as its bytes tell without decoding it."""
    if len(data) > _SMALL_FILE or not (data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9")):
        return False  # OpenCV would fill in what is missing at the end
    frame = _JPEG_FRAME.search(data)
    if frame is None or int.from_bytes(frame[1], "big") * int.from_bytes(frame[2], "big") > _LARGE:
        return False
    return not any(mark in data for mark in (b"Exif\0", b"tiff:Orientation", b"Adobe\0"))


def _decode_any(data: bytes, shrinks: Callable[[int, int], float]) -> Picture:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise UnusableError(f"not to be recognised as {', '.join(FORMATS)}; begins with {data[:12]!r}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnusableError(f"{width * height // 1_000_000} megapixels, expected at most {MAX_PIXELS // 1_000_000}")
    if image.format == "PNG":  # whose checksums are not looked at otherwise
        image.verify()
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        factor = shrinks(*((width, height) if _lies_on_its_side(image) else (height, width))) / 2
        if factor > 1:
            image.draft(None, tuple(max(1, int(side / factor)) for side in image.size))
    with one_large_picture if math.prod(image.size) > _LARGE else contextlib.nullcontext():
        image.load()
        if _lies_on_its_side(image):
            width, height = height, width
        with contextlib.suppress(Exception):  # broken EXIF data of a sound picture
            ImageOps.exif_transpose(image, in_place=True)
        return Picture(_to_rgb(image), height, width)


def _lies_on_its_side(image: Image.Image) -> bool:
    if image.format == "TIFF":  # its size is told upright
        return False
    with contextlib.suppress(Exception):  # broken EXIF data of a sound picture
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise UnusableError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UnusableError(f"32-bit pixels from {values.min()} to {values.max()}, expected 8 or 16 bits")
        grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
