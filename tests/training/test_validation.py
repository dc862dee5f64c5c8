import numpy as np
import pytest
from PIL import Image

from rvae_jax.drawing import grids
from rvae_jax.errors import UserError
from rvae_jax.training.validation import latent_metrics, nearest_is_own, validate


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def images(rng, n):
    return rng.uniform(-1, 1, (n, 4, 6, 1)).astype(np.float32)


def test_evaluation_counts_each_image_once(rng):
    x, mean_image = images(rng, 5), images(rng, 1)[0]
    x_hat, mean, log_var = x * 0.5, rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    arrays = (x_hat, mean, log_var)
    answers = iter([tuple(a[:3] for a in arrays), tuple(a[[3, 4, 4]] for a in arrays)])
    batches = [(x[:3], np.array([True] * 3)), (x[[3, 4, 4]], np.array([True, True, False]))]
    result = validate(lambda _: next(answers), batches, mean_image)
    assert result.metrics["l1"] == pytest.approx(np.abs(x_hat - x).mean(), rel=1e-6)
    expected = np.abs(x_hat - x).mean() / np.abs(mean_image - x).mean()
    assert result.metrics["l1_relative_to_mean_image"] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(result.images, x)
    np.testing.assert_array_equal(result.means, mean)
    for name, value in latent_metrics(mean, log_var).items():
        assert result.metrics[name] == pytest.approx(value)


def test_no_image_to_evaluate_on_is_told(rng):
    x = images(rng, 2)
    batches = [(x, np.array([False, False]))]
    with pytest.raises(UserError, match="no image to evaluate on"):
        validate(lambda _: (x, np.zeros((2, 3)), np.zeros((2, 3))), batches, x[0])


def test_latent_metrics_against_their_definitions(rng):
    mean = rng.normal(size=(1000, 4)) * np.array([1.0, 0.5, 0.09, 0.0]) + 0.3
    log_var = rng.normal(size=(1000, 4))
    metrics = latent_metrics(mean, log_var)
    assert metrics["active_units"] == 2
    assert metrics["population_mean_rms"] == pytest.approx(0.3, abs=0.02)
    assert metrics["population_std"] == pytest.approx((1 + 0.5 + 0.09) / 4, abs=0.02)
    assert metrics["sigma_min"] == pytest.approx(np.exp(log_var / 2).min())
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum(1).mean()
    assert metrics["kl_per_image"] == pytest.approx(kl)


def test_nearest_is_own_against_brute_force(rng):
    x = images(rng, 30)
    x_hat = x + rng.normal(size=x.shape).astype(np.float32) * 0.8
    brute = [np.argmin([np.sum((r - other) ** 2) for other in x]) == i for i, r in enumerate(x_hat)]
    assert 0 < sum(brute) < 30
    np.testing.assert_array_equal(nearest_is_own(x_hat, x), brute)
    assert not nearest_is_own(np.repeat(x[:1], 2, 0), np.repeat(x[:1], 2, 0)).any()


def test_grid_places_and_enlarges():
    rows = [np.full((2, 48, 32, 1), -1.0), np.full((1, 48, 32, 1), 0.0)]
    canvas = grids.grid(rows, gap=3)
    assert canvas.shape == (2 * (96 + 3) + 3, 2 * (64 + 3) + 3, 3)
    assert (canvas[3:99, 3:67] == 0).all() and (canvas[3:99, 70:134] == 0).all()
    assert (canvas[102:198, 3:67] == 128).all()
    assert (canvas[102:198, 70:] == 255).all()
    coloured = np.zeros((1, 128, 128, 3)) + np.array([-1.0, 0.0, 2.0])
    assert (grids.grid([coloured], gap=0) == [0, 128, 255]).all()


def test_transitions_begin_and_end_at_the_codes(rng):
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


def test_png_is_whole_or_absent(tmp_path, rng):
    picture = grids.grid([images(rng, 3)])
    grids.save_png(tmp_path / "deep" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "a.png")), picture)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]
