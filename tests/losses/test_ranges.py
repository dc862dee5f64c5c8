"""Values and gradients are finite over the range that the package's docstring states."""

import jax
import numpy as np
import pytest
from cases import CASES
from extremes import FLOAT32, extreme, values_and_gradients

from rvae_jax import losses


def _assert_finite_at_extremes(case, arguments, trials):
    rng = np.random.default_rng(0)
    arrays = [np.stack([extreme(argument, rng) for _ in range(trials)]) for argument in arguments]
    leaves = jax.tree.leaves(jax.jit(jax.vmap(values_and_gradients(case.function)))(*arrays))
    finite = np.all([np.isfinite(leaf).reshape(trials, -1).all(1) for leaf in leaves], axis=0)
    assert finite.all(), [array[np.argmin(finite)] for array in arrays]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_finite_over_the_stated_range(name):
    _assert_finite_at_extremes(CASES[name], CASES[name].arguments, 512)


OF_SEVERAL = ("imq_mmd", "kl_decomposition", "queue_moments", "sliced_normality")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, case in CASES.items()
        if not name.startswith(OF_SEVERAL) and any(argument.shape[:1] == (5,) for argument in case.arguments)
    ],
)
def test_values_and_gradients_of_one_image_are_finite(name):
    arguments = [
        argument._replace(shape=(1, *argument.shape[1:])) if argument.shape[:1] == (5,) else argument
        for argument in CASES[name].arguments
    ]
    _assert_finite_at_extremes(CASES[name], arguments, 128)


@pytest.mark.parametrize("count", [2, 10, 100])
@pytest.mark.parametrize("size", [32, 512])
def test_a_covariance_of_few_codes_is_invertible_when_shrunk_by_a_hundredth(count, size):
    def term(mean):
        return losses.population_kl(losses.batch_covariance(mean, shrinkage=0.01))

    function = jax.jit(jax.value_and_grad(term))
    codes = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
    for mean in (codes, 1e15 * codes, 1e-3 * codes, np.tile(codes[:, :1], size), 1e15 * np.sign(codes), 1000 + codes):
        value, gradient = function(mean)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        assert value >= 0


@pytest.mark.parametrize(("count", "size"), [(2, 128), (32, 128), (2, 512)])
def test_the_covariance_of_an_average_is_invertible_from_its_first_batch_on(count, size):
    decay = 0.9

    def term(mean, average):
        average = losses.update_moments_average(average, losses.batch_covariance(mean, shrinkage=0), decay=decay)
        shrinkage = losses.correlation_shrinkage(losses.codes_in_average(average, count, decay=decay), size)
        moments = losses.anchored_moments(average.moments, mean)
        return losses.population_kl(losses.shrink_covariance(moments, shrinkage)), average

    function = jax.jit(jax.value_and_grad(term, has_aux=True))
    codes = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
    for mean in (codes, 1e15 * codes, 1e-3 * codes, np.tile(codes[:, :1], size), 1e15 * np.sign(codes), 1000 + codes):
        average = losses.init_moments_average(size, covariance=True)
        for factor in (1, 0.5, 1):
            (value, average), gradient = function(np.float32(factor) * mean, average)
            assert np.isfinite(value) and np.isfinite(gradient).all()
            assert value >= 0


def test_many_dimensions_stay_finite():
    rng = np.random.default_rng(0)
    mean = rng.choice(np.float32([-1e15, 0, 1, 1e15]), (4, 512))
    log_var = rng.choice(np.float32([FLOAT32.min, -1, 0, 40, FLOAT32.max]), (4, 512))
    noise = rng.normal(size=(4, 512)).astype(np.float32)
    for name in ("mixture_elbo of the mixture", "kl_decomposition stratified", "batch_covariance mixture"):
        arrays = {"mixture_elbo of the mixture": (np.full(4, 1e16, np.float32), mean, log_var)}.get(
            name, (mean, log_var, noise)[: len(CASES[name].arguments)]
        )
        assert all(
            np.isfinite(leaf).all()
            for leaf in jax.tree.leaves(jax.jit(values_and_gradients(CASES[name].function))(*arrays))
        )
