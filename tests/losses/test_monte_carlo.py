"""Truths about expectations and exact identities, against quadrature, enumeration and simulation in NumPy.

Statistical tests allow 4.5 standard errors, and say how small these are.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, Moments

SIGMAS = 4.5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def _assert_mean(samples, expected, largest_standard_error):
    standard_error = np.std(samples) / math.sqrt(len(samples))
    assert standard_error <= largest_standard_error
    assert abs(np.mean(samples) - expected) <= SIGMAS * standard_error


def _posteriors(count, size, spread=1.2, seed=0):
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=(count, size)), rng.normal(-0.6, 0.4, (count, size))


def _over_noise(function, mean, log_var, nodes=60):
    """Expectation over the noise of what depends on one row of it at a time, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points = np.array(list(itertools.product(points, repeat=mean.shape[1])))
    weights = np.prod(list(itertools.product(weights / weights.sum(), repeat=mean.shape[1])), axis=1)
    results = jax.jit(jax.vmap(lambda point: function(mean, log_var, jnp.tile(point, (len(mean), 1)))))(points)
    return jax.tree.map(lambda values: weights @ np.asarray(values), results)


def _integral(function):
    return scipy.integrate.quad(function, -15, 15, points=np.linspace(-4, 4, 9), limit=400)[0]


# The mixture.


def test_mixture_kl_and_information_equal_quadrature_in_one_dimension():
    mean, log_var = _posteriors(5, 1)
    mean += 0.5
    each = scipy.stats.norm(mean[:, 0], np.exp(log_var[:, 0] / 2))

    def entropy(density):
        return _integral(lambda z: -scipy.special.xlogy(density(z), density(z)))

    def mixture(z):
        return each.pdf(z).mean()

    kl = -entropy(mixture) - _integral(lambda z: mixture(z) * scipy.stats.norm.logpdf(z))
    information = entropy(mixture) - each.entropy().mean()
    assert min(kl, information) > 0.05
    ours = _over_noise(losses.mixture_kl, mean, log_var, nodes=150).mean()
    np.testing.assert_allclose(ours, kl, rtol=1e-6)
    ours = _over_noise(losses.mutual_information, mean, log_var, nodes=150).mean()
    np.testing.assert_allclose(ours, information, rtol=1e-6)


def test_mixture_kl_is_unbiased():
    count, size, samples = 5, 4, 200_000
    mean, log_var = _posteriors(count, size)
    rng = np.random.default_rng(1)
    drawn = rng.integers(count, size=samples)
    z = mean[drawn] + np.exp(log_var[drawn] / 2) * rng.normal(size=(samples, size))
    log_q = scipy.special.logsumexp(
        [scipy.stats.norm.logpdf(z, m, np.exp(v / 2)).sum(1) for m, v in zip(mean, log_var, strict=True)], axis=0
    )
    theirs = log_q - math.log(count) - scipy.stats.norm.logpdf(z).sum(1)
    noise = rng.normal(size=(20_000, count, size))
    ours = jax.jit(jax.vmap(lambda noise: jnp.mean(losses.mixture_kl(mean, log_var, noise))))(noise)
    standard_error = math.hypot(*(np.std(sample) / math.sqrt(len(sample)) for sample in (ours, theirs)))
    assert standard_error < 0.01
    assert abs(np.mean(ours) - np.mean(theirs)) < SIGMAS * standard_error


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_bounds_of_the_mixture_kl_are_in_order(spread):
    mean, log_var = _posteriors(6, 2, spread)
    mean = mean @ np.array([[1.0, 0.8], [0.0, 0.6]])
    kl = _over_noise(losses.mixture_kl, mean, log_var).mean()
    information = _over_noise(losses.mutual_information, mean, log_var).mean()
    rate = losses.gaussian_kl(mean, log_var).mean()
    correlated = losses.population_kl(losses.batch_covariance(mean, log_var, shrinkage=0))
    diagonal = losses.population_kl(losses.batch_moments(mean, log_var))
    np.testing.assert_allclose(rate - kl, information, rtol=1e-4)
    assert 0 < information < math.log(6)
    assert diagonal + 1e-3 < correlated < kl - 1e-3


def test_mixture_of_equal_posteriors_is_a_gaussian_that_tells_nothing():
    mean, log_var = (np.tile(row, (6, 1)) for row in _posteriors(1, 2))
    np.testing.assert_allclose(
        _over_noise(losses.mixture_kl, mean, log_var).mean(),
        losses.population_kl(losses.batch_moments(mean, log_var)),
        rtol=1e-10,
    )
    noise = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_allclose(jax.jit(losses.mutual_information)(mean, log_var, noise), np.zeros(6), atol=1e-12)


def test_information_of_distant_codes_is_the_log_of_their_number():
    noise = np.random.default_rng(0).normal(size=(7, 2))
    mean, log_var = np.full((7, 2), 100.0) * np.arange(7)[:, None], np.zeros((7, 2))
    np.testing.assert_allclose(jax.jit(losses.mutual_information)(mean, log_var, noise), math.log(7), rtol=1e-12)


def test_means_alone_exceed_the_kl_of_a_mixture_of_wide_posteriors():
    mean, log_var = _posteriors(6, 2, spread=0.4)
    kl = _over_noise(losses.mixture_kl, mean, log_var).mean()
    assert losses.population_kl(losses.batch_moments(mean)) > kl + 1


def test_mixture_kl_of_batches_exceeds_that_of_the_data():
    mean, log_var = _posteriors(6, 2)
    whole = _over_noise(losses.mixture_kl, mean, log_var).mean()
    batches = [list(batch) for batch in itertools.combinations(range(6), 3)]
    parts = [_over_noise(losses.mixture_kl, mean[batch], log_var[batch]).mean() for batch in batches]
    assert np.mean(parts) > whole + 0.1


# Densities of the whole data set, estimated from all its batches: 3 of 6 images in every order.

DATASET, BATCH = 6, 3
BATCHES = np.array(list(itertools.permutations(range(DATASET), BATCH)))


def _density_matrix(mean, log_var, noise):
    """``[i, j]``, of code i under posterior j."""
    scale = np.exp(log_var / 2)
    codes = mean + scale * noise
    return np.prod([scipy.stats.norm.pdf(code, mean, scale) for code in codes], axis=2)


def _stratified(dataset_size, count):
    return np.where(np.eye(count), 1 / dataset_size, (dataset_size - 1) / (dataset_size * (count - 1)))


def _paper(dataset_size, count):
    """Chen et al. (2018), appendix C.2; of the others, the one that follows has the odd weight."""
    others = count - 1
    weights = np.where(np.eye(count), 1 / dataset_size, 1 / others)
    weights[np.arange(count), (np.arange(count) + 1) % count] = (dataset_size - others) / (dataset_size * others)
    return weights


def _reference_code(dataset_size, count):
    """``_log_importance_weight_matrix`` of rtqichen/beta-tcvae."""
    others = count - 1
    odd, weights = (dataset_size - others) / (dataset_size * others), np.full((count, count), 1 / others)
    weights.flat[:: others + 1] = 1 / dataset_size
    weights.flat[1 :: others + 1] = odd
    weights[others - 1, 0] = odd
    return weights


def _mean_and_variance_of_estimates(estimates):
    """Of each image's density, ``[6]``, over the batches ``[120, 3]`` that it is in."""
    of_image = [estimates[image == BATCHES] for image in range(DATASET)]
    return np.mean(of_image, axis=1), np.var(of_image, axis=1)


def _estimates(weights, densities):
    return np.sum(weights * densities[BATCHES[:, :, None], BATCHES[:, None, :]], axis=2)


def _stratified_estimates(mean, log_var, noise):
    arrays = [array[BATCHES] for array in (mean, log_var, noise)]
    decomposition = jax.vmap(lambda *batch: losses.kl_decomposition(*batch, dataset_size=DATASET))
    log_posterior = -0.5 * np.sum(noise**2 + log_var + math.log(2 * math.pi), axis=1)
    return np.exp(log_posterior[BATCHES] - jax.jit(decomposition)(*arrays).mutual_information)


@pytest.mark.parametrize("columns", [[0, 1], [0], [1]], ids=["joint", "first marginal", "second marginal"])
def test_stratified_density_is_unbiased(columns):
    rng = np.random.default_rng(0)
    arrays = [array[:, columns] for array in (*_posteriors(DATASET, 2), rng.normal(size=(DATASET, 2)))]
    densities = _density_matrix(*arrays)
    estimates = _stratified_estimates(*arrays)
    np.testing.assert_allclose(estimates, _estimates(_stratified(DATASET, BATCH), densities), rtol=1e-12)
    mean, variance = _mean_and_variance_of_estimates(estimates)
    np.testing.assert_allclose(mean, densities.mean(1), rtol=1e-12)
    paper_mean, paper_variance = _mean_and_variance_of_estimates(_estimates(_paper(DATASET, BATCH), densities))
    np.testing.assert_allclose(paper_mean, densities.mean(1), rtol=1e-12)
    assert np.all(variance < 0.99 * paper_variance)


def test_reference_codes_weights_are_biased():
    assert np.allclose(_reference_code(100, 4)[:, 0], [0.01, 0.01, 97 / 300, 0.01])
    densities = _density_matrix(*_posteriors(DATASET, 2), np.zeros((DATASET, 2)))
    mean, _ = _mean_and_variance_of_estimates(_estimates(_reference_code(DATASET, BATCH), densities))
    ratio = mean / densities.mean(1)
    assert np.all((ratio > 1.3) & (ratio < 1.8))
    distant = _density_matrix(100 * np.arange(6.0)[:, None], np.zeros((6, 1)), np.zeros((6, 1)))
    mean, _ = _mean_and_variance_of_estimates(_estimates(_reference_code(DATASET, BATCH), distant))
    np.testing.assert_allclose(mean / distant.mean(1), 2, rtol=1e-12)


def test_reference_codes_weights_at_the_size_that_objective_md_names():
    size, count, var, rng = 1000, 64, 0.1, np.random.default_rng(0)
    noise, mean = rng.normal(size=(size, 10)), math.sqrt(1 - var) * rng.normal(size=(size, 10))
    arrays = mean, np.full_like(mean, math.log(var)), noise
    decomposition = functools.partial(losses.kl_decomposition, dataset_size=size)
    batched = [array[: size // count * count].reshape(-1, count, 10) for array in arrays]
    exact = [part[: size // count * count].reshape(-1, count) for part in jax.jit(decomposition)(*arrays)]
    _, ours, _ = jax.jit(jax.vmap(decomposition))(*batched)

    means, codes = batched[0], batched[0] + math.sqrt(var) * batched[2]
    densities = scipy.stats.norm.pdf(codes[:, :, None], means[:, None], math.sqrt(var))
    weights, joint = _reference_code(size, count), np.prod(densities, axis=3)
    theirs, marginals = np.sum(weights * joint, axis=2), np.einsum("jk,bjkd->bjd", weights, densities)
    exact_density = np.diagonal(joint, axis1=1, axis2=2) * np.exp(-exact[0])
    assert np.mean(theirs / exact_density) == pytest.approx(15, abs=0.5)
    assert np.mean(np.log(theirs / np.prod(marginals, axis=2)) - exact[1]) == pytest.approx(2.3, abs=0.1)
    assert np.mean(ours - exact[1]) == pytest.approx(0.3, abs=0.1)


def test_parts_of_the_decomposition():
    (mean, log_var), noise = _posteriors(5, 3), np.random.default_rng(1).normal(size=(5, 3))
    codes = mean + np.exp(log_var / 2) * noise
    log_ratio = np.sum(scipy.stats.norm.logpdf(noise) - log_var / 2 - scipy.stats.norm.logpdf(codes), axis=1)
    for options in ({"dataset_size": 5}, {"dataset_size": 90}, {"dataset_size": 90, "weighting": "weighted"}):
        decomposition = jax.jit(functools.partial(losses.kl_decomposition, **options))
        parts = decomposition(mean, log_var, noise)
        np.testing.assert_allclose(sum(parts), log_ratio, rtol=1e-12)
        if options == {"dataset_size": 5}:
            exact = losses.mutual_information(mean, log_var, noise)
            np.testing.assert_allclose(parts.mutual_information, exact, rtol=1e-12)
        columns = [decomposition(mean[:, [d]], log_var[:, [d]], noise[:, [d]]) for d in range(3)]
        np.testing.assert_allclose([column.total_correlation for column in columns], np.zeros((3, 5)), atol=1e-12)
        np.testing.assert_allclose(parts.dimension_kl, sum(column.dimension_kl for column in columns), rtol=1e-12)


@pytest.mark.parametrize("spread", [0.1, 100.0])
def test_weighted_parts_are_those_of_the_batchs_mixture_but_for_constants(spread):
    (mean, log_var), noise = _posteriors(5, 3, spread), np.random.default_rng(1).normal(size=(5, 3))

    def parts(mean, log_var, **options):
        return jnp.stack(losses.kl_decomposition(mean, log_var, noise, **options))

    def weighted(*posteriors):
        return parts(*posteriors, dataset_size=90, weighting="weighted")

    def of_batch(*posteriors):
        return parts(*posteriors, dataset_size=5)

    def values_and_gradients(*posteriors):
        return [(f(*posteriors), *jax.jacobian(f, (0, 1))(*posteriors)) for f in (weighted, of_batch)]

    (ours, *our_gradients), (theirs, *their_gradients) = jax.jit(values_and_gradients)(mean, log_var)
    shifts = np.log(90) * np.array([1, 2, -3])[:, None]
    np.testing.assert_allclose(ours - theirs, np.tile(shifts, 5), rtol=1e-9, atol=1e-9)
    for gradient, expected in zip(our_gradients, their_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9)


def test_weighted_density_is_too_small_by_the_data_where_posteriors_overlap_and_by_the_batch_where_not():
    noise = np.random.default_rng(0).normal(size=(50, 2))
    log_var = np.zeros((50, 2))
    weighted = jax.jit(functools.partial(losses.kl_decomposition, dataset_size=50, weighting="weighted"))
    for spread, factor in ((0.001, 50), (1000.0, 5)):
        mean = spread * np.arange(50.0)[:, None] * np.ones(2)
        batch = slice(20, 25)
        exact = jax.jit(losses.mutual_information)(mean, log_var, noise)[batch]
        ours = weighted(mean[batch], log_var[batch], noise[batch]).mutual_information
        np.testing.assert_allclose(ours - exact, math.log(factor), atol=0.05)


# Total correlation.


@pytest.mark.parametrize("correlation", [0.0, 0.5, -0.9])
def test_total_correlation_of_two_dimensions(correlation):
    covariance = correlation * 2 * 0.3
    moments = CovarianceMoments(jnp.ones(2), jnp.array([[4, covariance], [covariance, 0.09]]))
    expected = -0.5 * math.log1p(-(correlation**2))
    np.testing.assert_allclose(losses.gaussian_total_correlation(moments), expected, atol=1e-12)


@pytest.mark.parametrize(("count", "size", "nats"), [(2048, 512, 35.0), (4096, 128, 128 * 127 / (4 * 4096))])
def test_independent_codes_show_as_much_correlation_as_the_docstring_says(count, size, nats):
    shown = jax.jit(lambda mean: losses.gaussian_total_correlation(losses.batch_covariance(mean, shrinkage=0)))
    np.testing.assert_allclose(shown(np.random.default_rng(0).normal(size=(count, size))), nats, rtol=0.05)


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


def test_decomposition_of_correlated_codes_has_their_total_correlation():
    rng, count, correlation, var = np.random.default_rng(0), 1000, 0.8, 0.1
    cov = np.array([[1, correlation], [correlation, 1]])
    mean = rng.multivariate_normal(np.zeros(2), cov - var * np.eye(2), count)
    parts = jax.jit(lambda *arrays: losses.kl_decomposition(*arrays, dataset_size=count))(
        mean, np.full_like(mean, math.log(var)), rng.normal(size=mean.shape)
    )
    _assert_mean(parts.total_correlation, -0.5 * math.log1p(-(correlation**2)), 0.03)
    _assert_mean(parts.dimension_kl, 0, 0.03)
    _assert_mean(parts.mutual_information, 0.5 * np.linalg.slogdet(cov / var)[1], 0.04)


# Maximum mean discrepancy.


def _mmd_of_gaussians(shift, scale, size):
    """By ``C / (C + r^2) = C int_0^inf exp(-t (C + r^2)) dt`` and the transform of a chi-squared."""

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
    _assert_mean(sample, expected, 0.005)
    if (shift, scale) == (0, 1):
        assert abs(expected) < 1e-9
        assert np.min(sample) < 0
    else:
        assert expected > 0.05
    # Of a code and itself the kernel is 1: with these pairs the estimate is too high.
    squares = np.sum((z[:, :, None] - z[:, None]) ** 2, -1)
    within = sum(2 * size * s / (2 * size * s + squares) for s in losses.IMQ_SCALES)
    with_own = sample + within.mean((1, 2)) - (within.sum((1, 2)) - 5 * len(losses.IMQ_SCALES)) / 20
    assert np.mean(with_own) > expected + 0.1


# Moments of small batches.


def _each_dimension(function):
    """``function`` of a population's KL, for each of many dimensions at once."""
    return jax.jit(jax.vmap(lambda mean, var: function(Moments(mean[None], var[None]))))


@pytest.mark.parametrize("count", [2, 3, 10, 32, 128])
def test_batch_kl_exceeds_the_kl_by_a_constant_that_knows_no_scale(count):
    size = 2_000_000 // count
    batch_kl = jax.jit(lambda codes: _each_dimension(losses.population_kl)(*losses.batch_moments(codes)))
    for mean, sigma in ((0.0, 1.0), (0.0, 0.1), (1.0, 3.0)):
        codes = np.random.default_rng(0).normal(mean, sigma, (count, size))
        excess = batch_kl(codes) - losses.population_kl(Moments(jnp.array([mean]), jnp.array([sigma**2])))
        noise_of_mean_zero = 0.5 * (np.mean(codes**2, axis=0) - mean**2 - sigma**2)
        _assert_mean(excess - noise_of_mean_zero, losses.small_batch_bias(count), 0.0012)


@pytest.mark.parametrize(("count", "excess"), [(10, 0.110), (32, 0.032), (128, 0.0079)])
def test_small_batch_bias_in_numbers(count, excess):
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
    _assert_mean(by_mean, mean, 0.01)
    _assert_mean(by_scale, 4.0 - 1, 0.02)
    _, by_scale = gradient(mean, log_scale, noise, count / (count - 1))
    _assert_mean(by_scale, 4.0 - 1 + 4.0 / count, 0.02)


def _averaged(batches, decay):
    def update(average, batch):
        return losses.update_moments_average(average, losses.batch_moments(batch), decay=decay), None

    return jax.lax.scan(update, losses.init_moments_average(batches.shape[-1]), batches)[0]


@pytest.mark.parametrize(("count", "decay", "batches"), [(4, 0.5, 16), (10, 0.9, 70)])
def test_average_is_worth_as_many_codes_as_its_docstring_says(count, decay, batches):
    worth, size = count * (1 + decay) / (1 - decay), 10_000
    codes = np.random.default_rng(0).normal(size=(batches, count, size))
    moments = jax.jit(lambda codes: _averaged(codes, decay).moments)(codes)
    _assert_mean(moments.var, 1 - 1 / worth, 0.005)
    excess = np.asarray(_each_dimension(losses.population_kl)(*moments))
    assert np.std(excess) / math.sqrt(size) < 0.011 * losses.small_batch_bias(worth)
    np.testing.assert_allclose(np.mean(excess), losses.small_batch_bias(worth), rtol=0.1)


def test_average_is_the_moments_of_all_batches_of_fading_weight():
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


@pytest.mark.parametrize("convention", ["means", "mixture"])
def test_anchored_gradients_of_all_batches_average_to_that_of_the_population(convention):
    codes = _posteriors(6, 2)[: 1 if convention == "means" else 2]
    population = losses.batch_moments(*codes)
    exact = jax.grad(lambda codes: losses.population_kl(losses.batch_moments(*codes)))(codes)
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
    assert np.max(np.abs(average(losses.batch_moments)[0] - exact[0])) > 0.1


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
    _assert_mean(ours, scale - 1 / scale, 0.006)
    _assert_mean(alone, scale - 1 / scale, 0.006)
    if scale == 1:
        assert np.var(ours) < 0.2 * np.var(alone)


def test_gradients_anchored_at_an_average_are_less_noisy_and_hardly_biased():
    """Towards smaller codes, by ``3 decay (1 - decay) / (1 + decay) / N``: the newest batch weighs most."""
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


def test_gradients_anchored_at_an_average_in_numbers():
    """Of ten unit-variance codes and a decay of 0.9; and where the mean gradient in their scale is zero."""
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
    _assert_mean(np.sum(balanced[-1] * gradients(balanced)[0], axis=0), 0, 0.002)


# Likelihoods.


@pytest.mark.parametrize(("kind", "nll"), [("gaussian", losses.gaussian_nll), ("laplace", losses.laplace_nll)])
def test_optimal_scale_is_the_most_likely_one(kind, nll):
    x_hat, x = np.random.default_rng(0).normal(size=(2, 5, 4, 3, 2))
    objective = jax.jit(lambda log_scale: jnp.mean(nll(x_hat, x, log_scale)))
    found = scipy.optimize.minimize_scalar(lambda log_scale: float(objective(log_scale)), bracket=(-3, 3), tol=1e-10)
    np.testing.assert_allclose(losses.optimal_log_scale(x_hat, x, kind=kind), found.x, atol=1e-6)


def test_beta_vae_is_the_negative_elbo():
    """In a linear Gaussian model the ELBO of the exact posterior is the log evidence; of any other it is less."""
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
    np.testing.assert_allclose(_over_noise(negative_elbo, mean, log_var, nodes=3), -evidence, rtol=1e-12)
    for shift in np.array([[0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]]):
        assert np.all(_over_noise(negative_elbo, mean + shift[0], log_var + shift[1], nodes=3) > -evidence + 1e-3)


# The whole objective.


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

    mean, log_var = jax.jit(lambda codes: jax.lax.scan(step, codes, length=3000)[0])(_posteriors(8, 2))
    np.testing.assert_allclose(np.var(mean, axis=0), var_of_means, atol=0.02)
    np.testing.assert_allclose(np.exp(log_var), var, atol=0.02)
    np.testing.assert_allclose(np.mean(mean, axis=0), 0, atol=0.02)


def test_released_kl_terms_are_the_standard_kl_less_a_part_and_a_barrier():
    mean, log_var = np.random.default_rng(0).normal(0.3, 1.2, (2, 10, 16))
    released = losses.mixture_elbo(jnp.zeros(10), mean, log_var).total
    less = 0.4 * np.mean(np.sum(np.exp(log_var) - 1 - log_var, 1)) + 0.5 * np.sum(1 + np.log(np.var(mean, 0)))
    np.testing.assert_allclose(released, jnp.mean(losses.gaussian_kl(mean, log_var)) - less, rtol=1e-12)


# Relatives and diagnostics.


def test_batch_norm_bound_is_the_rate_less_the_variances_part():
    mean, log_var = _posteriors(7, 4)
    rate, part = jnp.mean(losses.gaussian_kl(mean, log_var)), jnp.mean(losses.variance_regularizer(log_var))
    bound = losses.batch_norm_kl_bound(losses.batch_moments(mean))
    assert bound < rate - 0.1
    np.testing.assert_allclose(rate - bound, part, rtol=1e-12)


def test_free_bits_free_a_dimension_of_the_batch_and_not_of_an_image():
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


def test_kurtosis_is_that_of_codes_drawn_from_the_mixture():
    mean, log_var = np.array([[-2.0], [0.3], [0.5], [3.0]]), np.log([[0.1], [0.5], [1.0], [0.3]])
    rng = np.random.default_rng(1)
    drawn = rng.integers(4, size=(100, 20_000))
    codes = (mean + np.exp(log_var / 2) * rng.normal(size=(100, 20_000, 4, 1)))[..., 0]
    sample = scipy.stats.kurtosis(np.take_along_axis(codes, drawn[..., None], 2)[..., 0], axis=1)
    shape = losses.population_shape(mean, log_var)
    assert abs(shape.excess_kurtosis[0]) > 0.3
    _assert_mean(sample, shape.excess_kurtosis[0], 0.01)
    np.testing.assert_allclose(losses.population_shape(np.array([[1.0], [-1.0]])).excess_kurtosis, -2, rtol=1e-12)


# The game.

KINDS = ["bce", "hinge", "least_squares"]


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [("bce", 2 * math.log(2), math.log(2)), ("hinge", 2, 0), ("least_squares", 1, 1)],
)
def test_losses_of_a_logit_of_zero(kind, discriminator, generator):
    zeros = jnp.zeros((1, 1))
    np.testing.assert_allclose(losses.discriminator_loss(zeros, zeros, kind=kind), [discriminator], rtol=1e-12)
    np.testing.assert_allclose(losses.generator_loss(zeros, kind=kind), [generator], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_players_pull_in_opposite_directions(kind):
    real, fake = np.array([[0.7, -0.4]]), np.array([[0.2, -0.6]])
    by_real, by_fake = jax.grad(lambda *logits: losses.discriminator_loss(*logits, kind=kind)[0], (0, 1))(real, fake)
    by_generator = jax.grad(lambda fake: losses.generator_loss(fake, kind=kind)[0])(fake)
    assert np.all(by_real < 0)
    assert np.all(by_generator < 0)
    above = fake > 0 if kind == "least_squares" else fake > -1
    assert np.all(by_fake[above] > 0)


def _jensen_shannon(p, q):
    return scipy.stats.entropy(p, (p + q) / 2) / 2 + scipy.stats.entropy(q, (p + q) / 2) / 2


# Where the discriminator's loss is smallest, and what it then says of the distance of images and fakes.
OPTIMA = {
    "bce": (lambda p, q: np.log(p / q), lambda p, q: 2 * math.log(2) - 2 * _jensen_shannon(p, q)),
    "hinge": (lambda p, q: np.sign(p - q), lambda p, q: 2 - np.sum(np.abs(p - q))),
    "least_squares": (lambda p, q: p / (p + q), lambda p, q: np.sum(p * q / (p + q))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_best_discriminator_measures_the_distance_of_images_and_fakes(kind):
    p, q = np.random.default_rng(0).dirichlet(np.full(5, 5.0), 2)
    optimum, smallest = OPTIMA[kind]

    def expected(logits):
        """With p and q as shares of images and fakes at five places."""
        pairs = jnp.stack(jnp.broadcast_arrays(logits[:, None], logits[None, :]))
        of_pairs = losses.discriminator_loss(pairs[0].reshape(-1, 1), pairs[1].reshape(-1, 1), kind=kind)
        return p @ of_pairs.reshape(5, 5) @ q

    best = optimum(p, q)
    np.testing.assert_allclose(expected(best), smallest(p, q), rtol=1e-10)
    for place, step in itertools.product(range(5), (-0.1, 0.1)):
        assert expected(best + step * np.eye(5)[place]) > expected(best) + 1e-5
    same = losses.DECISION_THRESHOLD[kind] * np.ones(5)
    assert np.all((best > same) == (p > q))


def test_lecam_anchors_are_debiased_averages():
    anchors, reals, fakes = losses.init_lecam_anchors(), [1.0, 3.0, -2.0], [-1.0, 0.0, 5.0]
    for real, fake in zip(reals, fakes, strict=True):
        logits = jnp.full((2, 3), real), jnp.full((2, 3), fake)
        penalty, anchors = losses.lecam_penalty(*logits, anchors, decay=0.5)
    expected = [(0.25 * a + 0.5 * b + c) / 1.75 for a, b, c in (reals, fakes)]
    np.testing.assert_allclose(anchors[:2], expected, rtol=1e-12)
    np.testing.assert_allclose(anchors.weight, 0.875)
    np.testing.assert_allclose(penalty, (-2 - expected[1]) ** 2 + (5 - expected[0]) ** 2, rtol=1e-12)


def test_adaptive_weight_makes_both_gradients_as_long():
    rng = np.random.default_rng(0)
    kernel, hidden, x = rng.normal(size=(4, 12)), rng.normal(size=(5, 4)), rng.normal(size=(5, 12))

    def reconstruction(kernel):
        return jnp.mean(losses.l1_reconstruction(hidden @ kernel, x))

    def generator(kernel):
        return jnp.mean(losses.generator_loss(jnp.sin(hidden @ kernel)))

    gradients = [jax.grad(loss)(kernel) for loss in (reconstruction, generator)]
    weight = losses.adaptive_generator_weight(*gradients)
    np.testing.assert_allclose(np.linalg.norm(weight * gradients[1]), np.linalg.norm(gradients[0]), rtol=1e-4)
    assert abs(weight - 1) > 0.1
    np.testing.assert_allclose(losses.adaptive_generator_weight(gradients[0], 0 * gradients[1]), 1e4)


def test_r1_penalty_is_how_much_noise_moves_the_mean_logit():
    rng, samples, step = np.random.default_rng(0), 20_000, 1e-3
    image, first, second = rng.normal(size=12), rng.normal(size=(12, 8)), rng.normal(size=(8, 3))

    def logits(flat, sin):
        return sin(flat @ first) @ second

    noise = step * rng.normal(size=(samples, 12))
    moved = [logits(image + side * noise, np.sin).mean(1) for side in (1, -1)]
    sample = ((moved[0] - moved[1]) / (2 * step)) ** 2
    penalty = losses.r1_penalty(lambda images: logits(images.reshape(1, -1), jnp.sin), image.reshape(1, 2, 2, 3))
    _assert_mean(sample / penalty, 1, 0.02)


def test_r1_penalty_of_a_discriminator_that_sees_nothing_is_zero():
    images = np.random.default_rng(0).normal(size=(3, 2, 2, 3))
    np.testing.assert_array_equal(losses.r1_penalty(lambda images: 7 + 0 * images, images), np.zeros(3))
