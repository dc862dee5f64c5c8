"""Pictures of more than 8 bits."""

import struct

import cv2
import numpy as np
import pytest
from encoded import decoded, exif_of, grey_as_rgb, png, png_chunk, reason_for, rounded
from making import encode
from PIL import Image

from rvae_jax.data.prepare.decode import decode, deep_values
from rvae_jax.data.prepare.sources.source import UnusableError

GREY = np.random.default_rng(1).integers(0, 4096, (12, 15), dtype=np.uint16)
COLOURS = np.random.default_rng(2).integers(0, 4096, (12, 15, 3), dtype=np.uint16)
TWELVE = (0, 4095)


def png_16(values, before=b""):
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[np.atleast_3d(values).shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour, rows, before=before)


def tiff(values, white_is_zero=False, content=None, bits=None, separate=False, extra=None):
    """Little-endian and not compressed; ``content`` and ``bits`` in place of the values' own."""
    height, width, channels = np.atleast_3d(values).shape
    values = values.astype(values.dtype.newbyteorder("<"))
    content = content or values.tobytes()
    tags = {
        256: [width],
        257: [height],
        258: [bits or values.dtype.itemsize * 8] * channels,
        259: [1],
        262: [2 if channels > 2 else 0 if white_is_zero else 1],
        277: [channels],
        278: [height],
        284: [2 if separate else 1],
        339: [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * channels,
    }
    planes = channels if separate else 1
    if extra is not None:
        tags[338] = [extra]
    size, after, entries, aside = len(content), 8 + len(content), {}, b""
    tags |= {273: [8 + i * size // planes for i in range(planes)], 279: [size // planes] * planes}
    for tag, found in sorted(tags.items()):
        packed = struct.pack(f"<{len(found)}I", *found)
        if len(found) > 1:
            packed, aside = struct.pack("<I", after + len(aside)), aside + packed
        entries[tag] = struct.pack("<HHI", tag, 4, len(found)) + packed
    directory = struct.pack("<H", len(entries)) + b"".join(entries.values()) + bytes(4)
    return b"II*\0" + struct.pack("<I", after + len(aside)) + content + aside + directory


def in_range(data, value_range=TWELVE):
    return decode(data, value_range=value_range).pixels


@pytest.mark.parametrize("make", [png_16, tiff])
def test_a_range_maps_grey_and_colours_to_8_bits(make):
    np.testing.assert_array_equal(in_range(make(GREY)), grey_as_rgb(rounded(GREY / 4095 * 255)))
    np.testing.assert_array_equal(in_range(make(COLOURS)), rounded(COLOURS / 4095 * 255))
    part = np.clip((COLOURS.astype(float) - 1000) / 2000, 0, 1)
    np.testing.assert_array_equal(in_range(make(COLOURS), (1000, 3000)), rounded(part * 255))


def test_a_range_leaves_pictures_of_8_bits_as_they_are():
    image = (COLOURS >> 4).astype(np.uint8)
    for format in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(in_range(encode(image, format)), image)
        assert deep_values(encode(image, format)) is None


def test_a_range_maps_pictures_with_transparency():
    alpha = np.full((12, 15, 1), 65535, np.uint16)
    alpha[:6] = 0
    for values in (GREY[:, :, None], COLOURS):
        expected = np.broadcast_to(rounded(values / 4095 * 255), (12, 15, 3)).copy()
        expected[:6] = 255
        np.testing.assert_array_equal(in_range(png_16(np.dstack([values, alpha]))), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_16_bit_colours_are_turned_upright(orientation):
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    before = png_chunk(b"eXIf", exif_of(orientation).tobytes()[6:])
    picture = decode(png_16(COLOURS, before), value_range=TWELVE)
    np.testing.assert_array_equal(picture.pixels, np.rot90(rounded(COLOURS / 4095 * 255), turns))
    assert picture.pixels.shape == (picture.height, picture.width, 3)


def test_the_one_transparent_value_of_a_16_bit_png_becomes_white():
    values = np.array([[256, 257, 60000]], np.uint16)  # the first two are the same in 8 bits
    data = png_16(values, png_chunk(b"tRNS", struct.pack(">H", 257)))
    np.testing.assert_array_equal(decoded(data)[0, :, 0], [1, 255, 233])
    colours = np.array([[[256, 512, 5], [257, 512, 5], [0, 0, 0]]], np.uint16)
    data = png_16(colours, png_chunk(b"tRNS", struct.pack(">3H", 257, 512, 5)))
    np.testing.assert_array_equal(decoded(data)[0], [[1, 2, 0], [255, 255, 255], [0, 0, 0]])
    np.testing.assert_array_equal(in_range(data, (0, 512))[0], [[128, 255, 2], [255, 255, 255], [0, 0, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_inverted(dtype):
    most = np.iinfo(dtype).max
    values = np.linspace(0, most, 20).astype(dtype).reshape(4, 5)
    np.testing.assert_array_equal(
        decoded(tiff(values, white_is_zero=True)), grey_as_rgb(rounded((most - values) / most * 255))
    )


def test_a_range_is_of_the_stored_values_where_zero_is_white():
    expected = grey_as_rgb(255 - rounded(GREY / 4095 * 255))
    np.testing.assert_array_equal(in_range(tiff(GREY, white_is_zero=True)), expected)


def test_12_bits_of_a_tiff_fill_8():
    even, odd = GREY[:, :14:2].astype(int), GREY[:, 1:14:2].astype(int)
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=2).astype(np.uint8)
    data = tiff(GREY[:, :14], content=packed.tobytes(), bits=12)
    np.testing.assert_array_equal(decoded(data), grey_as_rgb(rounded(GREY[:, :14] / 4095 * 255)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_floating_point_needs_a_range(dtype, channels):
    values = np.linspace(-1.5, 2.5, 60 * channels).astype(dtype).reshape(6, 10, channels).squeeze()
    assert "floating-point pixels from -1.5 to 2.5" in reason_for(tiff(values))
    assert "--range=LOW,HIGH or auto takes them" in reason_for(tiff(values))
    expected = rounded(np.clip((np.atleast_3d(values) + 1) / 3, 0, 1) * 255)
    found = in_range(tiff(values), (-1, 2))
    assert np.abs(found - np.broadcast_to(expected, (6, 10, 3)).astype(int)).max() <= 1
    assert found.dtype == np.uint8


def test_signed_values_take_a_range():
    values = np.array([[-1000, 0, 1000, 3000]], np.int16)
    assert "from -1000 to 3000" in reason_for(tiff(values))
    np.testing.assert_array_equal(in_range(tiff(values), (-1000, 1000))[0, :, 0], [0, 128, 255, 255])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(np.zeros((4, 5), np.float16)), "TIFF of 4x5 pixels of 1 floating-point values of 16 bits each"),
        (tiff(np.zeros((4, 5, 2), np.uint16), extra=2), "pixels of 2 unsigned integer values of 16 bits each"),
        (tiff(COLOURS, separate=True), "16-bit colours lie in separate planes"),
        (tiff(np.array([[np.nan, 1]], np.float32)), "not finite"),
        (b"II*\0" + bytes(100), "not recognised as"),
    ],
)
def test_what_cannot_be_read_as_it_is_is_named(data, reason):
    assert reason in reason_for(data)


def test_colours_multiplied_by_their_transparency_take_no_range():
    data = tiff(np.full((4, 5, 4), 30000, np.uint16), extra=1)
    assert decoded(data).shape == (4, 5, 3)
    with pytest.raises(UnusableError, match="multiplied by their transparency"):
        in_range(data)


def test_the_stored_values_are_given_for_a_look():
    np.testing.assert_array_equal(deep_values(cv2.imencode(".png", COLOURS[:, :, ::-1])[1].tobytes()).values, COLOURS)
    found = deep_values(encode(Image.fromarray(GREY)))
    np.testing.assert_array_equal(found.values, GREY)
    assert found.most == 65535
    assert deep_values(tiff(GREY.astype(np.float64))).most is None
