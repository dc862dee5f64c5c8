"""Properties that hold for all arguments: signs, bounds, sums, and which images a result depends on."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from case_parts import arrays_of, draw, jitted
from cases import CASES
from extremes import FLOAT32, extreme
from hypothesis import strategies
from reference import relative_error

from rvae_jax import losses
from rvae_jax.losses import Moments

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
        "fake_loss": [losses.fake_loss(logits, kind=kind) for kind in kinds],
        "generator_loss": [losses.generator_loss(logits, kind=kind) for kind in ("bce", "least_squares")],
        "lecam_penalty": losses.lecam_penalty(logits, -logits, losses.init_lecam_anchors(), decay=0.9)[0],
        "l1_reconstruction": losses.l1_reconstruction(mean, -mean),
        "l2_reconstruction": losses.l2_reconstruction(mean, -mean),
        "r1_penalty": losses.r1_penalty(lambda images: jnp.sin(images), mean),
        "variance": [means.var, mixture.var],
        "excess_kurtosis + 3": 3 + losses.population_shape(mean).excess_kurtosis,
    }


@property_test
def test_terms_documented_as_zero_or_more_are_not_negative(seed, sizes):
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
def test_averages_equal_the_first_batch_and_without_decay_the_newest(seed, sizes):
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
    *("fake_loss", "r1_penalty"),
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


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("name", [name for name in CASES if name.split()[0] in ALONE])
def test_per_image_result_does_not_depend_on_other_images(name):
    case = CASES[name]
    arrays = arrays_of(case)

    def spoil(array):
        return np.concatenate([array[:2], np.full_like(array[2:], np.nan)])

    function = jitted(case.function)
    expected, ours = function(*arrays), function(*_replace_rows(case, arrays, spoil))
    np.testing.assert_array_equal(ours[:2], expected[:2])


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("name", [name for name in CASES if name.split()[0] in TOGETHER])
def test_the_order_of_the_batch_does_not_matter(name):
    case, order = CASES[name], np.array([3, 0, 4, 2, 1])
    arrays = arrays_of(case)
    function = jitted(case.function)
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
def test_values_equal_numpy_for_any_shape_and_type(count, size, dtype, seed):
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
