import numpy as np
import pytest
from scipy import special, stats

from rvae_jax.errors import UserError
from rvae_jax.inference import samplers


@pytest.fixture(scope="module")
def population():
    rng = np.random.default_rng(0)
    centres = np.where(rng.random((3000, 1)) < 0.3, -2.0, 2.0)
    mean = np.concatenate([centres, centres * 0.5], axis=1) + 0.3 * rng.normal(size=(3000, 2))
    return mean.astype(np.float32), np.full((3000, 2), np.log(0.04), np.float32)


def test_the_prior_is_standard_normal():
    z = samplers.prior(5).draw(20_000, 1)
    assert z.shape == (20_000, 5) and z.dtype == np.float32
    np.testing.assert_allclose(z.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(z.T), np.eye(5), atol=0.04)


def fitted_gaussian(mean, log_var):
    return samplers.gaussian(*samplers.mean_and_covariance(mean, log_var))


def fitted_mixture(mean, log_var):
    return samplers.mixture(samplers.fit_mixture(mean, log_var))


FITS = (fitted_gaussian, fitted_mixture)


@pytest.mark.parametrize("fit", FITS)
def test_fitted_samplers_have_the_mean_and_covariance_of_the_population(population, fit):
    mean, log_var = population
    z = fit(mean, log_var).draw(20_000, 0)
    assert z.shape == (20_000, 2) and z.dtype == np.float32
    np.testing.assert_allclose(z.mean(0), mean.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(z.T), np.cov(mean.T) + 0.04 * np.eye(2), atol=0.12)


def test_only_the_mixture_has_the_two_clusters(population):
    between = {fit: np.mean(np.abs(fit(*population).draw(20_000, 0)[:, 0]) < 0.8) for fit in FITS}
    assert between[fitted_mixture] < 0.005 < 0.2 < between[fitted_gaussian]


@pytest.mark.parametrize("fit", FITS)
def test_draws_depend_on_the_seed_alone(population, fit):
    draw = fit(*population).draw
    np.testing.assert_array_equal(draw(7, 3), draw(7, 3))
    assert np.abs(draw(7, 3) - draw(7, 4)).max() > 0.1


def test_mixture_of_few_codes_in_many_dimensions():
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(40, 32)).astype(np.float32)
    z = fitted_mixture(mean, np.full((40, 32), -2.0, np.float32)).draw(50, 0)
    assert np.isfinite(z).all() and z.shape == (50, 32)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(UserError, match="sampler='flow': expected 'auto', 'prior', 'gaussian', 'mixture'"):
        samplers.check_name("flow")


def test_log_densities_are_those_of_the_distributions(population):
    z = np.random.default_rng(2).normal(size=(50, 2)) * 2
    np.testing.assert_allclose(samplers.prior(2).log_density(z), stats.norm.logpdf(z).sum(1), rtol=1e-12)
    moments = samplers.mean_and_covariance(*population)
    expected = stats.multivariate_normal(*moments).logpdf(z)
    np.testing.assert_allclose(samplers.gaussian(*moments).log_density(z), expected, rtol=1e-9)


@pytest.mark.parametrize("fit", FITS)
def test_densities_integrate_to_one(population, fit):
    x, step = np.linspace(-10, 10, 1001, retstep=True)
    grid = np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    assert np.exp(fit(*population).log_density(grid)).sum() * step**2 == pytest.approx(1.0, abs=1e-3)


def test_codes_that_never_differ_keep_a_density():
    z = samplers.gaussian(np.zeros(2), np.diag([1.0, 0.0])).log_density(np.array([[0.0, 0.0], [0.0, 1.0]]))
    assert np.isfinite(z).all() and z[1] < -1e9 < z[0]


@pytest.mark.parametrize(("clusters", "expected"), [(1, 1), (2, 2), (5, 5)])
def test_the_number_of_components_is_that_of_the_clusters(clusters, expected):
    rng = np.random.default_rng(3)
    centres = 6 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]])[:clusters]
    mean = centres[rng.integers(clusters, size=2000)] + rng.normal(size=(2000, 3))
    fitted = samplers.fit_mixture(mean.astype(np.float32), np.full((2000, 3), -2.0, np.float32))
    assert len(fitted.weights) == expected and fitted.weights.sum() == pytest.approx(1)
    assert fitted.means.shape == (expected, 3) and fitted.covariances.shape == (expected, 3, 3)
    order = np.lexsort(np.round(fitted.means / 6).T)
    np.testing.assert_allclose(fitted.means[order], centres[np.lexsort((centres // 6).T)], atol=0.2)


def scipy_edges(weights):
    return stats.norm.ppf(np.cumsum(weights)[:-1])


def test_the_last_number_of_the_noise_chooses_the_component():
    means = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]])
    covariances = np.stack([np.eye(2), 4 * np.eye(2), np.array([[1.0, 0.9], [0.9, 1.0]])])
    fitted = samplers.Mixture(np.array([0.2, 0.5, 0.3]), means, covariances)
    z = samplers.mixture(fitted).draw(40_000, 1)
    which = np.square(z[:, None] - means).sum(-1).argmin(1)
    np.testing.assert_allclose(np.bincount(which) / len(z), fitted.weights, atol=0.01)
    for k in range(3):
        np.testing.assert_allclose(z[which == k].mean(0), means[k], atol=0.1)
        np.testing.assert_allclose(np.cov(z[which == k].T), covariances[k], atol=0.15)
    transform = samplers.mixture_transform(fitted)
    noise = np.random.default_rng(2).standard_normal((50, 3), np.float32)
    chosen = (noise[:, 2:] >= scipy_edges(fitted.weights)).sum(axis=1)
    expected = [means[k] + samplers.root(covariances[k]) @ row[:2] for k, row in zip(chosen, noise, strict=True)]
    np.testing.assert_allclose(samplers.noise_to_codes(transform, noise), expected, rtol=1e-4, atol=1e-4)
    one = samplers.Mixture(np.ones(1), means[1:2], covariances[1:2])
    assert samplers.mixture_transform(one)["edges"] == []
    same = samplers.gaussian(means[1], covariances[1])
    np.testing.assert_allclose(samplers.mixture(one).log_density(z[:9]), same.log_density(z[:9]), rtol=1e-9)


def test_densities_of_a_mixture_are_those_of_its_parts(population):
    z = np.random.default_rng(5).normal(size=(30, 2)) * 3
    fitted = samplers.fit_mixture(*population)
    expected = special.logsumexp(
        [stats.multivariate_normal(*part).logpdf(z) for part in zip(fitted.means, fitted.covariances, strict=True)],
        axis=0,
        b=fitted.weights[:, None],
    )
    np.testing.assert_allclose(samplers.mixture(fitted).log_density(z), expected, rtol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 19, 21])
def test_a_mixture_of_very_few_codes(n):
    mean = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    sampler = fitted_mixture(mean, np.full((n, 4), -2.0, np.float32))
    z = sampler.draw(5, 0)
    assert np.isfinite(z).all() and np.isfinite(sampler.log_density(z)).all()
    with pytest.raises(UserError, match="1 training image; expected at least 2"):
        samplers.fit_mixture(mean[:1], mean[:1])
