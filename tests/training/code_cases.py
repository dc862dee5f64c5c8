"""Objectives with terms of the codes, and these terms in NumPy and float64."""

import itertools

import numpy as np
import scipy.special
import scipy.stats

from rvae_jax.config import LossConfig

WEIGHTS = {
    "mixture_kl_weight": 0.7,
    "total_correlation_weight": 1.5,
    "mmd_weight": 30.0,
    "sliced_weight": 20.0,
    "dip_weight": 0.5,
}

CODE_OPTIONS = {
    "full covariance of the mixture, averaged": LossConfig(
        adversarial="none",
        reconstruction="l2",
        moments="mixture",
        covariance="full",
        moments_decay=0.7,
        variance_target=0.3,
        kl_ramp=3,
        **WEIGHTS,
    ),
    "diagonal moments of the means, averaged": LossConfig(adversarial="none", moments_decay=0.7, **WEIGHTS),
    "full covariance of the batch": LossConfig(adversarial="none", covariance="full"),
    "free bits": LossConfig(adversarial="none", kl="standard", free_bits=0.9, beta=2.0, dip_weight=0.3),
    "likelihood": LossConfig(
        adversarial="none", kl="standard", reconstruction="gaussian", reconstruction_weight=1.0, sliced_weight=9.0
    ),
    "other likelihood": LossConfig(
        adversarial="none", kl="standard", reconstruction="laplace", reconstruction_weight=1.0
    ),
}


def gaussian_kl(mean, cov):
    return 0.5 * (mean @ mean + np.trace(cov) - len(cov) - np.linalg.slogdet(cov)[1])


def reconstruction(loss, x_hat, x):
    error = x_hat - x
    match loss.reconstruction:
        case "l1":
            return np.mean(np.abs(error))
        case "l2":
            return np.mean(error**2)
    family = {"gaussian": scipy.stats.norm, "laplace": scipy.stats.laplace}[loss.reconstruction]
    return -np.sum(family.logpdf(error, *family.fit(error.ravel(), floc=0))) / len(x)


def expected_code_terms(loss, noise, mean, log_var):
    """Of the first batch: the average is then its own moments."""
    var, terms = np.exp(log_var), {}
    of_mixture = loss.moments == "mixture"
    cov = np.cov(mean.T, bias=True) + np.diag(var.mean(0) * of_mixture)
    count, size = mean.shape
    if loss.kl == "population":
        shrinkage = size / (count + size) if loss.covariance == "full" else 1
        terms["population_kl"] = gaussian_kl(mean.mean(0), (1 - shrinkage) * cov + shrinkage * np.diag(np.diag(cov)))
        ratio = var / loss.variance_target
        terms["variance_regularizer"] = 0.5 * np.mean(np.sum(ratio - 1 - np.log(ratio), 1))
    else:
        kl = 0.5 * (mean**2 + var - 1 - log_var)
        if loss.free_bits:
            terms["free_bits_kl"] = np.sum(np.maximum(loss.free_bits, kl.mean(0)))
        else:
            terms["standard_kl"] = np.mean(kl.sum(1))
    z = mean + np.sqrt(var) * noise
    densities = np.array([scipy.stats.norm.logpdf(code, mean, np.sqrt(var)) for code in z])
    joint = scipy.special.logsumexp(densities.sum(2), axis=1) - np.log(count)
    marginals = scipy.special.logsumexp(densities, axis=1).sum(1) - size * np.log(count)
    codes, directions = z if of_mixture else mean, noise / np.linalg.norm(noise, axis=1, keepdims=True)
    every = {
        "mixture_kl": lambda: np.mean(joint - scipy.stats.norm.logpdf(z).sum(1)),
        "total_correlation": lambda: np.mean(joint - marginals),
        "mmd": lambda: _mmd(codes, noise),
        "sliced": lambda: np.mean([_epps_pulley(mean @ u, var @ u**2 * of_mixture) for u in directions]),
        "dip": lambda: np.sum((cov - np.eye(size)) ** 2),
    }
    return terms | {name: of() for name, of in every.items() if getattr(loss, f"{name}_weight")}


def _mmd(z, prior):
    def kernel(a, b):
        return sum(2 * len(a) * s / (2 * len(a) * s + np.sum((a - b) ** 2)) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    within = [np.mean([kernel(a, b) for a, b in itertools.permutations(codes, 2)]) for codes in (z, prior)]
    return sum(within) - 2 * np.mean([kernel(a, b) for a in z for b in prior])


def _epps_pulley(places, variances):
    """By complex numbers, over the pairs of different codes."""
    knots = np.linspace(-5, 5, 17)
    window, normal = np.exp(-(knots**2) / 2) / np.sqrt(2 * np.pi), np.exp(-(knots**2) / 2)
    functions = [np.exp(1j * knots * x - knots**2 * v / 2) for x, v in zip(places, variances, strict=True)]
    within = np.mean([a * np.conj(b) for a, b in itertools.permutations(functions, 2)], axis=0)
    return np.trapezoid(window * np.real(within - 2 * np.mean(functions, axis=0) * normal + normal**2), knots)
