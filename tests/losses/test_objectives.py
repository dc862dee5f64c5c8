"""Likelihoods, complete objectives, regularizers of other VAEs, and the kurtosis of codes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from expectations import assert_mean, over_noise, posteriors

from rvae_jax import losses

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("kind", "nll"), [("gaussian", losses.gaussian_nll), ("laplace", losses.laplace_nll)])
def test_optimal_scale_maximises_the_likelihood(kind, nll):
    x_hat, x = np.random.default_rng(0).normal(size=(2, 5, 4, 3, 2))
    objective = jax.jit(lambda log_scale: jnp.mean(nll(x_hat, x, log_scale)))
    found = scipy.optimize.minimize_scalar(lambda log_scale: float(objective(log_scale)), bracket=(-3, 3), tol=1e-10)
    np.testing.assert_allclose(losses.optimal_log_scale(x_hat, x, kind=kind), found.x, atol=1e-6)


def test_beta_vae_is_the_negative_elbo():
    """In a linear Gaussian model, the ELBO of the exact posterior is the log evidence; any other ELBO is smaller."""
    rng, log_scale = np.random.default_rng(0), math.log(0.8)
    loadings, x = rng.normal(size=(1, 2, 2, 1)), rng.normal(size=(3, 2, 2, 1))
    var = 1 / (1 + np.sum(loadings**2) / 0.8**2)
    mean = var * np.sum(x * loadings, axis=(1, 2, 3))[:, None] / 0.8**2
    flat = loadings.ravel()
    evidence = scipy.stats.multivariate_normal(cov=np.outer(flat, flat) + 0.8**2 * np.eye(4)).logpdf(x.reshape(3, 4))

    def negative_elbo(mean, log_var, noise):
        z = mean + jnp.exp(log_var / 2) * noise
        return losses.beta_vae(losses.gaussian_nll(z[:, :, None, None] * loadings, x, log_scale), mean, log_var)

    log_var = np.full((3, 1), math.log(var))
    np.testing.assert_allclose(over_noise(negative_elbo, mean, log_var, nodes=3), -evidence, rtol=1e-12)
    for shift in np.array([[0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]]):
        assert np.all(over_noise(negative_elbo, mean + shift[0], log_var + shift[1], nodes=3) > -evidence + 1e-3)


REGIMES = {
    "means": ({"moments": "means"}, 1.0, 1.0, 2.0),
    "mixture": ({"moments": "mixture"}, 0.0, 1.0, 1.0),
    "mixture with a target": ({"moments": "mixture", "variance_target": 0.3}, 0.7, 0.3, 1.0),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_kl_terms_are_zero_where_the_docstring_says(regime):
    options, var_of_means, var, population_var = REGIMES[regime]
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    mean, log_var = math.sqrt(var_of_means) * signs, np.full(signs.shape, math.log(var))
    total = jax.jit(lambda mean, log_var: losses.mixture_elbo(jnp.zeros(len(mean)), mean, log_var, **options).total)
    assert abs(total(mean, log_var)) < 1e-12
    np.testing.assert_allclose(losses.batch_moments(mean, log_var).var, population_var, rtol=1e-12)
    if regime == "mixture with a target":
        np.testing.assert_allclose(losses.gaussian_kl(mean, log_var) / 3, 0.5 * math.log(1 / 0.3), rtol=1e-12)
    rng = np.random.default_rng(0)
    for size in (1e-2, 0.3, 1.0):
        for _ in range(10):
            steps = size * rng.normal(size=(2, *mean.shape))
            assert total(mean + steps[0], log_var + steps[1]) > 1e-7


@pytest.mark.parametrize("regime", REGIMES)
def test_descent_of_the_kl_terms_ends_where_the_docstring_says(regime):
    options, var_of_means, var, _ = REGIMES[regime]

    def total(codes):
        return losses.mixture_elbo(jnp.zeros(8), *codes, **options).total

    def step(codes, _):
        return tuple(code - slope for code, slope in zip(codes, jax.grad(total)(codes), strict=True)), None

    mean, log_var = jax.jit(lambda codes: jax.lax.scan(step, codes, length=3000)[0])(posteriors(8, 2))
    np.testing.assert_allclose(np.var(mean, axis=0), var_of_means, atol=0.02)
    np.testing.assert_allclose(np.exp(log_var), var, atol=0.02)
    np.testing.assert_allclose(np.mean(mean, axis=0), 0, atol=0.02)


def test_released_kl_terms_are_the_standard_kl_minus_two_terms():
    mean, log_var = np.random.default_rng(0).normal(0.3, 1.2, (2, 10, 16))
    released = losses.mixture_elbo(jnp.zeros(10), mean, log_var).total
    less = 0.4 * np.mean(np.sum(np.exp(log_var) - 1 - log_var, 1)) + 0.5 * np.sum(1 + np.log(np.var(mean, 0)))
    np.testing.assert_allclose(released, jnp.mean(losses.gaussian_kl(mean, log_var)) - less, rtol=1e-12)


def test_batch_norm_bound_is_the_rate_minus_the_variance_regularizer():
    mean, log_var = posteriors(7, 4)
    rate, part = jnp.mean(losses.gaussian_kl(mean, log_var)), jnp.mean(losses.variance_regularizer(log_var))
    bound = losses.batch_norm_kl_bound(losses.batch_moments(mean))
    assert bound < rate - 0.1
    np.testing.assert_allclose(rate - bound, part, rtol=1e-12)


def test_free_bits_apply_to_the_batch_mean_of_a_dimension_not_to_each_image():
    mean, log_var = np.array([[0.1, 0.1], [0.2, -3.0], [-0.1, 2.0]]), np.zeros((3, 2))
    by_dimension = losses.kl_by_dimension(mean, log_var)
    assert by_dimension[0, 1] < 0.5 < by_dimension[1:, 1].min()

    def each_image(mean):
        return jnp.mean(jnp.sum(jnp.maximum(0.5, losses.kl_by_dimension(mean, log_var)), axis=1))

    value, gradient = jax.value_and_grad(losses.free_bits_kl)(mean, log_var, free_nats=0.5)
    np.testing.assert_allclose(value, 0.5 + by_dimension[:, 1].mean(), rtol=1e-12)
    np.testing.assert_allclose(gradient, mean * [0, 1] / 3, rtol=1e-12)
    assert each_image(mean) > value + 0.1
    assert jax.grad(each_image)(mean)[0, 1] == 0


def test_kurtosis_equals_that_of_codes_drawn_from_the_mixture():
    mean, log_var = np.array([[-2.0], [0.3], [0.5], [3.0]]), np.log([[0.1], [0.5], [1.0], [0.3]])
    rng = np.random.default_rng(1)
    drawn = rng.integers(4, size=(100, 20_000))
    codes = (mean + np.exp(log_var / 2) * rng.normal(size=(100, 20_000, 4, 1)))[..., 0]
    sample = scipy.stats.kurtosis(np.take_along_axis(codes, drawn[..., None], 2)[..., 0], axis=1)
    shape = losses.population_shape(mean, log_var)
    assert abs(shape.excess_kurtosis[0]) > 0.3
    assert_mean(sample, shape.excess_kurtosis[0], 0.01)
    np.testing.assert_allclose(losses.population_shape(np.array([[1.0], [-1.0]])).excess_kurtosis, -2, rtol=1e-12)
