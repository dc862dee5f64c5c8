"""Guards: where they act, their values and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extremes import FLOAT32, values_and_gradients
from reference import relative_error

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, LeCamAnchors, Moments


def test_log_variance_beyond_its_guards_has_the_value_and_gradient_at_the_guard():
    log_var = np.float32([[FLOAT32.min, -1e30, losses.LOG_VAR_MAX, 100.0, FLOAT32.max]])
    value, pullback = jax.vjp(lambda log_var: losses.kl_by_dimension(0 * log_var, log_var), log_var)
    largest = 0.5 * np.expm1(losses.LOG_VAR_MAX)
    np.testing.assert_allclose(value, [[0.5e30, 0.5e30, largest, largest, largest]], rtol=1e-6)
    np.testing.assert_allclose(pullback(np.ones_like(log_var))[0], [[-0.5, -0.5, *[largest] * 3]], rtol=1e-6)
    np.testing.assert_allclose(losses.variance_regularizer(log_var), [np.sum(value)], rtol=1e-6)


@pytest.mark.parametrize("moments_of", [losses.batch_moments, losses.population_shape])
def test_variance_beyond_its_guards_has_the_value_and_gradient_at_the_guard(moments_of):
    log_var = np.float32([[FLOAT32.min, -1e30, losses.LOG_VAR_MAX, 100.0, FLOAT32.max]])
    value, pullback = jax.vjp(lambda log_var: moments_of(0 * log_var, log_var).var, log_var)
    np.testing.assert_allclose(value, [0, 0, *[np.exp(40)] * 3], rtol=1e-6)
    np.testing.assert_allclose(pullback(np.ones(5, np.float32))[0], [[0, 0, *[np.exp(40)] * 3]], rtol=1e-6)


def test_a_log_variance_below_the_floor_has_the_density_of_the_floor():
    rng = np.random.default_rng(0)
    mean, noise = (1e-7 * rng.normal(size=(3, 2))).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
    for function in (losses.mixture_kl, losses.mutual_information):
        run = jax.jit(values_and_gradients(function))
        expected = run(mean, np.full((3, 2), np.log(losses.VARIANCE_FLOOR), np.float32), noise)
        for log_var in (-40.0, -1e30, FLOAT32.min):
            ours = run(mean, np.full((3, 2), log_var, np.float32), noise)
            for mine, exact in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
                assert relative_error(mine, exact) <= 1e-5
        assert np.max(np.abs(expected[1][1])) > 0.1


@pytest.mark.parametrize(("nll", "slope"), [(losses.gaussian_nll, 2), (losses.laplace_nll, 1)])
def test_log_scale_beyond_its_guards_has_the_value_and_gradient_at_the_guard(nll, slope):
    x = np.array([[0.0, 0.5]], np.float32)
    run = jax.jit(values_and_gradients(lambda log_scale: nll(0 * x, x, log_scale)))
    for ends, end in (((-16.2, -100.0, -1e38), np.log(losses.VARIANCE_FLOOR) / 2), ((20.1, 1e38), 20.0)):
        (expected,), (gradient,) = run(np.float32(end))
        error = 0.5 / np.exp(end)
        assert gradient == pytest.approx(2 - error**slope, rel=1e-5)
        for beyond in ends:
            (value,), (ours,) = run(np.float32(beyond))
            np.testing.assert_allclose(value, expected, rtol=1e-5)
            np.testing.assert_allclose(ours, gradient, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_optimal_log_scale_has_a_smallest_value(kind):
    image = np.ones((2, 3, 3, 1), np.float32)
    for error in (0.0, 1e-12):
        scale = losses.optimal_log_scale(image * error, 0 * image, kind=kind)
        assert scale == pytest.approx(-16.118, abs=1e-3)
    assert losses.optimal_log_scale(image * 1e-6, 0 * image, kind=kind) == pytest.approx(np.log(1e-6), rel=1e-5)


SQUARES = {
    "generator_loss": lambda x: losses.generator_loss(x[None], kind="least_squares")[0],
    "discriminator_loss of fakes": lambda x: losses.discriminator_loss(0 * x[None] + 1, x[None], kind="least_squares")[
        0
    ],
    "discriminator_loss of images": lambda x: losses.discriminator_loss(x[None], 0 * x[None], kind="least_squares")[0],
    "lecam_penalty": lambda x: losses.lecam_penalty(
        jnp.stack([x, -x]), jnp.zeros(2), LeCamAnchors(jnp.float32(0), jnp.float32(0), jnp.float32(1)), decay=0.99
    )[0][0],
    "dip_penalty diagonal": lambda x: losses.dip_penalty(CovarianceMoments(jnp.zeros(1), x[None, None])).diagonal,
    "dip_penalty off_diagonal": lambda x: (
        losses.dip_penalty(CovarianceMoments(jnp.zeros(2), jnp.array([[0, 1], [0, 0]]) * x)).off_diagonal
    ),
}


@pytest.mark.parametrize("name", SQUARES)
def test_squares_are_limited_and_their_gradients_stay_those_at_the_limit(name):
    numbers = np.float32([1e15, -1e15, 1e16, -1e20, 1e30])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(SQUARES[name])))(numbers)
    np.testing.assert_allclose(values, np.full(5, 1e30), rtol=1e-6)
    np.testing.assert_allclose(gradients, 2e15 * np.sign(numbers), rtol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-30, 1e-12, 1e-9, 1e-8, 1e-7, 1e-4, 1.0])
def test_gradient_near_collapse_pushes_the_codes_apart(spread):
    means = (spread * np.random.default_rng(0).normal(size=(6, 8))).astype(np.float32)
    count, exact = len(means), means.astype(np.float64)
    centred = exact - exact.mean(0)
    floored = np.maximum(np.mean(centred**2, 0), losses.VARIANCE_FLOOR)
    expected = (exact.mean(0) + centred - centred / floored) / count
    ours = jax.jit(jax.grad(lambda mean: losses.population_kl(losses.batch_moments(mean))))(means)
    assert relative_error(ours, expected) <= 2e-6
    if 0 < spread < 0.1:
        # Below the floor, the gradient is that of the floor: 1e14 times the distance to the mean.
        assert np.max(np.abs(ours)) >= 0.1 * spread / max(spread**2, losses.VARIANCE_FLOOR)


def test_floors_change_no_ordinary_value():
    def kl(var):
        return 0.5 * (var - 1 - np.log(var))

    var = np.logspace(-12, 12, 200).astype(np.float32)
    function = jax.vmap(jax.value_and_grad(lambda v: losses.population_kl(Moments(jnp.zeros(1), v[None]))))
    value, gradient = jax.jit(function)(var)
    np.testing.assert_allclose(value, kl(np.float64(var)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.5 - 0.5 / np.float64(var), rtol=1e-6, atol=1e-6)
    log_var = np.linspace(-30, 30, 241, dtype=np.float32)
    function = jax.vmap(jax.value_and_grad(lambda v: jnp.sum(losses.variance_regularizer(v[None, None]))))
    value, gradient = jax.jit(function)(log_var)
    np.testing.assert_allclose(value, kl(np.exp(np.float64(log_var))), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.5 * np.expm1(np.float64(log_var)), rtol=1e-6, atol=1e-6)
    var = losses.batch_moments(np.zeros((2, 241), np.float32), np.stack([log_var, log_var])).var
    np.testing.assert_allclose(var, np.exp(np.float64(log_var)), rtol=1e-6)


def test_excess_kurtosis_of_two_points_and_of_a_rare_outlier():
    two = losses.population_shape(np.float32([[1.0, 1e15], [-1.0, 3e14]]))
    np.testing.assert_allclose(two.excess_kurtosis, -2, atol=1e-6)
    share = 1 / 100
    rare = losses.population_shape((np.arange(100)[:, None] < 1).astype(np.float32))
    np.testing.assert_allclose(rare.excess_kurtosis, 1 / (share * (1 - share)) - 6, rtol=1e-5)


@pytest.mark.parametrize("code", [0.0, 1.0, 0.1, 1000.1, 1e15])
def test_excess_kurtosis_of_equal_codes_is_finite_in_spite_of_rounding(code):
    shapes = [losses.population_shape(np.full((count, 1), code, np.float32)) for count in (1, 3, 6, 100)]
    assert all(-3.001 <= shape.excess_kurtosis[0] <= -1.999 for shape in shapes)
