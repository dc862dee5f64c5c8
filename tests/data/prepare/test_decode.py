import io
import os
import resource
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rvae_jax.data import images
from rvae_jax.data.prepare.decode import MAX_PIXELS, decode
from rvae_jax.data.prepare.sources.source import UnusableError

LOSSLESS_WEBP = {"format": "WEBP", "lossless": True, "exact": True}


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _natural(h, w, seed=0):
    """Smooth, in all colours."""
    coarse = _noise(max(2, h // 12), max(2, w // 12), 3, seed=seed)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)


def _save(picture, format, **options):
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def _pixels(data):
    picture = decode(data)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == (picture.height, picture.width, 3)
    return picture.pixels


def _reason(data):
    with pytest.raises(UnusableError) as info:
        decode(data)
    reason = str(info.value)
    assert reason
    assert "\n" not in reason
    return reason


def _assert_near(found, expected, mean=2.0):
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float64) - expected).mean() < mean


def _rounded(exact):
    return np.floor(exact + 0.5).astype(np.uint8)


def _over_white(values, alpha):
    alpha = alpha.astype(np.float64) / 255
    return _rounded(values * alpha + 255 * (1 - alpha))


def _grey_as_rgb(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width, height, depth, colour, rows, interlaced=False, before=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + data + _chunk(b"IEND", b"")


def _adam7(image):
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [image[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    return _png(image.shape[1], image.shape[0], 8, 2, rows, interlaced=True)


def _segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def _with_segment(jpeg, marker, content):
    return jpeg[:2] + _segment(marker, content) + jpeg[2:]


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# What people have


IMAGE = _natural(45, 61)
LOSSLESS = {
    "png": _save(IMAGE, "PNG"),
    "png_noise": _save(_noise(45, 61, 3), "PNG"),
    "adam7": _adam7(IMAGE),
    "bmp": _save(IMAGE, "BMP"),
    "tiff": _save(IMAGE, "TIFF"),
    "tiff_lzw": _save(IMAGE, "TIFF", compression="tiff_lzw"),
    "tiff_deflate": _save(IMAGE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff_packbits": _save(IMAGE, "TIFF", compression="packbits"),
    "tiff_pages": _save(IMAGE, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 8))]),
    "webp": _save(IMAGE, **LOSSLESS_WEBP),
    "webp_frames": _save(IMAGE, **LOSSLESS_WEBP, save_all=True, append_images=[Image.new("RGB", (61, 45))]),
    "apng": _save(IMAGE, "PNG", save_all=True, append_images=[Image.new("RGB", (61, 45))]),
}
LOSSY = {
    "jpeg": _save(IMAGE, "JPEG", quality=95),
    "jpeg_progressive": _save(IMAGE, "JPEG", quality=95, progressive=True),
    "jpeg_444": _save(IMAGE, "JPEG", quality=95, subsampling=0),
    "jpeg_422": _save(IMAGE, "JPEG", quality=95, subsampling=1),
    "jpeg_restarts": _save(IMAGE, "JPEG", quality=95, restart_marker_blocks=2),
    "jpeg_opencv": cv2.imencode(".jpg", IMAGE[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(),
    "jpeg_exif": _save(IMAGE, "JPEG", quality=95, exif=_exif(1)),
    "jpeg_cmyk": _save(Image.fromarray(IMAGE).convert("CMYK"), "JPEG", quality=95),
    "jpeg_frames": _save(IMAGE, "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (61, 45))]),
    "tiff_jpeg": _save(IMAGE, "TIFF", compression="jpeg", quality=95),
    "webp_lossy": _save(IMAGE, "WEBP", quality=95),
}
GREY = _save(Image.fromarray(IMAGE[:, :, 1]), "JPEG", quality=95)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless(kind):
    expected = _noise(45, 61, 3) if kind == "png_noise" else IMAGE
    np.testing.assert_array_equal(_pixels(LOSSLESS[kind]), expected)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy(kind):
    _assert_near(_pixels(LOSSY[kind]), IMAGE)


def test_grey_jpeg():
    pixels = _pixels(GREY)
    _assert_near(pixels, _grey_as_rgb(IMAGE[:, :, 1]))
    np.testing.assert_array_equal(np.ptp(pixels, axis=2), 0)


def test_cmyk_of_adobe():
    data = LOSSY["jpeg_cmyk"]
    assert b"Adobe\0" in data
    four = np.zeros((16, 16, 4), np.uint8)
    four[:8] = [0, 255, 255, 0]  # magenta and yellow
    four[8:] = [0, 0, 0, 204]
    pixels = _pixels(_save(Image.fromarray(four, "CMYK"), "JPEG", quality=100, subsampling=0))
    _assert_near(pixels[:8], np.broadcast_to([255, 0, 0], (8, 16, 3)), 3)
    _assert_near(pixels[8:], np.full((8, 16, 3), 51), 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_tiny(format, size):
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    pixels = _pixels(_save(np.full((*size, 3), [200, 100, 50], np.uint8), format, **options))
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= (4 if format == "JPEG" else 0)
    assert pixels.shape == (*size, 3)


def test_padding_after_the_end_of_a_jpeg():
    for padding in (bytes(200), b"made by a camera"):
        np.testing.assert_array_equal(_pixels(LOSSY["jpeg"] + padding), _pixels(LOSSY["jpeg"]))


# Upright


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
def test_orientation_of_a_jpeg(orientation):
    data = _save(IMAGE, "JPEG", exif=_exif(orientation))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(_pixels(data), _turned(stored, orientation))


@pytest.mark.parametrize(
    "options",
    [{"format": "PNG"}, LOSSLESS_WEBP, {"format": "TIFF"}, {"format": "TIFF", "compression": "tiff_lzw"}],
    ids=["png", "webp", "tiff", "tiff_lzw"],
)
@pytest.mark.parametrize("orientation", [2, 6, 8])
def test_orientation_of_others(options, orientation):
    np.testing.assert_array_equal(
        _pixels(_save(IMAGE, exif=_exif(orientation), **options)), _turned(IMAGE, orientation)
    )


@pytest.mark.parametrize("size", [(240, 400), (393, 400)])  # at an eighth, the second is square
def test_orientation_at_reduced_size(size):
    image = _natural(*size)
    data = _save(image, "JPEG", quality=95, exif=_exif(6))
    asked = []
    picture = decode(data, lambda h, w: asked.append((h, w)) or 16)
    assert asked == [size[::-1]]  # upright, since the crop depends on it
    assert (picture.height, picture.width) == size[::-1]
    assert picture.pixels.shape == (50, size[0] // 8 + (size[0] % 8 > 0), 3)
    filled = np.pad(image, ((0, -size[0] % 8), (0, 0), (0, 0)), "edge")  # the last block
    expected = filled.reshape(len(filled) // 8, 8, 50, 8, 3).mean(axis=(1, 3))
    _assert_near(picture.pixels, _turned(expected, 6))


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif",
        b"II*\0",
        _noise(60).tobytes(),
        b"II*\0\xff\xff\xff\x7f" + bytes(40),  # the directory lies far beyond the end
        b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0" * 3,
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",  # orientation "abc"
    ],
)
def test_broken_exif(exif):
    data = _with_segment(LOSSY["jpeg"], 0xE1, b"Exif\0\0" + exif)
    np.testing.assert_array_equal(_pixels(data), _pixels(LOSSY["jpeg"]))


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize(("tag", "kind"), [(0x0100, 2), (0x014A, 6), (0x010E, 11), (0x8769, 8)])
def test_orientation_beside_a_broken_entry(tag, kind):
    entries = struct.pack("<HHI4s", 0x0112, 3, 1, b"\6\0\0\0") + struct.pack("<HHI4s", tag, kind, 1, b"\xff\xff\0\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4)
    np.testing.assert_array_equal(_pixels(_with_segment(LOSSY["jpeg"], 0xE1, exif)), _turned(_pixels(LOSSY["jpeg"]), 6))


def test_orientation_in_xmp_counts_whatever_the_size_of_the_file():
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    small = _with_segment(LOSSY["jpeg"], 0xE1, xmp)
    large = small
    for _ in range(5):
        large = _with_segment(large, 0xFE, bytes(60000))  # a comment
    np.testing.assert_array_equal(_pixels(small), _pixels(large))


# Grey, palettes, transparency, depth


def test_palette():
    palette = _noise(256, 3, seed=1)
    indices = _noise(20, 30, seed=2)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    for format in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(_pixels(_save(picture, format)), palette[indices])


def test_palette_of_few_colours():
    palette = _noise(4, 3, seed=1)
    indices = _noise(20, 30, seed=2) % 4
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    np.testing.assert_array_equal(_pixels(_save(picture, "PNG", bits=2)), palette[indices])


def test_palette_with_transparency():
    palette, alpha = _noise(256, 3, seed=1), _noise(256, seed=3)
    indices = _noise(40, 50, seed=2)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    data = _save(picture, "PNG", transparency=alpha.tobytes())
    expected = _over_white(palette[indices], alpha[indices][:, :, None])
    np.testing.assert_array_equal(_pixels(data), expected)
    expected = palette[indices]
    expected[indices == 7] = 255
    np.testing.assert_array_equal(_pixels(_save(picture, "PNG", transparency=7)), expected)


def test_colour_that_is_transparent():
    image = _noise(20, 30, 3)
    image[3, 4] = [1, 2, 3]
    expected = image.copy()
    expected[3, 4] = 255
    np.testing.assert_array_equal(_pixels(_save(image, "PNG", transparency=(1, 2, 3))), expected)
    grey = image[:, :, 0]
    expected = np.where(grey == grey[0, 0], 255, grey)
    np.testing.assert_array_equal(
        _pixels(_save(grey, "PNG", transparency=int(grey[0, 0]))), _grey_as_rgb(expected.astype(np.uint8))
    )


VALUE, ALPHA = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))


def test_transparency_of_colours_lies_on_white():
    colours = np.stack([VALUE, 255 - VALUE, VALUE ^ 90], axis=2)
    expected = _over_white(colours, ALPHA[:, :, None])
    picture = np.dstack([colours, ALPHA])
    for options in ({"format": "PNG"}, {"format": "TIFF"}, LOSSLESS_WEBP):
        np.testing.assert_array_equal(_pixels(_save(picture, **options)), expected)


def test_transparency_of_grey_lies_on_white():
    data = _save(Image.fromarray(np.dstack([VALUE, ALPHA]), "LA"), "PNG")
    np.testing.assert_array_equal(_pixels(data), _grey_as_rgb(_over_white(VALUE, ALPHA)))


def test_grey():
    for format in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(_pixels(_save(VALUE, format)), _grey_as_rgb(VALUE))


def test_one_bit():
    bits = _noise(19, 29) > 100
    for options in (
        {"format": "PNG"},
        {"format": "BMP"},
        {"format": "TIFF"},
        {"format": "TIFF", "compression": "group4"},
    ):
        np.testing.assert_array_equal(
            _pixels(_save(Image.fromarray(bits), **options)), _grey_as_rgb(bits * np.uint8(255))
        )


@pytest.mark.parametrize("end", ["png", "tiff", "tiff_big_endian"])
def test_16_bits_of_grey_are_rounded(end):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if end == "tiff_big_endian":
        data = _save(Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes()), "TIFF")
    else:
        data = cv2.imencode(f".{end}", values)[1].tobytes()
    np.testing.assert_array_equal(_pixels(data), _grey_as_rgb(_rounded(values / 257)))


@pytest.mark.parametrize("end", ["png", "tiff"])
def test_48_bits(end):
    values = np.random.default_rng(4).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    data = cv2.imencode(f".{end}", values[:, :, ::-1])[1].tobytes()
    assert np.abs(_pixels(data) - values / 257).max() < 1


def test_32_bits_in_the_range_of_16():
    values = np.array([[0, 65535, 32768, 257]], np.int32)
    np.testing.assert_array_equal(_pixels(_save(values, "TIFF"))[0, :, 0], [0, 255, 128, 1])


@pytest.mark.parametrize("value", [65536, -1])
def test_32_bits(value):
    assert f"32-bit pixels from {min(0, value)} to" in _reason(_save(np.array([[0, value]], np.int32), "TIFF"))


def test_floating_point():
    assert "floating-point" in _reason(_save(np.array([[0.0, 1.0]], np.float32), "TIFF"))


def test_long_text_and_profile_of_a_png():
    for chunk in (b"zTXt" + b"workflow\0\0", b"iCCP" + b"profile\0\0"):
        chunk = _chunk(chunk[:4], chunk[4:] + zlib.compress(bytes(2 << 20)))
        data = LOSSLESS["png"]
        np.testing.assert_array_equal(_pixels(data[:33] + chunk + data[33:]), IMAGE)


# Two decoders of JPEG, and sizes


@pytest.mark.parametrize("kind", ["jpeg", "jpeg_progressive", "jpeg_444", "jpeg_422", "jpeg_restarts", "jpeg_opencv"])
def test_opencv_and_pillow_agree(kind, monkeypatch):
    data = LOSSY[kind]
    by_opencv = _pixels(data)
    monkeypatch.setattr(cv2, "imdecode", None)  # must not be called
    by_pillow = _pixels(_with_segment(data, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"))
    np.testing.assert_array_equal(by_pillow, by_opencv)


def test_opencv_and_pillow_agree_on_grey():
    by_pillow = _pixels(_with_segment(GREY, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"))
    np.testing.assert_array_equal(by_pillow, _pixels(GREY))


def _large(jpeg):
    """Too large for the fast path."""
    for _ in range(5):
        jpeg = _with_segment(jpeg, 0xFE, bytes(60000))
    return jpeg


@pytest.mark.parametrize("shrink", [1, 2, 3.9, 4, 5, 7.9, 8, 15, 16, 40, 5000])
def test_reduced_decoding_leaves_twice_what_is_wanted(shrink):
    h, w = 403, 611
    picture = decode(_large(_save(_natural(h, w), "JPEG")), lambda height, width: shrink)
    assert (picture.height, picture.width) == (h, w)
    reduction = max(factor for factor in (1, 2, 4, 8) if factor == 1 or factor <= shrink / 2)
    assert picture.pixels.shape == (-(-h // reduction), -(-w // reduction), 3)


def test_reduced_decoding_then_resize_is_close_to_the_whole():
    data = _large(_save(_natural(480, 640), "JPEG", quality=95))
    reduced = decode(data, lambda h, w: 8).pixels
    whole = decode(data).pixels
    assert reduced.shape == (120, 160, 3)
    assert whole.shape == (480, 640, 3)
    difference = np.abs(images.resize(reduced, 60, 80).astype(int) - images.resize(whole, 60, 80))
    assert difference.max() <= 8
    assert difference.mean() < 1


def test_small_jpeg_and_other_formats_are_decoded_whole():
    for data in (_save(IMAGE, "PNG"), _save(IMAGE, "JPEG")):
        assert decode(data, lambda h, w: 16).pixels.shape == (45, 61, 3)


def _huge_jpeg(width, height):
    """A row of blocks, again and again."""
    row = _natural(8, width)[:, :, 0]
    jpeg = bytearray(_save(np.concatenate([row, row]), "JPEG", restart_marker_rows=1, optimize=False))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    scan = jpeg.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")
    blocks = jpeg[start : jpeg.index(b"\xff\xd0", start)]
    rows = b"".join(blocks + bytes([0xFF, 0xD0 + i % 8]) for i in range(height // 8))
    return bytes(jpeg[:start]) + rows[:-2] + b"\xff\xd9", row


def test_huge_jpeg_is_decoded_reduced():
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
    _assert_near(picture.pixels, _grey_as_rgb(expected))


def _megapixels(data):
    reason = _reason(data)
    assert reason.endswith(f"megapixels, expected at most {MAX_PIXELS // 1_000_000}")
    return int(reason.split()[0])


def test_more_pixels_than_anyone_needs():
    assert _megapixels(_png(25_001, 20_000, 8, 2, b"")) == 500
    jpeg = bytearray(_large(LOSSY["jpeg"]))
    frame = jpeg.index(b"\xff\xc0", 300_000)
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    assert _megapixels(bytes(jpeg)) == 4225


@pytest.mark.parametrize("side", [23_000, 65_000])
def test_more_pixels_in_the_header_of_a_small_jpeg(side):
    jpeg = bytearray(LOSSY["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    assert _megapixels(bytes(jpeg)) == side**2 // 1_000_000


# What cannot be used


WHOLE = {
    **LOSSLESS,
    **LOSSY,
    "jpeg_grey": GREY,
    "jpeg_large": _large(LOSSY["jpeg"]),
    "bmp_palette": _save(Image.fromarray(IMAGE).quantize(64), "BMP"),
    "png_palette": _save(Image.fromarray(IMAGE).quantize(64), "PNG"),
    "png_alpha": _save(np.dstack([IMAGE, IMAGE[:, :, 0]]), "PNG"),
    "png_16": cv2.imencode(".png", IMAGE.astype(np.uint16) * 257)[1].tobytes(),
}


def _lost_or_same(data, expected):
    """Whether it is refused; else it must have all of the pixels."""
    try:
        found = decode(data).pixels
    except UnusableError as error:
        assert str(error)
        assert "\n" not in str(error)
        return True
    np.testing.assert_array_equal(found, expected)
    return False


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize("kind", WHOLE)
def test_truncated(kind):
    data = WHOLE[kind]
    expected = decode(data).pixels
    rng = np.random.default_rng(len(data))
    first = {"tiff_pages": 0.5, "webp_frames": 0.5, "apng": 0.5, "jpeg_frames": 0.3}.get(kind, 0.85)  # of the frames
    for length in (*rng.integers(1, int(first * len(data)), 20).tolist(), 20):
        assert _lost_or_same(data[:length], expected), length
    for length in (*rng.integers(int(first * len(data)), len(data), 20).tolist(), len(data) - 1):
        _lost_or_same(data[:length], expected)


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize(
    "kind", [kind for kind in WHOLE if kind not in ("bmp", "bmp_palette", "tiff", "tiff_pages", "tiff_jpeg")]
)
def test_zeros_at_the_end(kind):
    """As an interrupted download leaves behind. What is not compressed has no means to tell."""
    data = WHOLE[kind]
    expected = decode(data).pixels
    rng = np.random.default_rng(len(data))
    for length in rng.integers(1, len(data) - 64, 20).tolist():
        _lost_or_same(data[:length] + bytes(len(data) - length), expected)


def test_zeros_at_the_end_are_named():
    for kind in ("jpeg", "jpeg_cmyk", "jpeg_large"):
        assert "ends in zeros" in _reason(WHOLE[kind][:-500] + bytes(500))


@pytest.mark.parametrize("kind", ["png", "png_noise", "adam7", "png_palette", "png_16"])
def test_bit_that_flipped_in_a_png(kind):
    data = LOSSLESS.get(kind) or WHOLE[kind]
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    for place in np.random.default_rng(5).integers(start, start + length, 20).tolist():
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        assert _reason(bytes(broken))


def test_checksum_of_a_png():
    broken = bytearray(LOSSLESS["png"])
    broken[30] ^= 1  # of the header
    assert "PNG" in _reason(bytes(broken))


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff"])
def test_header_only(kind):
    for length in (4, 12, 30):
        assert _reason(WHOLE[kind][:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 5000, "begins with b'\\x00\\x00"),
        (b"A picture?\n" * 30, "begins with b'A picture?\\nA'"),
        (b"<!DOCTYPE html><html>404</html>", "begins with b'<!DOCTYPE ht'"),
        (_save(IMAGE, "GIF"), "begins with b'GIF8"),
        (_save(IMAGE, "AVIF"), "ftypavif"),
        (_save(IMAGE, "JPEG2000"), "jP  "),
        (_save(IMAGE, "PPM"), "begins with b'P6\\n"),
        (b"%PDF-1.4\n%", "begins with b'%PDF"),
        (b"\xff\xd8\xff\xd9", "begins with b'\\xff\\xd8\\xff\\xd9'"),
        (b"\xff\xd8\xff\xe0" + _noise(999).tobytes() + b"\xff\xd9", ""),
        (b"RIFF\x99\0\0\0WEBPVP8 " + _noise(150).tobytes(), "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + _noise(999).tobytes(), "PNG"),
    ],
)
def test_not_a_picture(data, reason):
    assert reason in _reason(data)


def test_random_bytes():
    for seed in range(50):
        assert "not recognised as JPEG, PNG, WEBP, BMP, TIFF" in _reason(b"\1" + _noise(500, seed=seed).tobytes())


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize("kind", ["jpeg", "jpeg_exif", "png", "webp", "bmp", "tiff_lzw", "tiff_jpeg"])
def test_damage_anywhere_raises_nothing_else(kind):
    rng = np.random.default_rng(6)
    used = 0
    for _ in range(40):
        data = bytearray(WHOLE[kind])
        for place in rng.integers(2, min(len(data), 700), 3):
            data[place] = rng.integers(256)
        try:
            picture = decode(bytes(data))
        except UnusableError as error:
            assert "\n" not in str(error)
        else:
            used += 1
            assert picture.pixels.shape == (picture.height, picture.width, 3)
    assert used < 40


def test_size_in_a_comment_of_a_jpeg_does_not_let_a_huge_one_pass():
    comment = b"\xff\xc0\0\x11\x08\0\x10\0\x10"
    start = LOSSY["jpeg"].index(b"\xff\xc0")
    header = LOSSY["jpeg"][start : start + 5] + (65000).to_bytes(2, "big") * 2
    data = _with_segment(LOSSY["jpeg"][:start] + header + LOSSY["jpeg"][start + 9 :], 0xFE, comment)
    with pytest.raises(UnusableError, match="4225 megapixels, expected at most 500"):
        decode(data)
