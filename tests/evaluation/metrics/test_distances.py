from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from sklearn.metrics.pairwise import polynomial_kernel

from rvae_jax.evaluation.metrics import distances

REFERENCE = np.load(Path(__file__).parents[2] / "reference" / "metrics.npz")
REAL, FAKE = REFERENCE["distances/real"], REFERENCE["distances/fake"]


def test_frechet_distance_between_known_gaussians():
    # Of commuting covariances: |m - m'|^2 + sum (sqrt(v) - sqrt(v'))^2.
    mean, other = np.array([1.0, 2.0, 0.0]), np.array([0.0, 0.0, 0.5])
    v, w = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.25])
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    cov, other_cov = (rotation @ np.diag(x) @ rotation.T for x in (v, w))
    expected = np.sum((mean - other) ** 2) + np.sum((np.sqrt(v) - np.sqrt(w)) ** 2)
    assert distances.frechet_distance(mean, cov, other, other_cov) == pytest.approx(expected, rel=1e-12)
    assert distances.frechet_distance(mean, cov, mean, cov) == pytest.approx(0.0, abs=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute():
    rng = np.random.default_rng(1)
    covs = [a @ a.T for a in rng.normal(size=(2, 6, 6))]
    expected = np.trace(covs[0] + covs[1] - 2 * scipy.linalg.sqrtm(covs[0] @ covs[1]).real)
    assert distances.frechet_distance(np.zeros(6), covs[0], np.zeros(6), covs[1]) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_fewer_images_than_dimensions():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5, 12))
    shifted = x + 3.0
    found = distances.frechet_distance(*distances.feature_statistics(x), *distances.feature_statistics(shifted))
    assert found == pytest.approx(9 * 12, rel=1e-6)


def test_distances_agree_with_torch_fidelity_and_prdc():
    fid = distances.frechet_distance(*distances.feature_statistics(REAL), *distances.feature_statistics(FAKE))
    assert fid == pytest.approx(float(REFERENCE["distances/fid"]), rel=1e-6)
    kid = distances.kernel_distance(REAL[:260], FAKE)
    assert kid.mean == pytest.approx(float(REFERENCE["distances/kid"]), rel=1e-6)
    assert kid.std == 0.0
    found = distances.support(REAL, FAKE)._asdict()
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name] == pytest.approx(float(REFERENCE[f"distances/{name}"]), rel=1e-6), name


def test_kernel_distance_over_subsets_agrees_with_that_of_all():
    found = distances.kernel_distance(REAL, FAKE, subsets=400, subset_size=50)
    whole = distances.kernel_distance(REAL[:260], FAKE).mean
    assert found.mean == pytest.approx(whole, abs=4 * found.std / 20 + 0.05 * whole)
    assert found.std > 0
    kernel = polynomial_kernel(REAL[:4], FAKE[:4], degree=3, gamma=1 / REAL.shape[1], coef0=1)
    np.testing.assert_allclose(distances._kernel(REAL[:4], FAKE[:4]), kernel)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    rng = np.random.default_rng(3)
    values = [distances.kernel_distance(*rng.normal(size=(2, 40, 5))).mean for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)


def test_support_is_0_for_distant_sets_and_1_for_equal_ones():
    far = distances.support(REAL, REAL + 100)
    assert far == (0.0, 0.0, 0.0, 0.0)
    same = distances.support(REAL, REAL)
    assert same.precision == same.recall == same.coverage == 1.0


def test_support_does_not_depend_on_how_many_rows_are_compared_at_a_time(monkeypatch):
    at_once = distances.support(REAL, FAKE)
    monkeypatch.setattr(distances, "_WORKING_MEMORY", 0.05)
    assert distances.support(REAL, FAKE) == at_once


def test_nearest_against_brute_force():
    near, indices = distances.nearest(FAKE, REAL, 2)
    brute = np.square(FAKE[:, None] - REAL[None]).sum(-1)
    np.testing.assert_array_equal(indices, np.argsort(brute, axis=1)[:, :2])
    np.testing.assert_allclose(np.square(near), np.sort(brute, axis=1)[:, :2], rtol=1e-9)
