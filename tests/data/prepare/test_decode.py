import zlib

import cv2
import numpy as np
import pytest
from encoded import (
    GREY,
    IMAGE,
    LOSSLESS,
    LOSSLESS_WEBP,
    LOSSY,
    assert_near,
    decoded,
    grey_as_rgb,
    over_white,
    png_chunk,
    reason_for,
    rounded,
)
from making import encode, noise
from PIL import Image


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_their_pixels(kind):
    expected = noise(45, 61, 3) if kind == "png_noise" else IMAGE
    np.testing.assert_array_equal(decoded(LOSSLESS[kind]), expected)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_are_close(kind):
    assert_near(decoded(LOSSY[kind]), IMAGE)


def test_a_grey_jpeg_becomes_rgb():
    pixels = decoded(GREY)
    assert_near(pixels, grey_as_rgb(IMAGE[:, :, 1]))
    np.testing.assert_array_equal(np.ptp(pixels, axis=2), 0)


def test_the_inverted_cmyk_of_adobe_has_its_colours():
    data = LOSSY["jpeg_cmyk"]
    assert b"Adobe\0" in data
    four = np.zeros((16, 16, 4), np.uint8)
    four[:8] = [0, 255, 255, 0]  # magenta and yellow
    four[8:] = [0, 0, 0, 204]
    pixels = decoded(encode(Image.fromarray(four, "CMYK"), "JPEG", quality=100, subsampling=0))
    assert_near(pixels[:8], np.broadcast_to([255, 0, 0], (8, 16, 3)), 3)
    assert_near(pixels[8:], np.full((8, 16, 3), 51), 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_pictures_of_one_pixel_are_decoded(format, size):
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    pixels = decoded(encode(np.full((*size, 3), [200, 100, 50], np.uint8), format, **options))
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= (4 if format == "JPEG" else 0)
    assert pixels.shape == (*size, 3)


def test_padding_after_the_end_of_a_jpeg_is_ignored():
    for padding in (bytes(200), b"made by a camera"):
        np.testing.assert_array_equal(decoded(LOSSY["jpeg"] + padding), decoded(LOSSY["jpeg"]))


def test_a_palette_becomes_rgb():
    palette = noise(256, 3, seed=1)
    indices = noise(20, 30, seed=2)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    for format in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decoded(encode(picture, format)), palette[indices])


def test_a_palette_of_two_bits_becomes_rgb():
    palette = noise(4, 3, seed=1)
    indices = noise(20, 30, seed=2) % 4
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decoded(encode(picture, "PNG", bits=2)), palette[indices])


def test_transparency_of_a_palette_lies_on_white():
    palette, alpha = noise(256, 3, seed=1), noise(256, seed=3)
    indices = noise(40, 50, seed=2)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    data = encode(picture, "PNG", transparency=alpha.tobytes())
    expected = over_white(palette[indices], alpha[indices][:, :, None])
    np.testing.assert_array_equal(decoded(data), expected)
    expected = palette[indices]
    expected[indices == 7] = 255
    np.testing.assert_array_equal(decoded(encode(picture, "PNG", transparency=7)), expected)


def test_a_transparent_colour_becomes_white():
    image = noise(20, 30, 3)
    image[3, 4] = [1, 2, 3]
    expected = image.copy()
    expected[3, 4] = 255
    np.testing.assert_array_equal(decoded(encode(image, "PNG", transparency=(1, 2, 3))), expected)
    grey = image[:, :, 0]
    expected = np.where(grey == grey[0, 0], 255, grey)
    np.testing.assert_array_equal(
        decoded(encode(grey, "PNG", transparency=int(grey[0, 0]))), grey_as_rgb(expected.astype(np.uint8))
    )


VALUE, ALPHA = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))


def test_transparency_of_colours_lies_on_white():
    colours = np.stack([VALUE, 255 - VALUE, VALUE ^ 90], axis=2)
    expected = over_white(colours, ALPHA[:, :, None])
    picture = np.dstack([colours, ALPHA])
    for options in ({"format": "PNG"}, {"format": "TIFF"}, LOSSLESS_WEBP):
        np.testing.assert_array_equal(decoded(encode(picture, **options)), expected)


def test_transparency_of_grey_lies_on_white():
    data = encode(Image.fromarray(np.dstack([VALUE, ALPHA]), "LA"), "PNG")
    np.testing.assert_array_equal(decoded(data), grey_as_rgb(over_white(VALUE, ALPHA)))


def test_grey_becomes_rgb():
    for format in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decoded(encode(VALUE, format)), grey_as_rgb(VALUE))


def test_one_bit_becomes_black_and_white():
    bits = noise(19, 29) > 100
    for options in (
        {"format": "PNG"},
        {"format": "BMP"},
        {"format": "TIFF"},
        {"format": "TIFF", "compression": "group4"},
    ):
        np.testing.assert_array_equal(
            decoded(encode(Image.fromarray(bits), **options)), grey_as_rgb(bits * np.uint8(255))
        )


@pytest.mark.parametrize("end", ["png", "tiff", "tiff_big_endian"])
def test_16_bits_of_grey_are_rounded(end):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if end == "tiff_big_endian":
        data = encode(Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes()), "TIFF")
    else:
        data = cv2.imencode(f".{end}", values)[1].tobytes()
    np.testing.assert_array_equal(decoded(data), grey_as_rgb(rounded(values / 257)))


@pytest.mark.parametrize("end", ["png", "tiff"])
def test_48_bits_are_reduced_to_24(end):
    values = np.random.default_rng(4).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    data = cv2.imencode(f".{end}", values[:, :, ::-1])[1].tobytes()
    assert np.abs(decoded(data) - values / 257).max() < 1


def test_32_bits_in_the_range_of_16_are_taken_for_16():
    values = np.array([[0, 65535, 32768, 257]], np.int32)
    np.testing.assert_array_equal(decoded(encode(values, "TIFF"))[0, :, 0], [0, 255, 128, 1])


@pytest.mark.parametrize("value", [65536, -1])
def test_32_bits_beyond_the_range_of_16_are_refused(value):
    assert f"32-bit pixels from {min(0, value)} to" in reason_for(encode(np.array([[0, value]], np.int32), "TIFF"))


def test_floating_point_is_refused():
    assert "floating-point" in reason_for(encode(np.array([[0.0, 1.0]], np.float32), "TIFF"))


def test_long_texts_and_profiles_of_a_png_are_allowed():
    for chunk in (b"zTXt" + b"workflow\0\0", b"iCCP" + b"profile\0\0"):
        chunk = png_chunk(chunk[:4], chunk[4:] + zlib.compress(bytes(2 << 20)))
        data = LOSSLESS["png"]
        np.testing.assert_array_equal(decoded(data[:33] + chunk + data[33:]), IMAGE)
