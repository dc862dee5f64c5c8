"""Moments of the population of codes, and what is computed from them, against formulas and simulation."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from expectations import assert_mean, posteriors

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, Moments

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("correlation", [0.0, 0.5, -0.9])
def test_total_correlation_of_two_dimensions(correlation):
    covariance = correlation * 2 * 0.3
    moments = CovarianceMoments(jnp.ones(2), jnp.array([[4, covariance], [covariance, 0.09]]))
    expected = -0.5 * math.log1p(-(correlation**2))
    np.testing.assert_allclose(losses.gaussian_total_correlation(moments), expected, atol=1e-12)


@pytest.mark.parametrize(("count", "size", "nats"), [(2048, 512, 35.0), (4096, 128, 128 * 127 / (4 * 4096))])
def test_independent_codes_show_the_total_correlation_that_the_docstring_states(count, size, nats):
    shown = jax.jit(lambda mean: losses.gaussian_total_correlation(losses.batch_covariance(mean, shrinkage=0)))
    np.testing.assert_allclose(shown(np.random.default_rng(0).normal(size=(count, size))), nats, rtol=0.05)


@pytest.mark.parametrize("count", [2, 32, 128, 1000])
def test_shrunk_as_recommended_independent_codes_show_at_most_a_sixteenth_of_a_nat_a_dimension(count):
    size = 128

    @jax.jit
    def shown(mean):
        shrinkage = losses.correlation_shrinkage(count, size)
        moments = losses.shrink_covariance(losses.batch_covariance(mean, shrinkage=0), shrinkage)
        return losses.gaussian_total_correlation(moments)

    nats = shown(np.random.default_rng(0).normal(size=(count, size)))
    assert 0 < nats < size / 16
    np.testing.assert_allclose(nats, size * (size - 1) * count / (4 * (count + size) ** 2), rtol=0.35)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.98])
def test_average_is_worth_the_inverse_of_its_shares_squares(decay):
    average = losses.init_moments_average(1)
    assert losses.codes_in_average(average, 10, decay=decay) == 0
    for seen in range(1, 6):
        average = losses.update_moments_average(average, Moments(jnp.zeros(1), jnp.ones(1)), decay=decay)
        shares = decay ** np.arange(seen) / np.sum(decay ** np.arange(seen))
        expected = 10 / np.sum(shares**2)
        np.testing.assert_allclose(losses.codes_in_average(average, 10, decay=decay), expected, rtol=1e-12)


def test_covariance_adds_the_total_correlation_to_the_kl():
    rng = np.random.default_rng(0)
    mean, root = rng.normal(size=6), rng.normal(size=(6, 6))
    cov = root @ root.T
    moments = CovarianceMoments(jnp.asarray(mean), jnp.asarray(cov))
    whole = losses.population_kl(moments)
    exact = 0.5 * (mean @ mean + np.trace(cov) - 6 - np.linalg.slogdet(cov)[1])
    np.testing.assert_allclose(whole, exact, rtol=1e-12)
    diagonal = losses.population_kl(Moments(moments.mean, jnp.diagonal(moments.cov)))
    np.testing.assert_allclose(whole, diagonal + losses.gaussian_total_correlation(moments), rtol=1e-12)
    assert losses.gaussian_total_correlation(moments) > 1


def _mmd_of_gaussians(shift, scale, size):
    """Exact, by ``C / (C + r^2) = C int_0^inf exp(-t (C + r^2)) dt`` and the transform of a chi-squared."""

    def kernel(distance, var):
        def integrand(t, constant):
            growth = 1 + 2 * t * var
            return constant * math.exp(-t * constant - t * distance**2 / growth) * growth ** (-size / 2)

        return sum(scipy.integrate.quad(integrand, 0, np.inf, (2 * size * s,))[0] for s in losses.IMQ_SCALES)

    return kernel(0, 2 * scale**2) + kernel(0, 2) - 2 * kernel(shift, 1 + scale**2)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.5), (1.0, 2.0)])
def test_mmd_is_unbiased(shift, scale):
    rng, size = np.random.default_rng(0), 3
    z, prior = rng.normal(size=(40_000, 5, size)), rng.normal(size=(40_000, 6, size))
    z = scale * z + [shift, 0, 0]
    expected = _mmd_of_gaussians(shift, scale, size)
    sample = np.asarray(jax.jit(jax.vmap(losses.imq_mmd))(z, prior))
    assert_mean(sample, expected, 0.005)
    if (shift, scale) == (0, 1):
        assert abs(expected) < 1e-9
        assert np.min(sample) < 0
    else:
        assert expected > 0.05
    # The kernel of a code and itself is at its maximum: with these pairs, the estimate is too high.
    squares = np.sum((z[:, :, None] - z[:, None]) ** 2, -1)
    within = sum(2 * size * s / (2 * size * s + squares) for s in losses.IMQ_SCALES)
    with_own = sample + within.mean((1, 2)) - (within.sum((1, 2)) - 5 * len(losses.IMQ_SCALES)) / 20
    assert np.mean(with_own) > expected + 0.1


def _line(scale=1.0, shift=0.0, width=0.0):
    """Exact distance on a line of N(shift, scale^2 + width) from N(0, 1)."""
    var = scale**2 + width
    across = math.exp(-(shift**2) / 2 / (2 + var)) / math.sqrt(2 + var)
    return 1 / math.sqrt(1 + 2 * var) - 2 * across + 1 / math.sqrt(3)


@pytest.mark.parametrize(
    ("shift", "scale", "width"), [(0, 1, 0), (0.7, 1, 0), (0, 0.5, 0), (0, 0.8, 0.36), (1, 2, 0.3)]
)
def test_sliced_test_is_unbiased(shift, scale, width):
    z = shift + scale * np.random.default_rng(0).normal(size=(40_000, 4, 1))
    log_var = jnp.full((4, 1), math.log(width)) if width else None
    sample = jax.jit(jax.vmap(lambda mean: losses.sliced_normality(mean, log_var, jnp.ones((1, 1)))))(z)
    expected = _line(scale, shift, width)
    assert_mean(np.asarray(sample), expected, 0.002)
    if scale**2 + width == pytest.approx(1) and not shift:
        assert abs(expected) < 1e-9
        assert np.min(sample) < 0


def test_sliced_test_has_the_closed_form_of_its_integral():
    """Of pairs a apart ``exp(-a^2/2)``, of codes at x ``sqrt(2) exp(-x^2/4)``, of the normal density 1/sqrt(3)."""
    codes = np.random.default_rng(0).normal(0.2, 1.2, (9, 5))
    directions = np.asarray(losses.random_directions(jax.random.key(0), 7, 5))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    places = codes @ directions.T
    pairs = [np.exp(-((places[i] - places[j]) ** 2) / 2) for i, j in itertools.permutations(range(9), 2)]
    expected = np.mean(pairs) - math.sqrt(2) * np.mean(np.exp(-(places**2) / 4)) + 1 / math.sqrt(3)
    assert losses.sliced_normality(codes, None, directions) == pytest.approx(expected, rel=1e-3)


def test_sliced_test_sees_what_the_moments_do_not():
    """Two clusters with the mean and the variance of N(0, 1)."""
    normal = np.random.default_rng(0).normal(size=(2000, 1))
    clusters = 0.9 * np.sign(normal) + math.sqrt(0.19) * np.random.default_rng(1).normal(size=(2000, 1))
    assert losses.population_kl(losses.batch_moments(clusters)) < 0.002
    ours, chance = (losses.sliced_normality(codes, None, jnp.ones((1, 1))) for codes in (clusters, normal))
    assert ours > 0.008 > 8 * abs(chance)


def test_directions_are_uniform():
    directions = np.asarray(losses.random_directions(jax.random.key(0), 20_000, 3))
    np.testing.assert_allclose(directions.T @ directions / len(directions), np.eye(3) / 3, atol=0.01)
    np.testing.assert_allclose(directions.mean(0), 0, atol=0.02)


def _each_dimension(function):
    """``function`` of a population's KL, for each of many dimensions at once."""
    return jax.jit(jax.vmap(lambda mean, var: function(Moments(mean[None], var[None]))))


@pytest.mark.parametrize("count", [2, 3, 10, 32, 128])
def test_batch_kl_exceeds_the_kl_by_a_constant_independent_of_mean_and_scale(count):
    size = 2_000_000 // count
    batch_kl = jax.jit(lambda codes: _each_dimension(losses.population_kl)(*losses.batch_moments(codes)))
    for mean, sigma in ((0.0, 1.0), (0.0, 0.1), (1.0, 3.0)):
        codes = np.random.default_rng(0).normal(mean, sigma, (count, size))
        excess = batch_kl(codes) - losses.population_kl(Moments(jnp.array([mean]), jnp.array([sigma**2])))
        noise_of_mean_zero = 0.5 * (np.mean(codes**2, axis=0) - mean**2 - sigma**2)
        assert_mean(excess - noise_of_mean_zero, losses.small_batch_bias(count), 0.0012)


@pytest.mark.parametrize(("count", "excess"), [(10, 0.110), (32, 0.032), (128, 0.0079)])
def test_small_batch_bias_has_the_documented_values(count, excess):
    assert losses.small_batch_bias(count) == pytest.approx(excess, rel=0.01)


@pytest.mark.parametrize(("distribution", "excess"), [("laplace", 0.17), ("uniform", 0.08)])
def test_small_batch_bias_depends_on_the_codes_shape(distribution, excess):
    rng = np.random.default_rng(0)
    bounds = {"laplace": (0, math.sqrt(1 / 2)), "uniform": (-math.sqrt(3), math.sqrt(3))}[distribution]
    codes = getattr(rng, distribution)(*bounds, (10, 100_000))
    ours = np.mean(_each_dimension(losses.population_kl)(*losses.batch_moments(codes)))
    assert ours == pytest.approx(excess, abs=0.005)


def test_gradient_of_the_batch_kl_is_unbiased_with_one_over_n_alone():
    count, mean, log_scale = 4, 0.5, math.log(2.0)
    noise = np.random.default_rng(0).normal(size=(200_000, count, 1))

    def batch_kl(mean, log_scale, noise, factor):
        moments = losses.batch_moments(mean + jnp.exp(log_scale) * noise)
        return losses.population_kl(Moments(moments.mean, factor * moments.var))

    gradient = jax.jit(jax.vmap(jax.grad(batch_kl, (0, 1)), (None, None, 0, None)))
    by_mean, by_scale = gradient(mean, log_scale, noise, 1.0)
    assert_mean(by_mean, mean, 0.01)
    assert_mean(by_scale, 4.0 - 1, 0.02)
    _, by_scale = gradient(mean, log_scale, noise, count / (count - 1))
    assert_mean(by_scale, 4.0 - 1 + 4.0 / count, 0.02)


def _averaged(batches, decay, moments=losses.batch_moments):
    def update(average, batch):
        return losses.update_moments_average(average, moments(batch), decay=decay), None

    covariance = moments is not losses.batch_moments
    return jax.lax.scan(update, losses.init_moments_average(batches.shape[-1], covariance=covariance), batches)[0]


@pytest.mark.parametrize(("count", "decay", "batches"), [(4, 0.5, 16), (10, 0.9, 70)])
def test_average_is_as_precise_as_the_number_of_codes_in_its_docstring(count, decay, batches):
    worth, size = count * (1 + decay) / (1 - decay), 10_000
    codes = np.random.default_rng(0).normal(size=(batches, count, size))
    moments = jax.jit(lambda codes: _averaged(codes, decay).moments)(codes)
    assert_mean(moments.var, 1 - 1 / worth, 0.005)
    excess = np.asarray(_each_dimension(losses.population_kl)(*moments))
    assert np.std(excess) / math.sqrt(size) < 0.011 * losses.small_batch_bias(worth)
    np.testing.assert_allclose(np.mean(excess), losses.small_batch_bias(worth), rtol=0.1)


def test_average_equals_the_moments_of_all_batches_with_decaying_weights():
    batches = np.random.default_rng(0).normal(np.arange(5.0)[:, None, None], size=(5, 4, 3))
    for seen in (1, 2, 5):
        average = jax.jit(_averaged)(batches[:seen], 0.7)
        each = [losses.batch_moments(batch) for batch in batches[:seen]]
        combined = losses.combine_moments(
            Moments(*map(jnp.stack, zip(*each, strict=True))), 0.7 ** np.arange(seen)[::-1]
        )
        for ours, expected in zip(average.moments, combined, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-12)
        np.testing.assert_allclose(average.weight, 1 - 0.7**seen, rtol=1e-12)


def test_average_of_covariances_is_the_covariance_of_all_codes_with_their_weights():
    batches, decay = np.random.default_rng(0).normal(np.arange(5.0)[:, None, None], size=(5, 4, 3)), 0.7
    average = jax.jit(_averaged, static_argnums=(1, 2))(
        batches, decay, functools.partial(losses.batch_covariance, shrinkage=0)
    )
    weights = np.repeat(decay ** np.arange(5)[::-1], 4)
    codes = batches.reshape(-1, 3)
    np.testing.assert_allclose(average.moments.mean, np.average(codes, axis=0, weights=weights), rtol=1e-12)
    expected = np.cov(codes.T, aweights=weights, bias=True)
    np.testing.assert_allclose(average.moments.cov, expected, rtol=1e-12)


def test_queue_and_combination_have_the_moments_of_the_codes_themselves():
    codes, sizes = np.random.default_rng(0).normal(3, 2, (20, 3)), [4, 5, 1, 7, 3]
    batches = np.split(codes, np.cumsum(sizes)[:-1])
    queue = losses.init_means_queue(11, 3)
    for seen, batch in enumerate(batches, 1):
        queue = losses.update_means_queue(queue, batch)
        newest = np.concatenate(batches[seen - 1 :: -1])[:11]
        np.testing.assert_allclose(losses.queue_moments(queue), [newest.mean(0), newest.var(0)], rtol=1e-12)
    each = Moments(*map(jnp.stack, zip(*map(losses.batch_moments, batches), strict=True)))
    combined = losses.combine_moments(each, np.array(sizes, np.float64))
    np.testing.assert_allclose(combined, [codes.mean(0), codes.var(0)], rtol=1e-12)
    assert np.max(np.abs(losses.combine_moments(each).var - combined.var)) > 0.05


@pytest.mark.parametrize("moments_of", [losses.batch_moments, functools.partial(losses.batch_covariance, shrinkage=0)])
@pytest.mark.parametrize("convention", ["means", "mixture"])
def test_anchored_gradients_of_all_batches_average_to_that_of_the_population(convention, moments_of):
    codes = posteriors(6, 2)[: 1 if convention == "means" else 2]
    population = moments_of(*codes)
    exact = jax.grad(lambda codes: losses.population_kl(moments_of(*codes)))(codes)
    batches = [np.array(batch) for batch in itertools.combinations(range(6), 2)]

    def average(moments):
        gradient = jax.jit(jax.grad(lambda part: losses.population_kl(moments(*part))))
        total = [np.zeros((6, 2)) for _ in codes]
        for batch in batches:
            for mine, part in zip(total, gradient(tuple(array[batch] for array in codes)), strict=True):
                mine[batch] += part / len(batches)
        return total

    assert losses.population_kl(population) == losses.population_kl(
        losses.anchored_moments(population, *(array[:2] for array in codes))
    )
    for ours, expected in zip(average(lambda *part: losses.anchored_moments(population, *part)), exact, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    if moments_of is losses.batch_moments:
        assert np.max(np.abs(average(moments_of)[0] - exact[0])) > 0.1


def _scale_gradients(moments, scale, noise):
    """Of codes ``scale * noise``, ``[k, size]``, for each dimension."""

    def derivative(noise):
        def each(scale):
            return _each_dimension(losses.population_kl)(*moments(scale * noise))

        return jax.jvp(each, (scale,), (jnp.ones(()),))[1]

    return np.asarray(jax.jit(derivative)(noise))


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_gradients_anchored_at_a_queue_are_unbiased_and_less_noisy(scale):
    count, length = 5, 50
    noise = np.random.default_rng(0).normal(size=(length, 30_000))

    def anchored(codes):
        queue = losses.update_means_queue(losses.init_means_queue(length, codes.shape[1]), codes)
        return losses.anchored_moments(losses.queue_moments(queue), codes[:count])

    ours = _scale_gradients(anchored, scale, noise)
    alone = _scale_gradients(losses.batch_moments, scale, noise[:count])
    assert_mean(ours, scale - 1 / scale, 0.006)
    assert_mean(alone, scale - 1 / scale, 0.006)
    if scale == 1:
        assert np.var(ours) < 0.2 * np.var(alone)


def test_gradients_anchored_at_an_average_are_less_noisy_and_slightly_biased():
    """The bias, towards smaller codes, is ``3 decay (1 - decay) / (1 + decay) / N``: the newest batch weighs most."""
    count, batches, decay, size = 10, 30, 0.8, 15_000
    noise = np.random.default_rng(0).normal(size=(batches * count, size))

    def anchored(codes):
        average = _averaged(codes.reshape(batches, count, size), decay)
        return losses.anchored_moments(average.moments, codes[-count:])

    ours = _scale_gradients(anchored, 1.0, noise)
    alone = _scale_gradients(losses.batch_moments, 1.0, noise[-count:])
    assert np.std(ours) / math.sqrt(size) < 0.0015
    assert abs(np.mean(ours) - 3 * decay * (1 - decay) / (1 + decay) / count) < 0.008
    assert np.var(ours) < 0.2 * np.var(alone)


def test_gradients_anchored_at_an_average_have_the_documented_noise_and_balance():
    """With batches of ten unit-variance codes and a decay of 0.9."""
    count, batches, size = 10, 50, 4_000
    codes = np.random.default_rng(0).normal(size=(batches, count, size))

    @jax.jit
    def gradients(codes):
        average, newest = _averaged(codes, 0.9), codes[-1]
        anchored = jax.grad(lambda mean: losses.population_kl(losses.anchored_moments(average.moments, mean)))(newest)
        return anchored, jax.grad(lambda mean: losses.population_kl(losses.batch_moments(mean)))(newest)

    anchored, alone = gradients(codes)
    assert np.var(alone) / np.var(anchored) == pytest.approx(27, abs=1.5)
    balanced = math.sqrt(1 - 0.014) * codes
    assert_mean(np.sum(balanced[-1] * gradients(balanced)[0], axis=0), 0, 0.002)
