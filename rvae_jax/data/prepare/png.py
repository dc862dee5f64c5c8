"""What Pillow lets pass in a PNG: pixels that end early, a palette that is missing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from rvae_jax.data.prepare.sources.source import UnusableError

_HEADER, _PIXELS = b"IHDR", b"IDAT"
_VALUES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the colour type
_PART = 1 << 20  # bytes


def require_complete(image: Image.Image, data: bytes) -> None:
    """Raises an UnusableError for what Pillow has filled with black; ``image`` is loaded, and not converted."""
    if image.mode == "P" and not image.getpalette():
        raise UnusableError("its colours are missing: it has no palette")
    # What is missing is zeros at the end. Only where there are some, the pixels are counted, which takes as long as
    # decoding them. Of interlaced pictures, Pillow itself counts them.
    width, height = image.size
    if not np.asarray(image.crop((0, height - 1, width, height))).any() and _is_short(data):
        raise UnusableError("its pixels end before the picture does")


def _is_short(data: bytes) -> bool:
    inflater, found = zlib.decompressobj(), 0
    expected = 0
    for kind, content in _chunks(data):
        if kind == _HEADER:
            width, height, depth, colour, is_interlaced = struct.unpack(">IIBBxxB", content)
            if is_interlaced:
                return False
            # Each row begins with the number of its filter.
            expected = height * (1 + -(-width * depth * _VALUES[colour] // 8))
        while kind == _PIXELS and content and not inflater.eof:
            try:
                found += len(inflater.decompress(content, _PART))
            except zlib.error:  # a wrong checksum at the end, which is no pixel
                return found < expected
            content = inflater.unconsumed_tail
    return found + len(inflater.flush()) < expected


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length
