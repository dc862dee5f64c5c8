"""The parts of the population's distance from N(0, I), against closed forms and simulated mixtures."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from rvae_jax.evaluation.metrics import population
from rvae_jax.inference import samplers

D = 6


def posteriors(codes, sigma=0.3):
    """Posteriors of deviation ``sigma``; for codes ``[n, d]`` of variance 1, so is their population."""
    mean = codes * math.sqrt(1 - sigma**2)
    return mean.astype(np.float32), np.full(codes.shape, 2 * math.log(sigma), np.float32)


def standard(n, seed=5):
    return posteriors(np.random.default_rng(seed).normal(size=(n, D)))


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def assert_near(part, expected, errors=4.0):
    assert part.nats - part.chance == pytest.approx(expected, abs=errors * part.standard_error)


def test_codes_from_the_prior_show_nothing_beyond_chance():
    found = [*population.gaussian_parts(*standard(4000)), *population.non_gaussian_parts(*standard(4000))]
    for part in [*found, population.mixture_distance(*standard(500))]:
        assert_near(part, 0.0)
        assert part.chance > 0 and 0 < part.standard_error < 0.2


def test_the_gaussian_parts_are_those_of_the_closed_form():
    rng = np.random.default_rng(1)
    log_var = rng.normal(-2, 0.4, (300, D)).astype(np.float32)
    mean = (rng.normal(size=(300, D)) @ rng.normal(size=(D, D)) * 0.5 + rng.normal(size=D)).astype(np.float32)
    moments, correlation = population.gaussian_parts(mean, log_var)
    centre = mean.astype(np.float64).mean(0)
    cov = np.cov(mean.T.astype(np.float64), bias=True) + np.diag(np.exp(log_var.astype(np.float64)).mean(0))
    var = np.diag(cov)
    assert moments.nats == pytest.approx(0.5 * np.sum(centre**2 + var - 1 - np.log(var)), rel=1e-9)
    assert correlation.nats == pytest.approx(-0.5 * np.log(np.linalg.det(cov / np.sqrt(np.outer(var, var)))), rel=1e-9)


def test_codes_far_from_zero_keep_their_precision():
    rng = np.random.default_rng(1)
    mean, log_var = (1e4 + 0.1 * rng.normal(size=(200, 2))).astype(np.float32), np.full((200, 2), -6.0, np.float32)
    moments, _ = population.gaussian_parts(mean, log_var)
    centre = mean.astype(np.float64).mean(0)
    var = mean.astype(np.float64).var(0) + math.exp(-6)
    assert moments.nats == pytest.approx(0.5 * np.sum(centre**2 + var - 1 - np.log(var)), rel=1e-12)


def test_the_standard_errors_are_those_of_repetitions():
    """The spread of each estimate over populations of the same kind."""
    scale = np.array([1.3, 0.7, 1.0, 1.0, 1.0, 1.0])
    mixing = np.eye(D)
    mixing[2, 3] = 0.5
    rng = np.random.default_rng(3)
    found = [population.gaussian_parts(*posteriors(rng.normal(size=(500, D)) @ mixing * scale)) for _ in range(60)]
    for parts in zip(*found, strict=True):
        values = [part.nats for part in parts]
        assert np.mean([part.standard_error for part in parts]) == pytest.approx(np.std(values), rel=0.35)


@pytest.mark.parametrize("rho", [0.2, 0.6])
def test_correlation_of_a_known_size(rho):
    mixing = np.array([[1.0, 0], [rho, math.sqrt(1 - rho**2)]])
    codes = np.random.default_rng(2).normal(size=(20_000, 2)) @ mixing.T
    _, correlation = population.gaussian_parts(*posteriors(codes))
    in_population = rho * (1 - 0.3**2)  # the posteriors are round
    assert_near(correlation, -0.5 * math.log(1 - in_population**2))


def _mixture_codes(n, rng):
    """Codes of which one direction has two clusters, and the distance of their law from its Gaussian, in nats."""
    z = rng.normal(size=(n, D))
    z[:, 0] = np.sign(rng.normal(size=n)) * 0.95 + 0.3122 * rng.normal(size=n)

    def log_density(x):
        return logsumexp([stats.norm.logpdf(x, side * 0.95, 0.3122) for side in (-1, 1)], axis=0) - math.log(2)

    grid = np.linspace(-4, 4, 100_001)
    density = np.exp(log_density(grid))
    distance = np.sum(density * (log_density(grid) - stats.norm.logpdf(grid))) * (grid[1] - grid[0])
    return z @ rotation(D), distance


def test_two_clusters_in_a_direction_that_is_no_dimension_are_found():
    """The distance is that of a quadrature; the bound is nearly tight for one direction."""
    codes, distance = _mixture_codes(20_000, np.random.default_rng(4))
    assert distance > 0.4
    axes, radius = population.non_gaussian_parts(codes.astype(np.float32), np.full(codes.shape, -20.0, np.float32))
    assert axes.nats - axes.chance == pytest.approx(distance, rel=0.12)
    assert axes.nats - axes.chance < distance + 4 * axes.standard_error
    assert 0 < radius.nats - radius.chance < distance


def test_the_radius_shows_a_mixture_of_scales():
    """Spherical, so that the radius has all of the distance, here by Monte Carlo with the true densities."""
    rng = np.random.default_rng(6)
    scales, n = np.array([0.5, 1.5]), 20_000
    z = rng.normal(size=(n, D)) * rng.choice(scales, (n, 1))
    log_density = logsumexp([stats.norm.logpdf(z, 0, scale).sum(1) for scale in scales], axis=0) - math.log(2)
    gaussian = stats.norm.logpdf(z, 0, math.sqrt(np.mean(scales**2))).sum(1)
    distance = float(np.mean(log_density - gaussian))
    axes, radius = population.non_gaussian_parts(z.astype(np.float32), np.full(z.shape, -20.0, np.float32))
    assert_near(radius, distance, errors=5.0)
    assert 0.1 < axes.nats - axes.chance < distance


def test_a_uniform_law_has_its_own_entropy():
    codes = np.random.default_rng(7).uniform(-math.sqrt(3), math.sqrt(3), (20_000, 3))
    axes, _ = population.non_gaussian_parts(codes.astype(np.float32), np.full(codes.shape, -20.0, np.float32))
    expected = 3 * (0.5 * math.log(2 * math.pi * math.e) - math.log(2 * math.sqrt(3)))
    assert axes.nats - axes.chance == pytest.approx(expected, rel=0.05)


def test_few_codes_are_refused_for_what_is_not_gaussian():
    with pytest.raises(ValueError, match="47 codes of 6 dimensions; expected 8 for each dimension"):
        population.non_gaussian_parts(*standard(47))


def test_densities_of_codes_against_their_definition():
    rng = np.random.default_rng(8)
    mean, log_var = rng.normal(size=(700, 3)).astype(np.float32), rng.normal(-3, 1, (700, 3)).astype(np.float32)
    which, noise = np.arange(0, 700, 11), rng.normal(size=(64, 3)).astype(np.float32)
    found = population.code_densities(mean, log_var, which, noise)
    sigma = np.exp(0.5 * log_var.astype(np.float64))
    z = mean[which] + sigma[which] * noise
    each = stats.norm.logpdf(z[:, None], mean.astype(np.float64), sigma).sum(-1)
    np.testing.assert_allclose(found.own, each[np.arange(64), which], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.mixture, logsumexp(each, axis=1) - math.log(700), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.prior, stats.norm.logpdf(z).sum(1), rtol=1e-4, atol=1e-4)


def test_the_mixtures_distance_is_that_of_a_quadrature():
    rng = np.random.default_rng(10)
    mean, log_var = rng.normal(1.0, 0.5, (400, 1)).astype(np.float32), np.full((400, 1), -2.0, np.float32)
    grid = np.linspace(-5, 7, 20_001)
    log_density = logsumexp(stats.norm.logpdf(grid[:, None], mean[:, 0], math.exp(-1)), axis=1) - math.log(400)
    expected = np.sum(np.exp(log_density) * (log_density - stats.norm.logpdf(grid))) * (grid[1] - grid[0])
    found = population.mixture_distance(mean, log_var)
    assert found.nats == pytest.approx(expected, abs=4 * found.standard_error)
    assert found.standard_error < 0.1


def test_posteriors_that_do_not_overlap_are_their_rate_less_log_n_away():
    mean = np.random.default_rng(11).normal(size=(300, 20)).astype(np.float32)
    log_var = np.full_like(mean, -8.0)
    rate = 0.5 * np.sum(mean**2 + np.exp(log_var) - 1 - log_var, axis=1).mean()
    found = population.mixture_distance(mean, log_var)
    assert found.nats == pytest.approx(rate - math.log(300), abs=4 * found.standard_error)


def test_whitening_undoes_the_root():
    rng = np.random.default_rng(12)
    covariance = np.cov(rng.normal(size=(4, 50)) * np.array([[1], [2], [0.1], [1]]))
    root = samplers.root(covariance)
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-12)
    noise, mean = rng.normal(size=(5, 4)), rng.normal(size=4)
    np.testing.assert_allclose(samplers.whiten(mean + noise @ root.T, mean, covariance), noise, atol=1e-9)


def test_chance_is_of_codes_from_the_prior_whatever_the_variances_are():
    """Of two kinds of posteriors, narrow and wide, and of posteriors that are wider than the prior."""
    rng = np.random.default_rng(13)
    var = np.where(rng.random((4000, 1)) < 0.5, 0.05, 0.95) * np.ones((4000, D))
    mean = (rng.normal(size=var.shape) * np.sqrt(1 - var)).astype(np.float32)
    for part in population.non_gaussian_parts(mean, np.log(var).astype(np.float32)):
        assert_near(part, 0.0, errors=5.0)
    wide = np.full((4000, D), math.log(1.5), np.float32)
    moments, _ = population.gaussian_parts(np.zeros_like(wide), wide)
    assert moments.nats - moments.chance == pytest.approx(D / 2 * (1.5 - 1 - math.log(1.5)), abs=0.01)
