import numpy as np
import pytest

from rvae_jax.errors import UserError
from rvae_jax.training.validation import latent_metrics, nearest_is_own, validate


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def images(rng, n):
    return rng.uniform(-1, 1, (n, 4, 6, 1)).astype(np.float32)


def test_each_image_counts_once(rng):
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


def test_images_that_do_not_count_are_an_error(rng):
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
