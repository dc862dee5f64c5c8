import io
import struct

import numpy as np
import pytest
from encoded import (
    IMAGE,
    LOSSLESS_WEBP,
    LOSSY,
    assert_near,
    decoded,
    exif_of,
    natural,
    with_segment,
)
from making import encode, noise
from PIL import Image

from rvae_jax.data.prepare.decode import decode


def _turned(stored, orientation):
    """By the EXIF standard: where the first row and column of what is stored are to be seen."""
    return {
        1: lambda: stored,  # top, left
        2: lambda: stored[:, ::-1],  # top, right
        3: lambda: stored[::-1, ::-1],  # bottom, right
        4: lambda: stored[::-1],  # bottom, left
        5: lambda: stored.swapaxes(0, 1),  # left, top
        6: lambda: stored.swapaxes(0, 1)[:, ::-1],  # right, top
        7: lambda: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: lambda: stored.swapaxes(0, 1)[::-1],  # left, bottom
    }[orientation]()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_upright(orientation):
    data = encode(IMAGE, "JPEG", exif=exif_of(orientation))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decoded(data), _turned(stored, orientation))


@pytest.mark.parametrize(
    "options",
    [{"format": "PNG"}, LOSSLESS_WEBP, {"format": "TIFF"}, {"format": "TIFF", "compression": "tiff_lzw"}],
    ids=["png", "webp", "tiff", "tiff_lzw"],
)
@pytest.mark.parametrize("orientation", [2, 6, 8])
def test_other_formats_are_turned_upright(options, orientation):
    np.testing.assert_array_equal(
        decoded(encode(IMAGE, exif=exif_of(orientation), **options)), _turned(IMAGE, orientation)
    )


@pytest.mark.parametrize("size", [(240, 400), (393, 400)])  # at an eighth, the second is square
def test_a_reduced_jpeg_is_turned_upright(size):
    image = natural(*size)
    data = encode(image, "JPEG", quality=95, exif=exif_of(6))
    asked = []
    picture = decode(data, lambda h, w: asked.append((h, w)) or 16)
    assert asked == [size[::-1]]  # upright, since the crop depends on it
    assert (picture.height, picture.width) == size[::-1]
    assert picture.pixels.shape == (50, size[0] // 8 + (size[0] % 8 > 0), 3)
    filled = np.pad(image, ((0, -size[0] % 8), (0, 0), (0, 0)), "edge")  # the last block
    expected = filled.reshape(len(filled) // 8, 8, 50, 8, 3).mean(axis=(1, 3))
    assert_near(picture.pixels, _turned(expected, 6))


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif",
        b"II*\0",
        noise(60).tobytes(),
        b"II*\0\xff\xff\xff\x7f" + bytes(40),  # the directory lies far beyond the end
        b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0" * 3,
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",  # orientation "abc"
    ],
)
def test_broken_exif_is_ignored(exif):
    data = with_segment(LOSSY["jpeg"], 0xE1, b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decoded(data), decoded(LOSSY["jpeg"]))


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize(("tag", "kind"), [(0x0100, 2), (0x014A, 6), (0x010E, 11), (0x8769, 8)])
def test_an_orientation_beside_a_broken_entry_counts(tag, kind):
    entries = struct.pack("<HHI4s", 0x0112, 3, 1, b"\6\0\0\0") + struct.pack("<HHI4s", tag, kind, 1, b"\xff\xff\0\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4)
    np.testing.assert_array_equal(decoded(with_segment(LOSSY["jpeg"], 0xE1, exif)), _turned(decoded(LOSSY["jpeg"]), 6))


def test_orientation_in_xmp_counts_whatever_the_size_of_the_file():
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    small = with_segment(LOSSY["jpeg"], 0xE1, xmp)
    large = small
    for _ in range(5):
        large = with_segment(large, 0xFE, bytes(60000))  # a comment
    np.testing.assert_array_equal(decoded(small), decoded(large))
