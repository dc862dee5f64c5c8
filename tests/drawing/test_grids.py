import numpy as np
import pytest
from PIL import Image

from rvae_jax.drawing import grids


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_grid_places_and_enlarges():
    rows = [np.full((2, 48, 32, 1), -1.0), np.full((1, 48, 32, 1), 0.0)]
    canvas = grids.grid(rows, gap=3)
    assert canvas.shape == (2 * (96 + 3) + 3, 2 * (64 + 3) + 3, 3)
    assert (canvas[3:99, 3:67] == 0).all() and (canvas[3:99, 70:134] == 0).all()
    assert (canvas[102:198, 3:67] == 128).all()
    assert (canvas[102:198, 70:] == 255).all()
    coloured = np.zeros((1, 128, 128, 3)) + np.array([-1.0, 0.0, 2.0])
    assert (grids.grid([coloured], gap=0) == [0, 128, 255]).all()


def test_reconstructions_are_below_their_images():
    images = np.linspace(-1, 1, 13)[:, None, None, None] * np.ones((1, 2, 2, 1))
    rows = grids.reconstruction_rows(images, -images)
    assert [len(row) for row in rows] == [10, 10, 3, 3]
    np.testing.assert_array_equal(rows[0], -rows[1])
    np.testing.assert_array_equal(np.concatenate(rows[::2]), images)


def test_transitions_begin_and_end_at_the_codes_of_pairs(rng):
    means = rng.normal(size=(40, 7)).astype(np.float32)
    pairs, codes = grids.transition_codes(means)
    assert pairs.shape == (3, 2) and codes.shape == (3, 8, 7)
    np.testing.assert_array_equal(codes[:, 0], means[pairs[:, 0]])
    np.testing.assert_array_equal(codes[:, -1], means[pairs[:, 1]])
    np.testing.assert_allclose(codes[:, 3] + codes[:, 4], codes[:, 0] + codes[:, -1], rtol=1e-5, atol=1e-6)
    assert len(set(pairs.ravel())) == 6
    for few in (1, 2, 3):
        pairs, codes = grids.transition_codes(means[:few])
        assert pairs.max() < few and len(pairs) == len(codes) >= 1


def test_a_png_is_complete_or_absent(tmp_path, rng):
    picture = grids.grid([rng.uniform(-1, 1, (3, 4, 6, 1)).astype(np.float32)])
    grids.save_png(tmp_path / "deep" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "a.png")), picture)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


@pytest.mark.parametrize(("height", "width", "channels"), [(64, 48, 3), (32, 32, 1), (128, 100, 3)])
def test_a_row_that_is_cut_out_of_a_grid_is_what_was_drawn(rng, height, width, channels):
    rows = np.round(rng.uniform(0, 255, (3, 5, height, width, channels))) / 127.5 - 1
    picture = grids.grid(list(rows))
    for number, row in enumerate(rows):
        cut = grids.cut_row(picture, number, height, width)
        np.testing.assert_allclose(cut, np.broadcast_to(row, (5, height, width, 3)), atol=1e-6)
    assert grids.cut_row(picture, 3, height, width) is None
    assert grids.cut_row(picture[:-1], 0, height, width) is None
