import os
import resource
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded import (
    GREY,
    IMAGE,
    LOSSLESS,
    LOSSY,
    adam7,
    assert_near,
    decoded,
    grey_as_rgb,
    large,
    natural,
    png,
    png_chunk,
    reason_for,
    with_segment,
)
from making import encode
from PIL import Image, PngImagePlugin

from rvae_jax.data import images
from rvae_jax.data.prepare.decode import MAX_PIXELS, decode
from rvae_jax.data.prepare.sources.source import UnusableError


@pytest.mark.parametrize("kind", ["jpeg", "jpeg_progressive", "jpeg_444", "jpeg_422", "jpeg_restarts", "jpeg_opencv"])
def test_opencv_and_pillow_agree(kind, monkeypatch):
    data = LOSSY[kind]
    by_opencv = decoded(data)
    monkeypatch.setattr(cv2, "imdecode", None)  # must not be called
    by_pillow = decoded(with_segment(data, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"))
    np.testing.assert_array_equal(by_pillow, by_opencv)


def test_opencv_and_pillow_agree_on_grey():
    by_pillow = decoded(with_segment(GREY, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"))
    np.testing.assert_array_equal(by_pillow, decoded(GREY))


@pytest.mark.parametrize("shrink", [1, 2, 3.9, 4, 5, 7.9, 8, 15, 16, 40, 5000])
def test_reduced_decoding_leaves_twice_what_is_wanted(shrink):
    h, w = 403, 611
    picture = decode(large(encode(natural(h, w), "JPEG")), lambda height, width: shrink)
    assert (picture.height, picture.width) == (h, w)
    reduction = max(factor for factor in (1, 2, 4, 8) if factor == 1 or factor <= shrink / 2)
    assert picture.pixels.shape == (-(-h // reduction), -(-w // reduction), 3)


def test_reduced_decoding_is_close_to_complete_decoding():
    data = large(encode(natural(480, 640), "JPEG", quality=95))
    reduced = decode(data, lambda h, w: 8).pixels
    whole = decode(data).pixels
    assert reduced.shape == (120, 160, 3)
    assert whole.shape == (480, 640, 3)
    difference = np.abs(images.resize(reduced, 60, 80).astype(int) - images.resize(whole, 60, 80))
    assert difference.max() <= 8
    assert difference.mean() < 1


def test_small_jpegs_and_other_formats_are_not_reduced():
    for data in (encode(IMAGE, "PNG"), encode(IMAGE, "JPEG")):
        assert decode(data, lambda h, w: 16).pixels.shape == (45, 61, 3)


def _huge_jpeg(width, height):
    """A row of blocks, again and again."""
    row = natural(8, width)[:, :, 0]
    jpeg = bytearray(encode(np.concatenate([row, row]), "JPEG", restart_marker_rows=1, optimize=False))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    scan = jpeg.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")
    blocks = jpeg[start : jpeg.index(b"\xff\xd0", start)]
    rows = b"".join(blocks + bytes([0xFF, 0xD0 + i % 8]) for i in range(height // 8))
    return bytes(jpeg[:start]) + rows[:-2] + b"\xff\xd9", row


def test_a_huge_jpeg_is_decoded_at_a_fraction_of_its_size():
    data, row = _huge_jpeg(10_000, 10_000)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (60 << 20), limits[1]))  # it has 300 MB of pixels
    start = time.perf_counter()
    try:
        picture = decode(data, lambda h, w: min(h, w) / 256)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.perf_counter() - start < 3
    assert (picture.height, picture.width) == (10_000, 10_000)
    assert picture.pixels.shape == (1250, 1250, 3)
    expected = np.tile(row.reshape(8, 1250, 8).mean(axis=(0, 2)), (1250, 1))
    assert_near(picture.pixels, grey_as_rgb(expected))


def _megapixels(data):
    reason = reason_for(data)
    assert reason.endswith(f"megapixels, expected at most {MAX_PIXELS // 1_000_000}")
    return int(reason.split()[0])


def test_too_many_pixels_are_refused():
    assert _megapixels(png(20_001, 10_000, 8, 2, b"")) == 200
    jpeg = bytearray(large(LOSSY["jpeg"]))
    frame = jpeg.index(b"\xff\xc0", 300_000)
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    assert _megapixels(bytes(jpeg)) == 4225


@pytest.mark.parametrize("side", [23_000, 65_000])
def test_too_many_pixels_in_the_header_of_a_small_jpeg_are_refused(side):
    jpeg = bytearray(LOSSY["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    assert _megapixels(bytes(jpeg)) == side**2 // 1_000_000


def test_size_in_a_comment_of_a_jpeg_does_not_let_a_huge_one_pass():
    comment = b"\xff\xc0\0\x11\x08\0\x10\0\x10"
    start = LOSSY["jpeg"].index(b"\xff\xc0")
    header = LOSSY["jpeg"][start : start + 5] + (65000).to_bytes(2, "big") * 2
    data = with_segment(LOSSY["jpeg"][:start] + header + LOSSY["jpeg"][start + 9 :], 0xFE, comment)
    with pytest.raises(UnusableError, match="4225 megapixels, expected at most 200"):
        decode(data)


def _limits():
    return Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY


def test_pillows_limits_are_as_before_once_all_threads_are_done(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # fewer than any of these pictures has
    before = _limits()
    pictures = [LOSSLESS["png"], LOSSLESS["webp"], LOSSY["jpeg_cmyk"], b"broken", LOSSLESS["tiff"]] * 40

    def size(data):
        try:
            return decode(data).pixels.shape
        except UnusableError:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(size, pictures))
    assert found == [None if data == b"broken" else IMAGE.shape for data in pictures]
    assert _limits() == before


@pytest.mark.parametrize("missing", [1, 30])
@pytest.mark.parametrize(("depth", "colour", "row"), [(8, 2, 120), (1, 0, 5), (8, 6, 160), (16, 0, 80), (4, 3, 20)])
def test_a_png_whose_pixels_end_early_is_refused(depth, colour, row, missing):
    palette = png_chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
    rows = (b"\0" + b"\x55" * row) * 40
    assert decoded(png(40, 40, depth, colour, rows, before=palette)).shape == (40, 40, 3)
    short = png(40, 40, depth, colour, rows[: -missing * (row + 1)], before=palette)
    assert reason_for(short) == "its pixels end before the picture does"


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_that_ends_in_black_is_complete(interlaced):
    image = np.zeros((13, 11, 3), np.uint8)
    image[:5] = 200
    data = adam7(image) if interlaced else encode(image)
    np.testing.assert_array_equal(decoded(data), image)
    if interlaced:
        rows = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])
        assert "truncated" in reason_for(png(11, 13, 8, 2, rows[:-40], interlaced=True))


@pytest.mark.parametrize("shape", [(341, 1024), (1000, 701), (1500, 2000)])
def test_a_large_black_png_is_complete(shape):
    """Its pixels are counted in parts of a megabyte."""
    assert not decoded(encode(np.zeros((*shape, 3), np.uint8))).any()


def test_a_palette_picture_without_a_palette_is_refused():
    assert reason_for(png(40, 40, 8, 3, (b"\0" + b"\1" * 40) * 40)) == "its colours are missing: it has no palette"
