from fractions import Fraction

import numpy as np
import pytest
from making import noise

from rvae_jax.data import images
from rvae_jax.data.images import Box


def test_a_box_is_scaled_along_each_axis():
    assert Box(10, 20, 30, 40).scaled(0.5, 2) == Box(20, 10, 60, 20)
    assert Box(-1, -2, 3, 4).scaled(3, 1) == Box(-1, -6, 3, 12)


def test_a_box_is_widened_on_each_side():
    assert Box(10, 20, 30, 40).widened(0.5) == Box(-5, 0, 60, 80)
    assert Box(1, 2, 4, 8).widened(0.25) == Box(0, 0, 6, 12)
    assert Box(1, 2, 4, 8).widened(0) == Box(1, 2, 4, 8)


def test_a_box_gets_an_aspect_ratio_by_growing():
    assert Box(10, 20, 30, 40).with_aspect(1, 1) == Box(5, 20, 40, 40)
    assert Box(10, 20, 40, 30).with_aspect(1, 1) == Box(10, 15, 40, 40)
    assert Box(0, 0, 10, 10).with_aspect(2, 1) == Box(0, -5, 10, 20)
    assert Box(0, 0, 10, 10).with_aspect(1, 3) == Box(-10, 0, 30, 10)
    assert Box(3, 4, 8, 16).with_aspect(64, 32) == Box(3, 4, 8, 16)


def test_a_box_with_an_aspect_ratio_is_the_smallest_of_the_same_centre():
    rng = np.random.default_rng(1)
    for left, top, width, height in rng.integers(1, 64, (50, 4)).tolist():
        h, w = rng.integers(1, 64, 2).tolist()
        size = max(Fraction(height, h), Fraction(width, w))  # of one unit of the shape
        expected = (
            left + Fraction(width, 2) - size * w / 2,
            top + Fraction(height, 2) - size * h / 2,
            size * w,
            size * h,
        )
        np.testing.assert_allclose(
            Box(left, top, width, height).with_aspect(h, w), [float(value) for value in expected], rtol=0, atol=1e-9
        )


def test_the_centre_box_lies_in_the_middle():
    assert images.centre_box(10, 7, (4, 5)) == Box(1, 3, 5, 4)
    assert images.centre_box(218, 178, (148, 148)) == Box(15, 35, 148, 148)
    assert images.centre_box(3, 4, (3, 4)) == Box(0, 0, 4, 3)


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        ((100, 200), (1, 1), (100, 100)),
        ((218, 178), (64, 64), (178, 178)),
        ((200, 100), (64, 32), (200, 100)),
        ((200, 100), (32, 64), (50, 100)),
        ((101, 300), (2, 1), (101, 50)),
        ((1, 1000), (64, 64), (1, 1)),
        ((3, 1), (1, 1000), (1, 1)),
        ((1, 3), (1000, 1), (1, 1)),
    ],
)
def test_the_largest_crop_has_the_shape(size, shape, expected):
    assert images.largest_crop(*size, *shape) == expected


@pytest.mark.parametrize(
    ("crop", "shape", "expected"),
    [
        (None, (64, 64), Box(0, 20, 178, 178)),
        ((148, 148), (64, 64), Box(15, 35, 148, 148)),
        ((148, 148), (64, 32), Box(52, 35, 74, 148)),
        ((100, 178), (1, 1), Box(39, 59, 100, 100)),
    ],
)
def test_centre_crop_keeps_the_shape(crop, shape, expected):
    assert images.centre_crop(218, 178, crop, *shape) == expected


def test_shrinking_one_axis_while_the_other_grows():
    image = np.zeros((64, 10, 1), np.uint8)
    image[::4] = 252  # a mean of 63 that bilinear interpolation would miss
    np.testing.assert_array_equal(images.resize(image, 16, 20), np.full((16, 20, 1), 63, np.uint8))


def test_largest_crop_touches_two_borders_and_has_the_shape():
    rng = np.random.default_rng(2)
    for h, w, height, width in rng.integers(1, 500, (300, 4)).tolist():
        found = images.largest_crop(h, w, height, width)
        unit = min(Fraction(h, height), Fraction(w, width))
        for side, whole, exact in zip(found, (h, w), (unit * height, unit * width), strict=True):
            assert 1 <= side <= whole
            assert abs(side - exact) <= Fraction(1, 2) or side == 1
        assert found[0] == h or found[1] == w


def _mirrored(image, box, by=600):
    left, top = round(box.left), round(box.top)
    right, bottom = round(box.left + box.width), round(box.top + box.height)
    padded = np.pad(image, ((by, by), (by, by), (0, 0)), "reflect")
    return padded[top + by : bottom + by, left + by : right + by]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "box",
    [
        Box(0, 0, 30, 20),
        Box(4, 3, 7, 5),
        Box(4.4, 3.6, 7.2, 5.3),
        Box(-4, 2, 20, 10),
        Box(3, -5, 10, 18),
        Box(20, 12, 15, 12),
        Box(-6, -7, 45, 40),
        Box(-40, -30, 110, 80),  # more than a whole image on each side
        Box(-10, 0, 13, 20),  # with less of the image in it than beyond
        Box(28, 18, 20, 20),
        Box(29.6, 3, 6, 6),  # none of it, to the nearest pixel
    ],
    ids=lambda box: "_".join(f"{value:g}" for value in box),
)
def test_a_cut_is_mirrored_beyond_the_border(box, channels):
    image = noise(20, 30, channels)
    found = images.cut(image, box)
    np.testing.assert_array_equal(found.reshape(*found.shape[:2], channels), _mirrored(image, box))


def test_a_cut_beyond_a_single_row_repeats_it():
    row = noise(1, 30, 3)
    np.testing.assert_array_equal(images.cut(row, Box(2, -3, 5, 9)), np.repeat(row[:, 2:7], 9, axis=0))


def test_a_cut_has_at_least_a_pixel():
    image = noise(20, 30, 3)
    np.testing.assert_array_equal(images.cut(image, Box(4.1, 7.2, 0.1, 0.2)), image[7:8, 4:5])


@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_averages(channels):
    image = noise(24, 36, channels, seed=3)
    expected = image.reshape(8, 3, 9, 4, channels).mean(axis=(1, 3), dtype=np.float64)
    found = images.resize(image, 8, 9)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5 + 1e-6


def test_shrinking_along_one_axis_averages_while_the_other_grows():
    rows = noise(24, 1, 3, seed=4)
    found = images.resize(np.repeat(rows, 10, axis=1), 6, 20)
    expected = np.repeat(rows.reshape(6, 4, 1, 3).mean(axis=1, dtype=np.float64), 20, axis=1)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_growing_keeps_a_ramp(channels):
    y, x = np.mgrid[:20, :30].astype(np.float64)
    image = np.repeat((4 * x + 5 * y)[:, :, None], channels, axis=2).astype(np.uint8)
    found = images.resize(image, 40, 90)
    y, x = np.mgrid[:40, :90]
    expected = 4 * ((x + 0.5) / 3 - 0.5) + 5 * ((y + 0.5) / 2 - 0.5)
    assert found.shape == (40, 90, channels)
    assert np.abs(found - expected[:, :, None])[6:-6, 9:-9].max() <= 1


def test_an_image_of_the_right_size_is_kept():
    image = noise(7, 9, 3)
    np.testing.assert_array_equal(images.resize(image, 7, 9), image)


def test_grey_is_luma():
    rgb = noise(40, 50, 3, seed=5)
    expected = rgb.astype(np.float64) @ [0.299, 0.587, 0.114]
    found = images.with_channels(rgb, 1)
    assert found.shape == (40, 50, 1)
    assert found.dtype == np.uint8
    assert np.abs(found[:, :, 0] - expected).max() < 0.51


def test_grey_survives_rgb_and_back():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    rgb = images.with_channels(grey, 3)
    np.testing.assert_array_equal(rgb, np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(images.with_channels(rgb, 1), grey)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_channels_is_kept(channels):
    image = noise(5, 6, channels)
    np.testing.assert_array_equal(images.with_channels(image, channels), image)
