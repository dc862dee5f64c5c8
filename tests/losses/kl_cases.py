"""KL divergences, the mixture of the posteriors, complete objectives, and regularizers of other VAEs."""

import numpy as np
import scipy.special
import scipy.stats
from case_parts import COVARIANCE, ERRORS, LOG_VARS, MEAN, MEANS, NOISE, VARIANCE, Argument, Case, each
from moment_cases import mixture_moments

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, Moments

DIRECTIONS = Argument("noise", (3, 4))


def kl(mean, cov, other=None):
    """KL(N(mean, cov) || N(0, other)), with log determinants."""
    other = np.eye(len(cov)) if other is None else other
    log_dets = np.linalg.slogdet(other)[1] - np.linalg.slogdet(cov)[1]
    return 0.5 * (np.trace(np.linalg.solve(other, cov)) + mean @ np.linalg.solve(other, mean) - len(cov) + log_dets)


def posterior_kl(mean, log_var):
    return kl(mean, np.diag(np.exp(log_var)))


def _variance_kl(log_var, target=1.0):
    return kl(np.zeros(len(log_var)), np.diag(np.exp(log_var)), target * np.eye(len(log_var)))


def _log_densities(mean, log_var, noise):
    """The codes, and ``[i, j, d]``, the log density of code i under posterior j."""
    codes = mean + np.exp(log_var / 2) * noise
    return codes, np.array([scipy.stats.norm.logpdf(code, mean, np.exp(log_var / 2)) for code in codes])


def _log_prior(codes):
    return scipy.stats.norm.logpdf(codes).sum(1)


def _mixture_kl(*posteriors):
    codes, densities = _log_densities(*posteriors)
    return scipy.special.logsumexp(densities.sum(2), axis=1, b=1 / len(codes)) - _log_prior(codes)


def _mutual_information(*posteriors):
    codes, densities = _log_densities(*posteriors)
    joint = densities.sum(2)
    return np.diag(joint) - scipy.special.logsumexp(joint, axis=1, b=1 / len(codes))


def _stratified_weights(count, dataset_size):
    """Chen et al.'s, of the image itself, of the last of the others, of the rest; the mean over which one is last."""
    others, weights = count - 1, np.zeros((count, count))
    for own in range(count):
        for last in set(range(count)) - {own}:
            row = np.full(count, 1 / others)
            row[own], row[last] = 1 / dataset_size, (dataset_size - others) / (dataset_size * others)
            weights[own] += row / others
    return weights


def _decomposition(weights, *posteriors):
    codes, densities = _log_densities(*posteriors)
    joint = densities.sum(2)
    log_joint = scipy.special.logsumexp(joint, axis=1, b=weights)
    log_marginals = sum(scipy.special.logsumexp(densities[:, :, d], axis=1, b=weights) for d in range(codes.shape[1]))
    return np.diag(joint) - log_joint, log_joint - log_marginals, log_marginals - _log_prior(codes)


def _elbo(weights, target, population_kl, reconstruction, mean, log_var):
    terms = np.mean(reconstruction), population_kl, np.mean([_variance_kl(row, target) for row in log_var])
    return np.dot(weights, terms), *terms


def _mmd(z, prior, scales=(0.1, 0.2, 0.5, 1, 2, 5, 10)):
    def kernel(a, b):
        return sum(2 * len(a) * s / (2 * len(a) * s + np.sum((a - b) ** 2)) for s in scales)

    def mean_of_pairs(codes):
        return np.mean([kernel(a, b) for i, a in enumerate(codes) for j, b in enumerate(codes) if i != j])

    return mean_of_pairs(z) + mean_of_pairs(prior) - 2 * np.mean([kernel(a, b) for a in z for b in prior])


def _sliced(mean, directions, log_var=None):
    """By all knots and complex numbers, pair by pair."""
    t = np.linspace(-5, 5, 17)
    window = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    def on_line(u):
        widths = np.zeros(len(mean)) if log_var is None else np.exp(log_var) @ u**2
        functions = [np.exp(1j * t * (u @ m) - t**2 * v / 2) for m, v in zip(mean, widths, strict=True)]
        pairs = [a * np.conj(b) for i, a in enumerate(functions) for j, b in enumerate(functions) if i != j]
        across = np.real(np.mean(functions, axis=0)) * np.exp(-(t**2) / 2)
        return np.trapezoid(window * (np.real(np.mean(pairs, axis=0)) - 2 * across + np.exp(-(t**2))), t)

    return np.mean([on_line(u) for u in directions])


def _dip(_, cov):
    pairs = [(i, j) for i in range(len(cov)) for j in range(len(cov)) if i != j]
    return sum(cov[pair] ** 2 for pair in pairs), sum((cov[i, i] - 1) ** 2 for i in range(len(cov)))


DIVERGENCES = {
    "gaussian_kl": Case(losses.gaussian_kl, each(posterior_kl), [MEANS, LOG_VARS]),
    "kl_by_dimension": Case(
        losses.kl_by_dimension,
        np.vectorize(lambda mean, log_var: posterior_kl(np.array([mean]), np.array([log_var]))),
        [MEANS, LOG_VARS],
    ),
    "variance_regularizer": Case(losses.variance_regularizer, each(_variance_kl), [LOG_VARS]),
    "variance_regularizer of another target": Case(
        lambda log_var: losses.variance_regularizer(log_var, target=0.3),
        each(lambda log_var: _variance_kl(log_var, 0.3)),
        [LOG_VARS],
    ),
    "population_kl": Case(
        lambda mean, var: losses.population_kl(Moments(mean, var)),
        lambda mean, var: kl(mean, np.diag(var)),
        [MEAN, VARIANCE],
    ),
    "population_kl of a covariance": Case(
        lambda mean, cov: losses.population_kl(CovarianceMoments(mean, cov)), kl, [MEAN, COVARIANCE]
    ),
    "gaussian_total_correlation": Case(
        lambda mean, cov: losses.gaussian_total_correlation(CovarianceMoments(mean, cov)),
        lambda mean, cov: kl(0 * mean, cov, np.diag(np.diag(cov))),
        [MEAN, COVARIANCE],
    ),
}

MIXTURES = {
    "mixture_kl": Case(losses.mixture_kl, _mixture_kl, [MEANS, LOG_VARS, NOISE]),
    "mutual_information": Case(losses.mutual_information, _mutual_information, [MEANS, LOG_VARS, NOISE]),
    "kl_decomposition stratified": Case(
        lambda *posteriors: losses.kl_decomposition(*posteriors, dataset_size=100),
        lambda *posteriors: _decomposition(_stratified_weights(5, 100), *posteriors),
        [MEANS, LOG_VARS, NOISE],
    ),
    "kl_decomposition of the whole data set": Case(
        lambda *posteriors: losses.kl_decomposition(*posteriors, dataset_size=5),
        lambda *posteriors: _decomposition(np.full((5, 5), 1 / 5), *posteriors),
        [MEANS, LOG_VARS, NOISE],
    ),
    "kl_decomposition weighted": Case(
        lambda *posteriors: losses.kl_decomposition(*posteriors, dataset_size=100, weighting="weighted"),
        lambda *posteriors: _decomposition(np.full((5, 5), 1 / (5 * 100)), *posteriors),
        [MEANS, LOG_VARS, NOISE],
    ),
}

OBJECTIVES = {
    "mixture_elbo": Case(
        losses.mixture_elbo,
        lambda rec, mean, log_var: _elbo(
            (5000, 1, 0.2), 1.0, kl(mean.mean(0), np.diag(mean.var(0))), rec, mean, log_var
        ),
        [ERRORS, MEANS, LOG_VARS],
    ),
    "mixture_elbo of the mixture": Case(
        lambda *arrays: losses.mixture_elbo(
            *arrays,
            moments="mixture",
            reconstruction_weight=3.0,
            population_weight=0.7,
            variance_weight=0.4,
            variance_target=0.5,
        ),
        lambda rec, mean, log_var: _elbo(
            (3, 0.7, 0.4), 0.5, kl(mean.mean(0), np.diag(mixture_moments(mean, log_var)[1])), rec, mean, log_var
        ),
        [ERRORS, MEANS, LOG_VARS],
    ),
    "mixture_elbo of moments": Case(
        lambda mean, cov, *arrays: losses.mixture_elbo(*arrays, moments=CovarianceMoments(mean, cov)),
        lambda mean, cov, *arrays: _elbo((5000, 1, 0.2), 1.0, kl(mean, cov), *arrays),
        [MEAN, COVARIANCE, ERRORS, MEANS, LOG_VARS],
    ),
    "beta_vae": Case(
        losses.beta_vae, each(lambda rec, mean, log_var: rec + posterior_kl(mean, log_var)), [ERRORS, MEANS, LOG_VARS]
    ),
    "beta_vae of another beta": Case(
        lambda *arrays: losses.beta_vae(*arrays, beta=4.0),
        each(lambda rec, mean, log_var: rec + 4 * posterior_kl(mean, log_var)),
        [ERRORS, MEANS, LOG_VARS],
    ),
}

RELATIVES = {
    "free_bits_kl": Case(
        lambda mean, log_var: losses.free_bits_kl(mean, log_var, free_nats=1.4),
        lambda mean, log_var: sum(
            max(1.4, np.mean([posterior_kl(m, v) for m, v in zip(mean[:, [d]], log_var[:, [d]], strict=True)]))
            for d in range(4)
        ),
        [MEANS, LOG_VARS],
    ),
    "dip_penalty": Case(lambda mean, cov: losses.dip_penalty(CovarianceMoments(mean, cov)), _dip, [MEAN, COVARIANCE]),
    "imq_mmd": Case(losses.imq_mmd, _mmd, [MEANS, Argument("noise", (6, 4))]),
    "imq_mmd of other scales": Case(
        lambda z, prior: losses.imq_mmd(z, prior, scales=[0.3, 3]),
        lambda z, prior: _mmd(z, prior, (0.3, 3)),
        [MEANS, NOISE],
    ),
    "sliced_normality means": Case(
        lambda mean, directions: losses.sliced_normality(mean, None, directions), _sliced, [MEANS, DIRECTIONS]
    ),
    "sliced_normality mixture": Case(
        lambda mean, log_var, directions: losses.sliced_normality(mean, log_var, directions),
        lambda mean, log_var, directions: _sliced(mean, directions, log_var),
        [MEANS, LOG_VARS, DIRECTIONS],
    ),
    "batch_norm_kl_bound": Case(
        lambda mean, var: losses.batch_norm_kl_bound(Moments(mean, var)),
        lambda mean, var: kl(mean, np.diag(1 + 0 * var)) + np.sum(var) / 2,
        [MEAN, VARIANCE],
    ),
}
