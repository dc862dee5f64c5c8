import math

import numpy as np
import pytest
from scipy import stats

from rvae_jax import losses
from rvae_jax.evaluation.metrics import latent


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 0.05]])
    mean = (rng.normal(size=(400, 3)) @ mixing + np.array([0.5, 0.0, 0.0])).astype(np.float32)
    return mean, rng.normal(-2.0, 0.3, (400, 3)).astype(np.float32)


def test_dimensions_against_their_definitions(codes):
    mean, log_var = (array.astype(np.float64) for array in codes)
    found = latent.dimensions(*codes)
    var = np.exp(log_var)
    np.testing.assert_allclose(found["mean"], mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["var_means"], mean.var(0), rtol=1e-5)
    np.testing.assert_allclose(found["var_mixture"], mean.var(0) + var.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["sigma"], np.sqrt(var.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(found["kl"], (0.5 * (mean**2 + var - 1 - log_var)).mean(0), rtol=1e-5)
    draws = mean[:, None] + np.sqrt(var)[:, None] * np.random.default_rng(1).normal(size=(400, 2000, 3))
    np.testing.assert_allclose(found["excess_kurtosis"], stats.kurtosis(draws.reshape(-1, 3)), atol=0.03)


def test_summary_against_its_definitions(codes):
    mean, log_var = (array.astype(np.float64) for array in codes)
    found = latent.summary(*codes)
    assert (found["active_units"], found["dimensions"]) == (2, 3)
    assert found["rate"] == pytest.approx((0.5 * (mean**2 + np.exp(log_var) - 1 - log_var)).sum(1).mean(), rel=1e-5)
    assert found["correlation_max"] == pytest.approx(np.corrcoef(mean[:, 0], mean[:, 1])[0, 1], rel=1e-5)
    for name, var in (("means", mean.var(0)), ("mixture", mean.var(0) + np.exp(log_var).mean(0))):
        expected = 0.5 * np.sum(mean.mean(0) ** 2 + var - 1 - np.log(var))
        assert found[f"population_kl_{name}"] == pytest.approx(expected, rel=1e-5)
    # KL of Gaussians, by E_q[log q - log p] of many draws
    cov = np.cov(mean, rowvar=False, bias=True) + np.diag(np.exp(log_var).mean(0))
    q = stats.multivariate_normal(mean.mean(0), cov)
    draws = q.rvs(400_000, random_state=2)
    gaps = q.logpdf(draws) - stats.norm.logpdf(draws).sum(1)
    assert found["population_kl_gaussian"] == pytest.approx(gaps.mean(), abs=4 * gaps.std() / math.sqrt(len(gaps)))


def test_population_statistics_against_their_definitions(codes):
    mean, log_var = (array.astype(np.float64) for array in codes)
    sigma = np.exp(0.5 * log_var)
    found = latent.population_statistics(mean.mean(0), mean.var(0), sigma)
    assert found == {
        "active_units": 2.0,
        "population_mean_rms": pytest.approx(math.sqrt(np.mean(mean.mean(0) ** 2))),
        "population_std": pytest.approx(mean.std(0).mean()),
        "sigma_mean": pytest.approx(sigma.mean()),
        "sigma_min": pytest.approx(sigma.min()),
    }
    summary = latent.summary(*codes)
    assert {name: summary[name] for name in found} == pytest.approx(found, rel=1e-5)


def test_decomposition_agrees_with_the_losses(codes):
    mean, log_var = (array[:60] for array in codes)
    found = latent.decompose(mean, log_var, draws=300)
    noise = np.random.default_rng(3).normal(size=(300, *mean.shape)).astype(np.float32)
    information = [losses.mutual_information(mean, log_var, one).mean() for one in noise[:100]]
    marginal = [losses.mixture_kl(mean, log_var, one).mean() for one in noise[:100]]
    assert found.mutual_information == pytest.approx(float(np.mean(information)), abs=float(np.std(information)) / 2)
    assert found.marginal_kl == pytest.approx(float(np.mean(marginal)), abs=float(np.std(marginal)) / 2)
    rate = latent.summary(mean, log_var)["rate"]
    assert found.mutual_information + found.marginal_kl == pytest.approx(rate, rel=0.03)


def test_information_of_codes_that_identify_the_image_or_do_not():
    apart = np.arange(50, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    identified = latent.decompose(apart, np.full((50, 2), -9.0, np.float32))
    assert identified.mutual_information == pytest.approx(math.log(50), rel=1e-3)
    collapsed = latent.decompose(np.zeros((50, 2), np.float32), np.zeros((50, 2), np.float32))
    assert collapsed == pytest.approx((0.0, 0.0), abs=1e-5)
