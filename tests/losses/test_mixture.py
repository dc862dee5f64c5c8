"""The mixture's KL, information and decomposition, against quadrature, enumeration and simulation."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from expectations import SIGMAS, assert_mean, over_noise, posteriors

from rvae_jax import losses

pytestmark = pytest.mark.usefixtures("float64")


def _integral(function):
    return scipy.integrate.quad(function, -15, 15, points=np.linspace(-4, 4, 9), limit=400)[0]


def test_mixture_kl_and_information_equal_quadrature_in_one_dimension():
    mean, log_var = posteriors(5, 1)
    mean += 0.5
    each = scipy.stats.norm(mean[:, 0], np.exp(log_var[:, 0] / 2))

    def entropy(density):
        return _integral(lambda z: -scipy.special.xlogy(density(z), density(z)))

    def mixture(z):
        return each.pdf(z).mean()

    kl = -entropy(mixture) - _integral(lambda z: mixture(z) * scipy.stats.norm.logpdf(z))
    information = entropy(mixture) - each.entropy().mean()
    assert min(kl, information) > 0.05
    ours = over_noise(losses.mixture_kl, mean, log_var, nodes=150).mean()
    np.testing.assert_allclose(ours, kl, rtol=1e-6)
    ours = over_noise(losses.mutual_information, mean, log_var, nodes=150).mean()
    np.testing.assert_allclose(ours, information, rtol=1e-6)


def test_mixture_kl_is_unbiased():
    count, size, samples = 5, 4, 200_000
    mean, log_var = posteriors(count, size)
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
    mean, log_var = posteriors(6, 2, spread)
    mean = mean @ np.array([[1.0, 0.8], [0.0, 0.6]])
    kl = over_noise(losses.mixture_kl, mean, log_var).mean()
    information = over_noise(losses.mutual_information, mean, log_var).mean()
    rate = losses.gaussian_kl(mean, log_var).mean()
    correlated = losses.population_kl(losses.batch_covariance(mean, log_var, shrinkage=0))
    diagonal = losses.population_kl(losses.batch_moments(mean, log_var))
    np.testing.assert_allclose(rate - kl, information, rtol=1e-4)
    assert 0 < information < math.log(6)
    assert diagonal + 1e-3 < correlated < kl - 1e-3


def test_mixture_of_equal_posteriors_is_a_gaussian_without_information():
    mean, log_var = (np.tile(row, (6, 1)) for row in posteriors(1, 2))
    np.testing.assert_allclose(
        over_noise(losses.mixture_kl, mean, log_var).mean(),
        losses.population_kl(losses.batch_moments(mean, log_var)),
        rtol=1e-10,
    )
    noise = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_allclose(jax.jit(losses.mutual_information)(mean, log_var, noise), np.zeros(6), atol=1e-12)


def test_information_of_distant_codes_is_the_log_of_their_number():
    noise = np.random.default_rng(0).normal(size=(7, 2))
    mean, log_var = np.full((7, 2), 100.0) * np.arange(7)[:, None], np.zeros((7, 2))
    np.testing.assert_allclose(jax.jit(losses.mutual_information)(mean, log_var, noise), math.log(7), rtol=1e-12)


def test_moments_of_the_means_overestimate_the_kl_of_a_mixture_of_wide_posteriors():
    mean, log_var = posteriors(6, 2, spread=0.4)
    kl = over_noise(losses.mixture_kl, mean, log_var).mean()
    assert losses.population_kl(losses.batch_moments(mean)) > kl + 1


def test_mixture_kl_of_batches_exceeds_that_of_the_data():
    mean, log_var = posteriors(6, 2)
    whole = over_noise(losses.mixture_kl, mean, log_var).mean()
    batches = [list(batch) for batch in itertools.combinations(range(6), 3)]
    parts = [over_noise(losses.mixture_kl, mean[batch], log_var[batch]).mean() for batch in batches]
    assert np.mean(parts) > whole + 0.1


# The density of the data set of 6 images, estimated from all its batches of 3, in every order.
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
    """Chen et al. (2018), appendix C.2; the image that follows has the special weight."""
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
    """Mean and variance of each image's estimated density, ``[6]`` each, over the batches ``[120, 3]`` with it."""
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
    arrays = [array[:, columns] for array in (*posteriors(DATASET, 2), rng.normal(size=(DATASET, 2)))]
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
    densities = _density_matrix(*posteriors(DATASET, 2), np.zeros((DATASET, 2)))
    mean, _ = _mean_and_variance_of_estimates(_estimates(_reference_code(DATASET, BATCH), densities))
    ratio = mean / densities.mean(1)
    assert np.all((ratio > 1.3) & (ratio < 1.8))
    distant = _density_matrix(100 * np.arange(6.0)[:, None], np.zeros((6, 1)), np.zeros((6, 1)))
    mean, _ = _mean_and_variance_of_estimates(_estimates(_reference_code(DATASET, BATCH), distant))
    np.testing.assert_allclose(mean / distant.mean(1), 2, rtol=1e-12)


def test_reference_codes_weights_are_biased_as_objective_md_says():
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


def test_parts_of_the_decomposition_add_up_and_one_dimension_has_no_total_correlation():
    (mean, log_var), noise = posteriors(5, 3), np.random.default_rng(1).normal(size=(5, 3))
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
def test_weighted_parts_are_those_of_the_batchs_mixture_plus_constants(spread):
    (mean, log_var), noise = posteriors(5, 3, spread), np.random.default_rng(1).normal(size=(5, 3))

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


def test_weighted_density_is_too_small_by_d_if_posteriors_overlap_and_by_n_if_not():
    noise = np.random.default_rng(0).normal(size=(50, 2))
    log_var = np.zeros((50, 2))
    weighted = jax.jit(functools.partial(losses.kl_decomposition, dataset_size=50, weighting="weighted"))
    for spread, factor in ((0.001, 50), (1000.0, 5)):
        mean = spread * np.arange(50.0)[:, None] * np.ones(2)
        batch = slice(20, 25)
        exact = jax.jit(losses.mutual_information)(mean, log_var, noise)[batch]
        ours = weighted(mean[batch], log_var[batch], noise[batch]).mutual_information
        np.testing.assert_allclose(ours - exact, math.log(factor), atol=0.05)


def test_decomposition_of_correlated_codes_has_their_total_correlation():
    rng, count, correlation, var = np.random.default_rng(0), 1000, 0.8, 0.1
    cov = np.array([[1, correlation], [correlation, 1]])
    mean = rng.multivariate_normal(np.zeros(2), cov - var * np.eye(2), count)
    parts = jax.jit(lambda *arrays: losses.kl_decomposition(*arrays, dataset_size=count))(
        mean, np.full_like(mean, math.log(var)), rng.normal(size=mean.shape)
    )
    assert_mean(parts.total_correlation, -0.5 * math.log1p(-(correlation**2)), 0.03)
    assert_mean(parts.dimension_kl, 0, 0.03)
    assert_mean(parts.mutual_information, 0.5 * np.linalg.slogdet(cov / var)[1], 0.04)
