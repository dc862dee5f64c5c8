import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from rvae_jax.evaluation.metrics import likelihood


def test_laplace_log_likelihood_is_a_density():
    rng = np.random.default_rng(0)
    x, x_hat = rng.uniform(-1, 1, (2, 3, 4, 5, 2))
    expected = stats.laplace.logpdf(x, x_hat, scale=0.4).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(likelihood.laplace_log_likelihood(x, x_hat, 0.4), expected, rtol=1e-5)


def test_the_trained_scale_is_that_of_the_reconstruction_term():
    x, *x_hats = np.random.default_rng(1).uniform(-1, 1, (3, 2, 4, 5, 2))
    scale = likelihood.trained_scale(40, 90.0)
    a, b = (likelihood.laplace_log_likelihood(x, x_hat, scale) for x_hat in x_hats)
    weighted = [90.0 * np.abs(x - x_hat).mean(axis=(1, 2, 3)) for x_hat in x_hats]
    np.testing.assert_allclose(a - b, weighted[1] - weighted[0], rtol=1e-4)


@pytest.fixture(scope="module")
def linear_model():
    """Images of two pixels, ``x_hat = w z`` with one latent dimension, and their likelihood by quadrature."""
    w, scale = np.array([0.5, -0.3]), 1 / 3
    x = np.array([[0.4, 0.1], [-0.8, 0.3]], np.float32)

    def log_likelihood(x, z):
        x_hat = z * jnp.asarray(w, jnp.float32)[None, :]
        return likelihood.laplace_log_likelihood(x, x_hat, scale)

    def density(z, image):
        return stats.norm.pdf(z) * np.prod(stats.laplace.pdf(image, w * z, scale=scale))

    exact = [math.log(integrate.quad(density, -8, 8, args=(image,), limit=200)[0]) for image in x]
    return x, log_likelihood, np.array(exact)


def bounds(linear_model, samples, repeats=400):
    x, log_likelihood, _ = linear_model
    mean, log_var = np.array([[0.5], [-1.2]], np.float32), np.full((2, 1), -0.7, np.float32)
    keys = jax.random.split(jax.random.key(0), repeats)

    def bound(key):
        return likelihood.importance_weighted_bound(x, mean, log_var, log_likelihood, key, samples)

    return np.asarray(jax.vmap(bound)(keys))


def test_bound_is_below_the_likelihood_and_tightens_with_more_samples(linear_model):
    *_, exact = linear_model
    means = []
    for samples in (1, 8, 64, 512):
        found = bounds(linear_model, samples)
        error = found.std(axis=0) / math.sqrt(len(found))
        assert (found.mean(axis=0) < exact + 4 * error).all()
        means.append(found.mean(axis=0))
    assert all((after > before).all() for before, after in itertools.pairwise(means))
    np.testing.assert_allclose(means[-1], exact, atol=0.01)


def test_bound_is_exact_where_the_decoder_ignores_the_code():
    x = np.random.default_rng(1).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)

    def log_likelihood(x, z):
        return likelihood.laplace_log_likelihood(x, jnp.zeros_like(x), 0.8)

    zeros = np.zeros((3, 8), np.float32)
    found = likelihood.importance_weighted_bound(x, zeros, zeros, log_likelihood, jax.random.key(0), 7)
    np.testing.assert_allclose(found, log_likelihood(x, zeros), rtol=1e-5)


def test_bits_per_dimension_of_a_uniform_density():
    # Over [-1, 1] it is 1/2 a value; 255 steps between 256 levels.
    assert likelihood.bits_per_dimension(-10 * math.log(2.0), 10) == pytest.approx(math.log2(255))
