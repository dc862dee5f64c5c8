import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from case_parts import arrays_of, jitted
from cases import CASES, NO_ARRAYS

from rvae_jax import losses
from rvae_jax.losses import Moments

pytestmark = pytest.mark.usefixtures("strict_promotion")

every_case = pytest.mark.parametrize("name", CASES)


def test_every_public_function_is_a_case():
    public = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    assert {name.split()[0] for name in CASES} == public - NO_ARRAYS
    assert public > NO_ARRAYS


def _leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def _floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _assert_close(ours, expected, tolerance):
    for mine, exact in zip(_leaves(ours), _leaves(expected), strict=True):
        assert mine.shape == exact.shape
        scale = max(1, np.max(np.abs(exact)))
        np.testing.assert_allclose(np.float64(mine), exact, rtol=0, atol=tolerance * scale)


def _gradients(function, arrays, cotangents):
    _, pullback = jax.vjp(lambda *arrays: _floats(function(*arrays)), *arrays)
    return pullback(cotangents)


def _weights(outputs):
    rng = np.random.default_rng(1)
    return [rng.normal(size=leaf.shape).astype(leaf.dtype) for leaf in _floats(outputs)]


@every_case
def test_value_equals_numpy_in_float64_and_in_float32(name):
    case = CASES[name]
    exact = arrays_of(case, dtype=np.float64)
    expected = case.oracle(*exact)
    ours = jitted(case.function)(*arrays_of(case))
    assert all(leaf.dtype == np.float32 for leaf in _floats(ours))
    _assert_close(ours, expected, 2e-6)
    with jax.enable_x64(True):
        ours = jitted(case.function)(*exact)
        assert all(leaf.dtype == np.float64 for leaf in _floats(ours))
        _assert_close(ours, expected, 1e-12)


@every_case
def test_gradient_equals_finite_differences_of_numpy(name):
    case = CASES[name]
    arrays = arrays_of(case, dtype=np.float64)
    outputs = [leaf for leaf in _leaves(case.oracle(*arrays)) if leaf.dtype == np.float64]
    weights = _weights(outputs)
    function = case.gradient_of(*(array.copy() for array in arrays)) if case.gradient_of else case.oracle

    def weighted():
        floats = [leaf for leaf in _leaves(function(*arrays)) if leaf.dtype == np.float64]
        return sum(np.sum(weight * leaf) for weight, leaf in zip(weights, floats, strict=True))

    with jax.enable_x64(True):
        ours = jax.device_get(jax.jit(lambda *arrays: _gradients(case.function, arrays, weights))(*arrays))
    step = 1e-5
    for array, exact in zip(arrays, ours, strict=True):
        numeric = np.empty_like(array)
        for index in np.ndindex(array.shape):
            value, sides = array[index], []
            for array[index] in (value + step, value - step):
                sides.append(weighted())
            array[index] = value
            numeric[index] = (sides[0] - sides[1]) / (2 * step)
        rounding = np.finfo(np.float64).eps * abs(weighted()) / step
        np.testing.assert_allclose(exact, numeric, rtol=0, atol=2e-8 * max(1, np.max(np.abs(numeric))) + 2 * rounding)


@every_case
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(name, dtype):
    case = CASES[name]
    half = [jnp.asarray(array, dtype) for array in arrays_of(case)]
    ours = jitted(case.function)(*half)
    assert all(leaf.dtype == np.float32 for leaf in _floats(ours))
    _assert_close(ours, jitted(case.function)(*(array.astype(jnp.float32) for array in half)), 2e-6)
    gradients = jax.eval_shape(lambda *arrays: _gradients(case.function, arrays, _floats(ours)), *half)
    assert all(gradient.dtype == dtype for gradient in gradients)


@every_case
def test_vmap_equals_one_call_for_each(name):
    case = CASES[name]
    several = [arrays_of(case, seed) for seed in range(3)]
    mapped = jax.jit(jax.vmap(case.function))(*map(np.stack, zip(*several, strict=True)))
    function = jitted(case.function)
    for index, arrays in enumerate(several):
        _assert_close([leaf[index] for leaf in jax.tree.leaves(mapped)], function(*arrays), 2e-6)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.arguments) > 1])
def test_types_of_two_arguments_may_differ(name):
    first, *rest = arrays_of(CASES[name])
    first = np.asarray(jnp.asarray(first, jnp.bfloat16))
    ours, expected = (jitted(CASES[name].function)(x, *rest) for x in (first, first.astype(np.float32)))
    assert [leaf.dtype for leaf in jax.tree.leaves(ours)] == [leaf.dtype for leaf in jax.tree.leaves(expected)]
    _assert_close(ours, expected, 2e-6)


# They begin with an empty state, which is float64 if float64 is enabled.
OF_EMPTY_STATES = ("update_means_queue", "update_moments_average of three", "lecam_penalty of three")


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(OF_EMPTY_STATES)])
def test_float32_stays_float32_where_float64_is_enabled(name):
    case = CASES[name]
    with jax.enable_x64(True):
        ours = jax.eval_shape(case.function, *arrays_of(case))
    assert all(leaf.dtype == np.float32 for leaf in _floats(ours))


@pytest.mark.parametrize("patches", [1, 3])
def test_r1_penalty_has_the_exact_gradient_in_a_linear_discriminators_weights(patches):
    rng = np.random.default_rng(0)
    images, weights = rng.normal(size=(5, 2, 2, 1)), rng.normal(size=(4, patches))

    def penalty(weights):
        return jnp.mean(losses.r1_penalty(lambda images: images.reshape(5, -1) @ weights, images))

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(penalty))(weights)
        curvature = jax.jit(jax.hessian(penalty))(weights)
    mean = weights.mean(1)
    np.testing.assert_allclose(value, mean @ mean, rtol=1e-12)
    np.testing.assert_allclose(gradient, np.tile(2 * mean[:, None] / patches, patches), rtol=1e-12)
    expected = np.einsum("ij,pq->ipjq", 2 * np.eye(4), np.full((patches, patches), 1 / patches**2))
    np.testing.assert_allclose(curvature, expected, atol=1e-12)


def test_r1_penalty_has_the_exact_gradient_in_a_quadratic_discriminators_weights():
    rng = np.random.default_rng(0)
    images, matrix = rng.normal(size=(5, 2, 2, 1)), rng.normal(size=(4, 4))

    def discriminator(images, matrix):
        flat = images.reshape(5, -1)
        return jnp.einsum("bi,ij,bj->b", flat, matrix, flat)

    with jax.enable_x64(True):
        gradient = jax.jit(
            jax.grad(lambda matrix: jnp.sum(losses.r1_penalty(lambda x: discriminator(x, matrix), images)))
        )(matrix)
    flat, symmetric = images.reshape(5, -1), matrix + matrix.T
    half = symmetric @ flat.T @ flat
    np.testing.assert_allclose(gradient, 2 * (half + half.T), rtol=1e-12)


def test_r1_penalty_of_a_patch_discriminator_is_that_of_its_mean_logit():
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    patches = losses.r1_penalty(lambda images: jnp.sin(images), images)
    np.testing.assert_allclose(patches, np.sum(np.cos(images) ** 2, (1, 2, 3)) / 48**2, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 10, 128])
def test_small_batch_bias_equals_the_expected_log_of_a_chi_squared(count):
    expected = scipy.stats.chi2(count - 1).expect(lambda x: -0.5 * np.log(x / count))
    assert losses.small_batch_bias(count) == pytest.approx(expected, rel=1e-6)


def test_small_batch_bias_of_one_code_raises():
    with pytest.raises(ValueError, match="batch_size is 1"):
        losses.small_batch_bias(1)


@pytest.mark.parametrize("step_of", [int, np.int32, jnp.int32, np.int64, jnp.uint32])
def test_ramp_rises_linearly_from_its_start(step_of):
    weights = [losses.ramp(step_of(step), 3, 4) for step in range(9)]
    assert all(weight.dtype == np.float32 and weight.shape == () for weight in weights)
    np.testing.assert_array_equal(np.asarray(weights), [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize("length", [0, 1])
def test_ramp_of_no_length_is_a_switch(length):
    weights = jax.jit(jax.vmap(lambda step: losses.ramp(step, 2, length)))(jnp.arange(5))
    np.testing.assert_array_equal(weights, [0, 0, 1, 1, 1])


def test_empty_states_hold_nothing():
    for state in (losses.init_lecam_anchors(), losses.init_moments_average(3), losses.init_means_queue(5, 3)):
        assert all(not leaf.any() for leaf in jax.tree.leaves(state))
    moments = losses.queue_moments(losses.init_means_queue(5, 3))
    np.testing.assert_array_equal(moments, np.zeros((2, 3)))
    moments = losses.queue_moments(losses.init_means_queue(5, 3), jnp.full((2, 3), jnp.log(2.0)))
    np.testing.assert_allclose(moments, [[0, 0, 0], [2, 2, 2]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_active_units_counts_above_the_threshold(dtype):
    var = jnp.asarray([0.0, 0.0099, 0.0101, 0.5, 1e30 if dtype != "float16" else 1e4], dtype)
    units = losses.active_units(Moments(jnp.zeros_like(var), var))
    assert units.dtype == jnp.float32
    assert float(units) == np.sum(np.float64(var) > 0.01) == 3
    assert losses.active_units(Moments(var, var), threshold=0.5) == 1
    nearest = jnp.asarray([0.01], dtype)
    assert float(losses.active_units(Moments(nearest, nearest))) == np.sum(np.float32(nearest) > np.float32(0.01))


def test_parts_of_the_kl_add_up():
    rng = np.random.default_rng(0)
    codes = rng.normal(0.3, 1.5, (6, 3)), rng.normal(0.3, 1.5, (6, 3)), rng.normal(size=(6, 3))

    @jax.jit
    def pairs(mean, log_var, noise):
        covariance, mixture = losses.batch_covariance(mean, log_var, shrinkage=0.1), losses.batch_moments(mean, log_var)
        parts = losses.kl_decomposition(mean, log_var, noise, dataset_size=6)
        return [
            (
                losses.batch_norm_kl_bound(losses.batch_moments(mean)),
                jnp.mean(losses.gaussian_kl(mean, log_var) - losses.variance_regularizer(log_var)),
            ),
            (
                losses.population_kl(mixture) + losses.gaussian_total_correlation(covariance),
                losses.population_kl(covariance),
            ),
            (parts.mutual_information, losses.mutual_information(mean, log_var, noise)),
            (parts.total_correlation + parts.dimension_kl, losses.mixture_kl(mean, log_var, noise)),
        ]

    with jax.enable_x64(True):
        for ours, expected in pairs(*codes):
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "nll", "expected"),
    [
        ("gaussian", losses.gaussian_nll, lambda log_scale: 24 / 2 * (1 + np.log(2 * np.pi * np.exp(2 * log_scale)))),
        ("laplace", losses.laplace_nll, lambda log_scale: 24 * (1 + np.log(2 * np.exp(log_scale)))),
    ],
)
def test_likelihood_is_stationary_at_the_optimal_scale(kind, nll, expected):
    x_hat, x = np.random.default_rng(0).normal(size=(2, 5, 4, 3, 2))

    def objective(x_hat, keep):
        return jnp.mean(nll(x_hat, x, keep(losses.optimal_log_scale(x_hat, x, kind=kind))))

    @jax.jit
    def run(x_hat):
        log_scale = losses.optimal_log_scale(x_hat, x, kind=kind)
        of_scale = jax.grad(lambda log_scale: jnp.mean(nll(x_hat, x, log_scale)))(log_scale)
        gradients = [jax.grad(objective)(x_hat, keep) for keep in (lambda s: s, jax.lax.stop_gradient)]
        return log_scale, objective(x_hat, lambda s: s), of_scale, gradients

    with jax.enable_x64(True):
        log_scale, value, of_scale, (with_it, without) = jax.device_get(run(x_hat))
    np.testing.assert_allclose(value, expected(log_scale), rtol=1e-12)
    assert abs(of_scale) <= 1e-12
    np.testing.assert_allclose(with_it, without, atol=1e-14)


def test_weighted_parts_are_shifted_by_constants_without_gradient():
    mean, log_var = np.zeros((5, 3)), np.full((5, 3), 0.4)
    noise = np.random.default_rng(0).normal(size=(5, 3))

    def parts(mean, dataset_size, weighting):
        return jnp.stack(losses.kl_decomposition(mean, log_var, noise, dataset_size=dataset_size, weighting=weighting))

    @jax.jit
    def run(mean):
        values = parts(mean, 5, "stratified"), parts(mean, 40, "weighted")
        return *values, [jax.jacobian(parts)(mean, size, "weighted") for size in (5, 40)]

    with jax.enable_x64(True):
        whole, weighted, gradients = run(mean)
    shifts = np.log(40) * np.array([1, 3 - 1, -3])
    np.testing.assert_allclose(weighted - whole, np.tile(shifts[:, None], 5), rtol=1e-12)
    np.testing.assert_allclose(*gradients, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2], ids=["means", "mixture"])
def test_accumulated_gradients_equal_those_of_the_complete_batch(count):
    codes = np.random.default_rng(0).normal(size=(count, 6, 3))
    parts = np.moveaxis(codes.reshape(count, 3, 2, 3), 1, 0)

    @jax.jit
    def run(codes, parts):
        combined = losses.combine_moments(jax.vmap(lambda part: losses.batch_moments(*part))(parts))
        whole, exact = losses.batch_moments(*codes), jax.grad(objective)(codes, losses.batch_moments)
        anchored = functools.partial(losses.anchored_moments, combined)
        return combined, whole, exact, jax.vmap(lambda part: jax.grad(objective)(part, anchored))(parts)

    def objective(codes, moments_of):
        return losses.population_kl(moments_of(*codes))

    with jax.enable_x64(True):
        combined, whole, exact, gradients = jax.device_get(run(codes, parts))
    np.testing.assert_allclose(combined, whole, rtol=1e-12)
    np.testing.assert_allclose(np.moveaxis(gradients, 0, 1).reshape(count, 6, 3) / 3, exact, atol=1e-14)
