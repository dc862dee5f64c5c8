import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, arrays_of, draw
from hypothesis import strategies
from reference import relative_error

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, LeCamAnchors, Moments

FLOAT32 = np.finfo(np.float32)

# Magnitudes of each kind of argument; a covariance is one of means, and the other kinds are as the cases draw them.
EXTREMES = {
    "mean": [0.0, 1e-30, 1e-7, 1.0, 1e7, 1e15],
    "log_var": [0.0, FLOAT32.tiny, 1.0, 33.0, 40.0, 88.0, 100.0, 1e30, 1e38, FLOAT32.max],
    "logit": [0.0, 1e-30, 1.0, 1e3, 1e15, 1e30],
    "anchor": [0.0, 1.0, 1e15],
    "image": [0.0, 1e-30, 1e-8, 1.0, 1e8],
    "error": [0.0, 1e-30, 1.0, 1e16],
    "noise": [0.0, 1e-30, 1.0, 6.0],
    "variance": [0.0, 1e-38, 1e-30, 1e-14, 1.0, 1e30],
    "log_scale": [0.0, 1.0, 16.0, 20.0, 100.0, 1e30, 1e38, FLOAT32.max],
}
POSITIVE = {"error", "variance"}


def extreme(argument, rng):
    kind, shape = argument
    if kind == "covariance":
        codes = extreme(argument._replace(kind="mean"), rng)
        cov = np.atleast_2d(np.cov(codes.T.astype(np.float64), bias=True))
        return np.float32(cov * np.where(np.eye(len(cov)), 1, 1 - rng.choice([0.01, 0.1, 1.0])))
    if kind not in EXTREMES:
        return draw(argument, rng)
    # One magnitude for all, one a column, or one an entry; equal signs, equal ones a column, many, or other numbers.
    sizes, factors = (shape[len(shape) - kept :] for kept in rng.integers(len(shape) + 1, size=2))
    factors = rng.choice([-1, 1], factors) if rng.random() < 0.7 else rng.uniform(-1, 1, factors)
    array = np.broadcast_to(rng.choice(EXTREMES[kind], sizes) * factors, shape).astype(np.float32)
    return np.abs(array) if kind in POSITIVE else array


def _floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _values_and_gradients(function):
    def run(*arrays):
        values, pullback = jax.vjp(lambda *arrays: _floats(function(*arrays)), *arrays)
        return values, pullback([jnp.ones_like(value) for value in values])

    return run


def _assert_finite_at_extremes(case, arguments, trials):
    rng = np.random.default_rng(0)
    arrays = [np.stack([extreme(argument, rng) for _ in range(trials)]) for argument in arguments]
    leaves = jax.tree.leaves(jax.jit(jax.vmap(_values_and_gradients(case.function)))(*arrays))
    finite = np.all([np.isfinite(leaf).reshape(trials, -1).all(1) for leaf in leaves], axis=0)
    assert finite.all(), [array[np.argmin(finite)] for array in arrays]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_finite_over_the_stated_range(name):
    _assert_finite_at_extremes(CASES[name], CASES[name].arguments, 512)


OF_SEVERAL = ("imq_mmd", "kl_decomposition", "queue_moments")


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
            for leaf in jax.tree.leaves(jax.jit(_values_and_gradients(CASES[name].function))(*arrays))
        )


# Guards: their values and their gradients.


def test_guards_of_a_log_variance_keep_the_gradient_of_where_they_stand():
    log_var = np.float32([[FLOAT32.min, -1e30, losses.LOG_VAR_MAX, 100.0, FLOAT32.max]])
    value, pullback = jax.vjp(lambda log_var: losses.kl_by_dimension(0 * log_var, log_var), log_var)
    largest = 0.5 * np.expm1(losses.LOG_VAR_MAX)
    np.testing.assert_allclose(value, [[0.5e30, 0.5e30, largest, largest, largest]], rtol=1e-6)
    np.testing.assert_allclose(pullback(np.ones_like(log_var))[0], [[-0.5, -0.5, *[largest] * 3]], rtol=1e-6)
    np.testing.assert_allclose(losses.variance_regularizer(log_var), [np.sum(value)], rtol=1e-6)


@pytest.mark.parametrize("moments_of", [losses.batch_moments, losses.population_shape])
def test_guards_of_a_variance_keep_the_gradient_of_where_they_stand(moments_of):
    log_var = np.float32([[FLOAT32.min, -1e30, losses.LOG_VAR_MAX, 100.0, FLOAT32.max]])
    value, pullback = jax.vjp(lambda log_var: moments_of(0 * log_var, log_var).var, log_var)
    np.testing.assert_allclose(value, [0, 0, *[np.exp(40)] * 3], rtol=1e-6)
    np.testing.assert_allclose(pullback(np.ones(5, np.float32))[0], [[0, 0, *[np.exp(40)] * 3]], rtol=1e-6)


def test_a_log_variance_below_the_floor_has_the_density_of_the_floor():
    rng = np.random.default_rng(0)
    mean, noise = (1e-7 * rng.normal(size=(3, 2))).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
    for function in (losses.mixture_kl, losses.mutual_information):
        run = jax.jit(_values_and_gradients(function))
        expected = run(mean, np.full((3, 2), np.log(losses.VARIANCE_FLOOR), np.float32), noise)
        for log_var in (-40.0, -1e30, FLOAT32.min):
            ours = run(mean, np.full((3, 2), log_var, np.float32), noise)
            for mine, exact in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
                assert relative_error(mine, exact) <= 1e-5
        assert np.max(np.abs(expected[1][1])) > 0.1


@pytest.mark.parametrize(("nll", "slope"), [(losses.gaussian_nll, 2), (losses.laplace_nll, 1)])
def test_guards_of_a_log_scale(nll, slope):
    x = np.array([[0.0, 0.5]], np.float32)
    run = jax.jit(_values_and_gradients(lambda log_scale: nll(0 * x, x, log_scale)))
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
@pytest.mark.parametrize("number", [1e15, -1e15, 1e16, -1e20, 1e30])
def test_squares_stop_to_grow_while_their_gradients_go_on(name, number):
    value, gradient = jax.value_and_grad(SQUARES[name])(np.float32(number))
    assert value == pytest.approx(1e30, rel=1e-6)
    assert gradient == pytest.approx(2e15 * np.sign(number), rel=1e-6)


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
        # Beyond the floor the push is that of the floor, 1e14 times the distance to the mean.
        assert np.max(np.abs(ours)) >= 0.1 * spread / max(spread**2, losses.VARIANCE_FLOOR)


def test_floors_move_no_ordinary_value():
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


def test_excess_kurtosis_of_two_points_and_of_rare_ones():
    two = losses.population_shape(np.float32([[1.0, 1e15], [-1.0, 3e14]]))
    np.testing.assert_allclose(two.excess_kurtosis, -2, atol=1e-6)
    share = 1 / 100
    rare = losses.population_shape((np.arange(100)[:, None] < 1).astype(np.float32))
    np.testing.assert_allclose(rare.excess_kurtosis, 1 / (share * (1 - share)) - 6, rtol=1e-5)


@pytest.mark.parametrize("code", [0.0, 1.0, 0.1, 1000.1, 1e15])
def test_excess_kurtosis_of_equal_codes(code):
    shapes = [losses.population_shape(np.full((count, 1), code, np.float32)) for count in (1, 3, 6, 100)]
    assert all(-3.001 <= shape.excess_kurtosis[0] <= -1.999 for shape in shapes)


# Properties.


SIZES = [(1, 1, "float16"), (2, 4, "bfloat16"), (5, 1, "float32"), (5, 4, "float32")]


def property_test(function):
    sized = hypothesis.given(seed=strategies.integers(0, 2**32 - 1), sizes=strategies.sampled_from(SIZES))
    return hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)(sized(function))


def _posteriors(seed, count, size, dtype):
    """Extreme means and log variances, or (for odd seeds) small ones, near the minimum of the KL."""
    rng = np.random.default_rng(seed)
    arguments = [CASES["mixture_kl"].arguments[i]._replace(shape=(count, size)) for i in range(3)]
    arrays = [extreme(argument, rng) for argument in arguments[:2]]
    if seed % 2:
        arrays = [10.0 ** rng.uniform(-8, 0, (2, 1, 1)) * rng.normal(size=(2, count, size))][0]
    largest = float(jnp.finfo(dtype).max)
    mean, log_var = (jnp.asarray(np.clip(array, -largest, largest), dtype) for array in arrays)
    return mean, log_var, jnp.asarray(draw(arguments[2], rng), dtype)


JITTED = {}


def jitted(function):
    """One trace of a function a shape, for all examples."""
    return JITTED.setdefault(function, jax.jit(function))


def _non_negative(mean, log_var):
    covariance = losses.batch_covariance(mean, log_var, shrinkage=0.1)
    means, mixture = losses.batch_moments(mean), losses.batch_moments(mean, log_var)
    logits = jnp.clip(mean, -1e30, 1e30)
    kinds = ("bce", "hinge", "least_squares")
    return {
        "gaussian_kl": losses.gaussian_kl(mean, log_var),
        "kl_by_dimension": losses.kl_by_dimension(mean, log_var),
        "variance_regularizer": losses.variance_regularizer(log_var),
        "variance_regularizer of a target": losses.variance_regularizer(log_var, target=0.25),
        "population_kl of means": losses.population_kl(means),
        "population_kl of the mixture": losses.population_kl(mixture),
        "population_kl of a covariance": losses.population_kl(covariance),
        "gaussian_total_correlation": losses.gaussian_total_correlation(covariance),
        "batch_norm_kl_bound": losses.batch_norm_kl_bound(means),
        "free_bits_kl": losses.free_bits_kl(mean, log_var, free_nats=0.3) - 0.3 * mean.shape[1],
        "dip_penalty": losses.dip_penalty(covariance),
        "discriminator_loss": [losses.discriminator_loss(logits, -logits, kind=kind) for kind in kinds],
        "generator_loss": [losses.generator_loss(logits, kind=kind) for kind in ("bce", "least_squares")],
        "lecam_penalty": losses.lecam_penalty(logits, -logits, losses.init_lecam_anchors(), decay=0.9)[0],
        "l1_reconstruction": losses.l1_reconstruction(mean, -mean),
        "l2_reconstruction": losses.l2_reconstruction(mean, -mean),
        "r1_penalty": losses.r1_penalty(lambda images: jnp.sin(images), mean),
        "variance": [means.var, mixture.var],
        "excess_kurtosis + 3": 3 + losses.population_shape(mean).excess_kurtosis,
    }


@property_test
def test_what_is_called_zero_or_more_is(seed, sizes):
    mean, log_var, _ = _posteriors(seed, *sizes)
    for name, value in jitted(_non_negative)(mean, log_var).items():
        for leaf in jax.tree.leaves(value):
            assert leaf.dtype == jnp.float32, name
            assert np.min(leaf) >= 0, (name, np.min(leaf))


def _mixture_terms(mean, log_var, noise):
    information = losses.mutual_information(mean, log_var, noise)
    return information, losses.mixture_kl(mean, log_var, noise)


@property_test
def test_information_is_at_most_log_n_and_adds_up_to_the_kl(seed, sizes):
    mean, log_var, noise = _posteriors(seed, *sizes)
    information, population = jitted(_mixture_terms)(mean, log_var, noise)
    mean, log_var, noise = (np.asarray(array, np.float64) for array in (mean, log_var, noise))
    log_var = np.clip(log_var, np.log(losses.VARIANCE_FLOOR), losses.LOG_VAR_MAX)
    codes = mean + np.exp(log_var / 2) * noise
    log_ratio = 0.5 * np.sum(codes**2 - noise**2 - log_var, axis=1)
    scale = 1 + np.abs(log_ratio) + np.sum(np.abs(log_var) + noise**2, axis=1)
    assert np.all(information <= np.log(sizes[0]) + 2e-6 * scale)
    np.testing.assert_array_less(np.abs(np.float64(information) + population - log_ratio) / scale, 2e-6)


def _parts(mean, log_var, noise):
    kinds = ("stratified", "weighted")
    return [losses.kl_decomposition(mean, log_var, noise, dataset_size=9, weighting=kind) for kind in kinds]


@property_test
def test_decomposition_adds_up_to_the_kl(seed, sizes):
    mean, log_var, noise = _posteriors(seed, *sizes)
    if sizes[0] == 1:
        with pytest.raises(ValueError, match="got 1"):
            losses.kl_decomposition(mean, log_var, noise, dataset_size=9)
        return
    both = jitted(_parts)(mean, log_var, noise)
    mean, log_var, noise = (np.asarray(array, np.float64) for array in (mean, log_var, noise))
    log_var = np.clip(log_var, np.log(losses.VARIANCE_FLOOR), losses.LOG_VAR_MAX)
    log_ratio = 0.5 * np.sum((mean + np.exp(log_var / 2) * noise) ** 2 - noise**2 - log_var, axis=1)
    for parts in both:
        terms = np.float64(parts)
        scale = 1 + np.abs(terms).sum(0) + np.sum(np.abs(log_var) + noise**2, axis=1)
        np.testing.assert_array_less(np.abs(terms.sum(0) - log_ratio) / scale, 2e-6)


@property_test
def test_mmd_is_bounded_and_symmetric(seed, sizes):
    mean, _, noise = _posteriors(seed, sizes[0] + 1, *sizes[1:])
    ours = jitted(losses.imq_mmd)(mean, noise)
    assert abs(ours) <= 2 * len(losses.IMQ_SCALES)
    np.testing.assert_allclose(jitted(losses.imq_mmd)(noise, mean), ours, rtol=1e-5, atol=1e-5)


def _covariances(mean, log_var, shrinkage):
    return [losses.batch_covariance(*codes, shrinkage=shrinkage).cov for codes in ((mean,), (mean, log_var))]


@property_test
def test_shrinkage_bounds_correlations_and_eigenvalues(seed, sizes):
    mean, log_var, _ = _posteriors(seed, *sizes)
    for shrinkage in (0.0, 0.1, 1.0):
        for cov in map(np.float64, jitted(_covariances)(mean, log_var, np.float32(shrinkage))):
            np.testing.assert_array_equal(cov, cov.T)
            deviation = np.sqrt(np.maximum(np.diag(cov), FLOAT32.tiny))
            correlation = cov / np.outer(deviation, deviation)
            off_diagonal = correlation - np.diag(np.diag(correlation))
            assert np.max(np.abs(off_diagonal)) <= 1 - shrinkage + 1e-5
            assert np.linalg.eigvalsh(correlation).min() >= shrinkage * np.diag(correlation).min() - 1e-5


def _moving(mean, log_var):
    moments = losses.batch_moments(mean, log_var)
    average = losses.init_moments_average(mean.shape[1])
    first = losses.update_moments_average(average, moments, decay=0.9)
    newest = losses.update_moments_average(first, Moments(*(m[::-1] for m in moments)), decay=0)
    queue = losses.update_means_queue(losses.init_means_queue(7, mean.shape[1]), mean)
    anchors = losses.lecam_penalty(mean, log_var, losses.init_lecam_anchors(), decay=0.9)[1]
    return moments, first, newest, losses.queue_moments(queue, log_var), anchors


@property_test
def test_states_hold_the_first_batch_exactly_and_without_decay_the_newest(seed, sizes):
    mean, log_var, _ = _posteriors(seed, *sizes)
    moments, first, newest, queued, anchors = jitted(_moving)(mean, log_var)
    for ours, expected in zip(first.moments, moments, strict=True):
        np.testing.assert_array_equal(ours, expected)
    for ours, expected in zip(newest.moments, moments, strict=True):
        np.testing.assert_array_equal(ours, expected[::-1])
    assert first.weight == pytest.approx(0.1) and newest.weight == 1
    scale = 1e-6 * np.max(np.abs(np.asarray(mean, np.float64)))
    np.testing.assert_allclose(queued.mean, moments.mean, rtol=2e-6, atol=scale)
    np.testing.assert_allclose(queued.var, moments.var, rtol=1e-5, atol=scale**2)
    for ours, logits in zip(anchors, (mean, log_var), strict=False):
        logits = np.clip(np.asarray(logits, np.float64), -1e15, 1e15)
        np.testing.assert_allclose(ours, np.mean(logits), atol=1e-6 * np.max(np.abs(logits)))


ALONE = (
    *("l1_reconstruction", "l2_reconstruction", "perceptual_reconstruction", "gaussian_kl", "kl_by_dimension"),
    *("gaussian_nll", "laplace_nll", "variance_regularizer", "beta_vae", "discriminator_loss", "generator_loss"),
    "r1_penalty",
)
TOGETHER = (
    *("batch_moments", "batch_covariance", "population_shape", "free_bits_kl", "imq_mmd", "optimal_log_scale"),
    *("mixture_elbo", "mixture_kl", "mutual_information", "kl_decomposition", "lecam_penalty", "anchored_moments"),
    *ALONE,
)


def _replace_rows(case, arrays, change):
    return [
        change(array) if argument.shape[:1] == (5,) else array
        for argument, array in zip(case.arguments, arrays, strict=True)
    ]


@pytest.mark.parametrize("name", [name for name in CASES if name.split()[0] in ALONE])
def test_a_result_of_one_image_knows_nothing_of_the_others(name):
    case = CASES[name]
    arrays = arrays_of(case)

    def spoil(array):
        return np.concatenate([array[:2], np.full_like(array[2:], np.nan)])

    function = jax.jit(case.function)
    expected, ours = function(*arrays), function(*_replace_rows(case, arrays, spoil))
    np.testing.assert_array_equal(ours[:2], expected[:2])


@pytest.mark.parametrize("name", [name for name in CASES if name.split()[0] in TOGETHER])
def test_the_order_of_the_batch_does_not_matter(name):
    case, order = CASES[name], np.array([3, 0, 4, 2, 1])
    arrays = arrays_of(case)
    function = jax.jit(case.function)
    ours, expected = function(*_replace_rows(case, arrays, lambda array: array[order])), function(*arrays)
    for mine, exact in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert relative_error(mine, exact[order] if exact.shape[:1] == (5,) else exact) <= 2e-6


OF_ANY_SHAPE = [
    *("l1_reconstruction", "l2_reconstruction", "gaussian_nll", "laplace_nll of a scale a pixel", "gaussian_kl"),
    *("kl_by_dimension", "variance_regularizer", "population_kl", "gaussian_total_correlation", "mixture_kl"),
    *("mutual_information", "batch_moments means", "batch_moments mixture", "mixture_elbo of the mixture"),
    *("beta_vae", "dip_penalty", "discriminator_loss bce", "generator_loss hinge", "batch_norm_kl_bound"),
]


@hypothesis.settings(max_examples=5, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    count=strategies.integers(1, 3),
    size=strategies.integers(1, 3),
    dtype=strategies.sampled_from(["float32", "bfloat16", "float16"]),
    seed=strategies.integers(0, 2**32 - 1),
)
def test_any_shape_and_type(count, size, dtype, seed):
    def resized(argument):
        sizes = {4: (count, 2, 1, size), 2: (count, size), 1: (size,), 0: ()}
        shape = (size, size) if argument.kind == "covariance" else sizes[len(argument.shape)]
        return argument._replace(shape=(count,) if argument.kind == "error" else shape)

    arguments = {}
    for name in OF_ANY_SHAPE:
        case = CASES[name]._replace(arguments=[resized(argument) for argument in CASES[name].arguments])
        arguments[name] = [jnp.asarray(array, dtype) for array in arrays_of(case, seed)]
    every = jax.jit(lambda arguments: {name: CASES[name].function(*arrays) for name, arrays in arguments.items()})
    for name, ours in every(arguments).items():
        exact = CASES[name].oracle(*(np.asarray(array, np.float64) for array in arguments[name]))
        scale = 1 + max(np.max(np.square(np.float64(array))) for array in arguments[name])
        for mine, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
            assert mine.dtype == jnp.float32
            np.testing.assert_allclose(mine, expected, rtol=4e-6, atol=4e-6 * scale, err_msg=name)


# What raises.

# They make arguments of their arrays, and would fail there.
INDIRECT = (*("r1_penalty", "update_means_queue", "update_moments_average of three", "lecam_penalty of three"),)
DIRECT = [name for name, case in CASES.items() if len(case.arguments) > 1 and not name.startswith(INDIRECT)]


# A queue goes with the log variances of a batch of another length, and so does any batch with a given population.
OF_ANY_BATCH = {("queue_moments mixture", 0), ("queue_moments mixture", 1), ("anchored_moments means", 2)}


def _other_shapes(name, index):
    shape = CASES[name].arguments[index].shape
    for axis in range((name, index) in OF_ANY_BATCH, len(shape)):
        yield (*shape[:axis], 2 if shape[axis] == 1 else 1, *shape[axis + 1 :])
    yield (1, *shape)
    if shape:
        yield shape[1:]


MISMATCHES = [
    pytest.param(name, index, shape, id=f"{name}, argument {index} of shape {shape}")
    for name in DIRECT
    for index in range(len(CASES[name].arguments))
    for shape in _other_shapes(name, index)
]


@pytest.mark.parametrize(("name", "index", "shape"), MISMATCHES)
def test_shapes_that_do_not_match_raise_and_are_named(name, index, shape):
    arrays = [jax.ShapeDtypeStruct(argument.shape, np.float32) for argument in CASES[name].arguments]
    arrays[index] = jax.ShapeDtypeStruct(shape, np.float32)
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError) as error:
        jax.eval_shape(CASES[name].function, *arrays)
    function, _, message = str(error.value).partition(": ")
    assert function in losses.__all__, error.value
    named = set(re.findall(r"\((?:\d+,? ?)*\)", message))
    assert len(named) >= (2 if len(shape) == len(CASES[name].arguments[index].shape) else 1), error.value


def _ones(*shape):
    return jnp.ones(shape)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: losses.gaussian_kl(x, x), (3,)),
        (losses.variance_regularizer, (3,)),
        (losses.variance_regularizer, (2, 3, 4)),
        (losses.batch_moments, (3,)),
        (losses.batch_moments, (2, 3, 4)),
        (functools.partial(losses.batch_covariance, shrinkage=0.1), (3,)),
        (losses.population_shape, (3,)),
        (lambda x: losses.population_kl(Moments(x, x)), (2, 3)),
        (lambda x: losses.population_kl(CovarianceMoments(x, x)), (3, 3)),
        (lambda x: losses.gaussian_total_correlation(CovarianceMoments(x, x)), (3, 3)),
        (lambda x: losses.dip_penalty(CovarianceMoments(x, x)), (3, 3)),
        (lambda x: losses.batch_norm_kl_bound(Moments(x, x)), (2, 3)),
        (lambda x: losses.active_units(Moments(x, x)), (2, 3)),
        (lambda x: losses.combine_moments(Moments(x, x)), (3,)),
        (lambda x: losses.anchored_moments(Moments(x, x), x), (3,)),
        (lambda x: losses.mixture_kl(x, x, x), (3,)),
        (lambda x: losses.mutual_information(x, x, x), (3,)),
        (lambda x: losses.kl_decomposition(x, x, x, dataset_size=9), (3,)),
        (lambda x: losses.free_bits_kl(x, x, free_nats=1.0), (3,)),
        (lambda x: losses.imq_mmd(x, x), (3,)),
        (lambda x: losses.mixture_elbo(x, x, x), (3,)),
        (lambda x: losses.beta_vae(x, x, x), (3,)),
        (lambda x: losses.update_means_queue(losses.init_means_queue(5, 3), x), (3,)),
        (lambda x: losses.queue_moments(losses.init_means_queue(5, 3), x), (3,)),
    ],
)
def test_wrong_number_of_axes_raises_and_the_shape_is_named(function, shape):
    with pytest.raises(ValueError, match="axes, got shape") as error:
        function(jnp.ones(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: losses.l1_reconstruction(x, x),
        lambda x: losses.l2_reconstruction(x, x),
        lambda x: losses.perceptual_reconstruction(x, x, lambda a, b: a),
        lambda x: losses.gaussian_nll(x, x, x),
        lambda x: losses.laplace_nll(x, x, x),
        lambda x: losses.optimal_log_scale(x, x),
        lambda x: losses.discriminator_loss(x, x),
        lambda x: losses.lecam_penalty(x, x, losses.init_lecam_anchors(), decay=0.9),
        lambda x: losses.r1_penalty(lambda images: images, x),
        lambda x: losses.r1_penalty(jnp.sum, jnp.stack([x, x])),
        losses.generator_loss,
    ],
)
def test_scalar_raises(function):
    with pytest.raises(ValueError, match="batch axis"):
        function(jnp.ones(()))


@pytest.mark.parametrize(
    "function",
    [
        lambda kind: losses.discriminator_loss(_ones(2, 3), _ones(2, 3), kind=kind),
        lambda kind: losses.generator_loss(_ones(2, 3), kind=kind),
        lambda kind: losses.optimal_log_scale(_ones(2, 3), _ones(2, 3), kind=kind),
        lambda kind: losses.mixture_elbo(_ones(2), _ones(2, 3), _ones(2, 3), moments=kind),
        lambda kind: losses.kl_decomposition(*[_ones(2, 3)] * 3, dataset_size=9, weighting=kind),
    ],
)
def test_unknown_kind_raises(function):
    with pytest.raises(ValueError, match="wasserstein"):
        function("wasserstein")


@pytest.mark.parametrize(
    ("function", "name", "allowed", "forbidden"),
    [
        (
            lambda number: losses.lecam_penalty(_ones(2), _ones(2), losses.init_lecam_anchors(), decay=number),
            "decay",
            [0, 0.999],
            [-0.1, 1, 1.0, 1.5, np.nan],
        ),
        (
            lambda number: losses.update_moments_average(
                losses.init_moments_average(3), Moments(_ones(3), _ones(3)), decay=number
            ),
            "decay",
            [0, 0.999],
            [-0.1, 1, 1.0, 1.5, np.nan],
        ),
        (
            lambda number: losses.batch_covariance(_ones(2, 3), shrinkage=number),
            "shrinkage",
            [0, 0.5, 1],
            [-0.1, 1.1, np.nan],
        ),
        (
            lambda number: losses.variance_regularizer(_ones(2, 3), target=number),
            "target",
            [1e-14, 1, 1e14],
            [0, -1.0, 1e-15, 1e15, np.nan],
        ),
        (
            lambda number: losses.mixture_elbo(_ones(2), _ones(2, 3), _ones(2, 3), variance_target=number),
            "target",
            [0.5],
            [0, -1.0, np.nan],
        ),
        (
            lambda number: losses.free_bits_kl(_ones(2, 3), _ones(2, 3), free_nats=number),
            "free_nats",
            [0, 2],
            [-0.1, np.nan],
        ),
        (
            lambda number: losses.kl_decomposition(*[_ones(3, 2)] * 3, dataset_size=number),
            "dataset_size",
            [3, 10**9],
            [2, 0, -1],
        ),
    ],
)
@pytest.mark.parametrize("of_type", [float, np.float64, np.float32])
def test_numbers_out_of_range_raise(function, name, allowed, forbidden, of_type):
    for number in allowed:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(function(number)))
    for number in forbidden:
        for other in (number, of_type(number)):
            shown = "|".join(re.escape(text) for text in (str(other), f"{other:g}"))
            with pytest.raises(ValueError, match=f"{name} (is|=) ({shown})"):
                function(other)


def test_states_of_another_size_raise():
    queue, average = losses.init_means_queue(5, 3), losses.init_moments_average(3)
    for shape in ((2, 4), (2, 1), (6, 3)):
        with pytest.raises(ValueError, match="update_means_queue"):
            losses.update_means_queue(queue, jnp.ones(shape))
    for shape in ((2, 4), (2, 1)):
        with pytest.raises(ValueError, match=r"queue_moments.*\(2, 3\)"):
            losses.queue_moments(queue, jnp.ones(shape))
    for shape in ((4,), (1,), (2, 3), ()):
        with pytest.raises(ValueError, match=r"update_moments_average.*\(3,\)"):
            losses.update_moments_average(average, Moments(jnp.ones(shape), jnp.ones(shape)), decay=0.5)


@pytest.mark.parametrize("number", [3, 1])
def test_moments_of_another_size_than_the_codes_raise(number):
    for moments in (Moments(_ones(number), _ones(number)), CovarianceMoments(_ones(number), jnp.eye(number))):
        with pytest.raises(ValueError, match="mixture_elbo"):
            losses.mixture_elbo(_ones(5), _ones(5, 4), _ones(5, 4), moments=moments)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1,)])
def test_weights_are_scalars(shape):
    arrays = _ones(5), _ones(5, 4), _ones(5, 4)
    with jax.numpy_rank_promotion("allow"):
        for name in ("reconstruction_weight", "population_weight", "variance_weight"):
            with pytest.raises(ValueError, match="mixture_elbo"):
                losses.mixture_elbo(*arrays, **{name: jnp.ones(shape)})
        with pytest.raises(ValueError, match="beta_vae"):
            losses.beta_vae(*arrays, beta=jnp.ones(shape))


def test_gradients_of_different_trees_raise():
    tree = {"kernel": _ones(2, 3), "bias": _ones(3)}
    for other in ({"kernel": _ones(2, 3)}, [_ones(2, 3), _ones(3)], {**tree, "bias": _ones(1)}):
        with pytest.raises(ValueError, match="adaptive_generator_weight"):
            losses.adaptive_generator_weight(tree, other)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5, 1)])
def test_a_distance_or_a_discriminator_of_another_batch_raises(shape):
    images = _ones(5, 2, 2, 1)
    with pytest.raises(ValueError, match=r"perceptual_reconstruction.*\(5,\)"):
        losses.perceptual_reconstruction(images, images, lambda x_hat, x: jnp.ones(shape))
    if shape and shape[0] != 5:
        with pytest.raises(ValueError, match=r"r1_penalty.*\(5,\)"):
            losses.r1_penalty(lambda images: jnp.ones(shape), images)


@pytest.mark.parametrize("shapes", [[(1, 3), (4, 3)], [(4, 3), (1, 3)]])
def test_one_code_has_no_discrepancy(shapes):
    with pytest.raises(ValueError, match="at least 2 rows"):
        losses.imq_mmd(*map(jnp.ones, shapes))


def test_average_in_place_of_moments_is_refused_with_what_to_pass():
    average = losses.init_moments_average(3)
    for function in (
        losses.population_kl,
        lambda moments: losses.mixture_elbo(_ones(2), _ones(2, 3), _ones(2, 3), moments=moments),
    ):
        with pytest.raises(
            TypeError, match=r"MomentsAverage, expected .* pass anchored_moments\(average.moments, mean\)"
        ):
            function(average)


def test_scalar_logits_are_named():
    with pytest.raises(ValueError, match="discriminator_loss: real_logits must have a leading batch axis"):
        losses.discriminator_loss(_ones(), _ones())
    with pytest.raises(ValueError, match="generator_loss: fake_logits must have a leading batch axis"):
        losses.generator_loss(_ones())
