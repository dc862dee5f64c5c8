"""Expectations by quadrature and by simulation.

Statistical tests allow 4.5 standard errors, and say how small these are.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

SIGMAS = 4.5


def assert_mean(samples, expected, largest_standard_error):
    standard_error = np.std(samples) / math.sqrt(len(samples))
    assert standard_error <= largest_standard_error
    assert abs(np.mean(samples) - expected) <= SIGMAS * standard_error


def posteriors(count, size, spread=1.2, seed=0):
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=(count, size)), rng.normal(-0.6, 0.4, (count, size))


def over_noise(function, mean, log_var, nodes=60):
    """Expectation over the noise of what depends on one row of it at a time, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points = np.array(list(itertools.product(points, repeat=mean.shape[1])))
    weights = np.prod(list(itertools.product(weights / weights.sum(), repeat=mean.shape[1])), axis=1)
    results = jax.jit(jax.vmap(lambda point: function(mean, log_var, jnp.tile(point, (len(mean), 1)))))(points)
    return jax.tree.map(lambda values: weights @ np.asarray(values), results)
