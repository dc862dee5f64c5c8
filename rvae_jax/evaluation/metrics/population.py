"""How far the population of codes is from N(0, I), from the posteriors of n images: means, log variances, ``[n, d]``.

With G the Gaussian of the population's mean m and covariance V, and v the diagonal of V::

    KL(q || N(0, I)) = 1/2 sum_k (m_k^2 + v_k - 1 - log v_k)      single dimensions' moments
                     + 1/2 (sum_k log v_k - log det V)            correlation
                     + KL(q || G)                                 what is not Gaussian

The first two are computed from the moments. The third has no estimate that can be trusted in many dimensions, but two
lower bounds, in coordinates w where G is N(0, I):

* ``sum_k KL(q_k || N(0, 1))`` over orthonormal axes, q_k being the law of w along one: clusters, heavy tails.
  Independent component analysis finds axes on which it is large.
* ``KL(law of |w| || chi distribution)``: how far from the centre codes lie. It is all of the distance if the
  population is spherical in w, such as a mixture of Gaussians of one shape and different scales.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from rvae_jax.data.pixels import evenly_spaced
from rvae_jax.evaluation.results import Part
from rvae_jax.inference import samplers
from rvae_jax.inference.batching import Batched

LEAST_CODES = 8  # per dimension, for what is not Gaussian

_MOST_CODES = 20_000  # for what is not Gaussian
_MOST_DRAWS = 1_000  # codes at which the density of the mixture is computed
_GROUPS = 20  # of the jackknife
_ROUNDS = 4  # of chance, for the moments; one round of the rest, whose chance varies little
_ITERATIONS = 200  # of independent component analysis, which need not converge
_WINDOW = 20  # neighbours on either side, for the entropy on a line
_LEAST_LOG_VAR = math.log(1e-12)  # keeps the covariance regular
_ROWS, _COLUMNS = 16, 512  # codes and posteriors at a time


def gaussian_distance(mean: np.ndarray, log_var: np.ndarray) -> tuple[float, float]:
    """KL to N(0, I) of the Gaussian with the population's mean and covariance: in moments, and in correlation."""
    return _gaussian_distance(_sums(mean, log_var, mean.mean(axis=0, dtype=np.float64)))


def gaussian_parts(mean: np.ndarray, log_var: np.ndarray, seed: int = 0) -> tuple[Part, Part]:
    """The distance in single dimensions' moments, and in correlation.

    The standard errors are of the jackknife over 20 groups of codes, in their order.
    """
    groups = [_sums(mean[group], log_var[group], mean.mean(axis=0, dtype=np.float64)) for group in _groups(len(mean))]
    total = [sum(values) for values in zip(*groups, strict=True)]
    without_one = ([all_ - one for all_, one in zip(total, group, strict=True)] for group in groups)
    error = _jackknife_error(map(_gaussian_distance, without_one))
    rounds = [_standard_population(log_var, seed + i) for i in range(_ROUNDS)]
    chance = np.mean([gaussian_distance(*codes) for codes in rounds], axis=0)
    found = zip(_gaussian_distance(total), error, chance, strict=True)
    moments, correlation = (Part(*map(float, each)) for each in found)
    return moments, correlation


def non_gaussian_parts(mean: np.ndarray, log_var: np.ndarray, seed: int = 0) -> tuple[Part, Part]:
    """Two lower bounds of the distance from the Gaussian with the population's mean and covariance: by axes, by radius.

    One half of the codes gives the axes, the other the bound. Entropy on a line is estimated from the distances of
    neighbours (Vasicek, 1976), which is too low by about 1/80 nat for any smooth density: only the difference from
    ``chance`` is nearly unbiased.

    Raises:
      ValueError: there are fewer than 8 codes per dimension.
    """
    if len(mean) < LEAST_CODES * mean.shape[1]:
        raise ValueError(f"{len(mean)} codes of {mean.shape[1]} dimensions; expected {LEAST_CODES} for each dimension")
    few = evenly_spaced(_MOST_CODES, len(mean))
    mean, log_var = mean[few], log_var[few]
    white = _white_codes(mean, log_var, seed)
    by_chance = _white_codes(*_standard_population(log_var, seed), seed + 1)
    distance = functools.partial(_radial_distance, latent_dim=mean.shape[1])
    axes = _part(_negentropy, _on_axes(white, seed), _on_axes(by_chance, seed))
    return axes, _part(distance, *(np.linalg.norm(codes, axis=1) for codes in (white, by_chance)))


def _part(estimate: Callable[[np.ndarray], float], codes: np.ndarray, by_chance: np.ndarray) -> Part:
    error = _jackknife_error(estimate(np.delete(codes, group, axis=0)) for group in _groups(len(codes)))
    return Part(estimate(codes), float(error), estimate(by_chance))


def mixture_distance(mean: np.ndarray, log_var: np.ndarray, seed: int = 0, label: str | None = None) -> Part:
    """KL of the mixture of all n posteriors to N(0, I), by Monte Carlo: one code each of at most 1,000 of them.

    Posteriors that do not overlap are far from N(0, I) wherever they lie: then it is their rate less log n, and its
    distance from ``chance`` is less than the population's from N(0, I).

    Memory does not depend on n beyond the posteriors' own; time is that of 2,000 n densities.

    Args:
      mean: ``[n, d]``.
      log_var: ``[n, d]``.
      seed: of the draws.
      label: title of a progress bar, or None for no bar.
    """
    which = evenly_spaced(_MOST_DRAWS, len(mean))
    noise = np.random.default_rng(seed).standard_normal((len(which), mean.shape[1]), np.float32)
    found, chance = (
        code_densities(*posteriors, which, noise, label)
        for posteriors in ((mean, log_var), _standard_population(log_var, seed))
    )
    distances = found.mixture - found.prior
    error = distances.std() / math.sqrt(len(distances))
    return Part(float(distances.mean()), float(error), float(np.mean(chance.mixture - chance.prior)))


class CodeDensities(NamedTuple):
    """Log densities of one code each of some posteriors, ``[m]`` each, in nats.

    Attributes:
      own: under its own posterior.
      mixture: under the mixture of all posteriors.
      prior: under N(0, I).
    """

    own: np.ndarray
    mixture: np.ndarray
    prior: np.ndarray


def code_densities(
    mean: np.ndarray, log_var: np.ndarray, which: np.ndarray, noise: np.ndarray, label: str | None = None
) -> CodeDensities:
    """Log densities of the codes ``mean[i] + exp(log_var[i] / 2) noise`` for the i of ``which``.

    Args:
      mean: ``[n, d]``.
      log_var: ``[n, d]``.
      which: indices of m posteriors.
      noise: standard normal, ``[m, d]``.
      label: title of a progress bar, or None for no bar.
    """
    n, d = mean.shape
    padding = -n % _COLUMNS
    blocks = [np.pad(array, ((0, padding), (0, 0))).reshape(-1, _COLUMNS, d) for array in (mean, log_var)]
    blocks.append((np.arange(n + padding) < n).reshape(-1, _COLUMNS))
    found = Batched(_densities, blocks, batch_size=_ROWS)(mean[which], log_var[which], noise, label=label)
    own, joint, prior = (np.asarray(values, np.float64) for values in found)
    return CodeDensities(own, joint - math.log(n), prior)


def _densities(
    blocks: list[jax.Array], mean: jax.Array, log_var: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of a few codes: own log density, that of the sum over all posteriors, that of N(0, I)."""
    offset = jnp.exp(0.5 * log_var) * noise

    def add(so_far: jax.Array, block: list[jax.Array]) -> tuple[jax.Array, None]:
        means, log_vars, is_there = block
        # A difference of means, since a code far from zero is rounded by more than its posterior is wide.
        distance = (mean[:, None, :] - means[None, :, :]) + offset[:, None, :]
        log_density = _log_normal(distance * jnp.exp(-0.5 * log_vars)[None, :, :], log_vars[None, :, :])
        return jnp.logaddexp(so_far, jax.nn.logsumexp(log_density, axis=1, where=is_there[None, :])), None

    joint, _ = jax.lax.scan(add, jnp.full(len(mean), -jnp.inf), blocks)
    return _log_normal(noise, log_var), joint, _log_normal(mean + offset, jnp.zeros_like(mean))


def _log_normal(standardised: jax.Array, log_var: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum(jnp.square(standardised) + log_var + math.log(2 * math.pi), axis=-1)


def _standard_population(log_var: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors with these variances, or 1 where they are larger, of means with which each code is from N(0, I)."""
    log_var = np.minimum(log_var, 0.0)
    deviation = np.sqrt(-np.expm1(log_var.astype(np.float64)))
    means = np.random.default_rng([seed, 1]).standard_normal(log_var.shape) * deviation
    return means.astype(np.float32), log_var


def _groups(n: int) -> list[np.ndarray]:
    return np.array_split(np.arange(n), min(_GROUPS, n))


def _jackknife_error(without_one: Iterable[Any]) -> np.ndarray:
    """Standard error from the estimates that leave out one group each."""
    estimates = np.array(list(without_one), np.float64)
    return np.sqrt((len(estimates) - 1) * np.mean(np.square(estimates - estimates.mean(axis=0)), axis=0))


def _sums(mean: np.ndarray, log_var: np.ndarray, centre: np.ndarray) -> list[Any]:
    """Number of codes, where their means were counted from, and sums of means, outer products and variances."""
    distance = mean.astype(np.float64) - centre
    var = np.exp(np.maximum(log_var.astype(np.float64), _LEAST_LOG_VAR))
    return [len(mean), centre * len(mean), distance.sum(axis=0), distance.T @ distance, var.sum(axis=0)]


def _gaussian_distance(sums: list[Any]) -> tuple[float, float]:
    """What of the distance is in single dimensions' moments, and what in correlation."""
    centre, mean, outer, var = (each / sums[0] for each in sums[1:])
    covariance = outer - np.outer(mean, mean) + np.diag(var)
    log_variances = np.log(np.diag(covariance))
    moments = 0.5 * np.sum(np.square(centre + mean) + np.diag(covariance) - 1.0 - log_variances)
    return moments, 0.5 * (log_variances.sum() - np.linalg.slogdet(covariance).logabsdet)


def _white_codes(mean: np.ndarray, log_var: np.ndarray, seed: int) -> np.ndarray:
    """A code of each posterior, ``[n, d]``, in coordinates where the population has mean 0 and covariance I."""
    centre, covariance = samplers.mean_and_covariance(mean, np.maximum(log_var, _LEAST_LOG_VAR))
    return samplers.whiten(samplers.codes_of(mean, log_var, seed), centre, covariance)


def _on_axes(white: np.ndarray, seed: int) -> np.ndarray:
    """Every second code on axes where the others are as little Gaussian as independent component analysis finds."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        analysis = FastICA(whiten=False, max_iter=_ITERATIONS, random_state=seed).fit(white[1::2])
    return white[::2] @ analysis.components_.T


def _negentropy(codes: np.ndarray) -> float:
    """How much less entropy the codes have on each axis than Gaussians of the same variances; the sum over axes."""
    return float(np.sum(0.5 * np.log(2 * math.pi * math.e * codes.var(axis=0)) - _entropy(codes)))


def _radial_distance(radii: np.ndarray, latent_dim: int) -> float:
    """KL of the law of the radii ``[n]`` to that of N(0, I)."""
    return float(-_entropy(radii) - np.mean(scipy.stats.chi.logpdf(radii, latent_dim)))


def _entropy(values: np.ndarray) -> np.ndarray:
    """Entropy of the law of each column, in nats."""
    window = min(_WINDOW, (len(values) - 1) // 2)
    return scipy.stats.differential_entropy(values, axis=0, method="vasicek", window_length=window)
