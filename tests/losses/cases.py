"""Every function of the losses that computes on arrays: ours, its formula in NumPy or SciPy, and its arguments."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, LeCamAnchors, MeansQueue, Moments, MomentsAverage


class Argument(NamedTuple):
    """What a number is decides which numbers ``test_ranges`` tries."""

    kind: str
    shape: tuple[int, ...]


class Case(NamedTuple):
    """``gradient_of`` gives, at a point, the function whose derivative is ours there, if it is not the value's."""

    function: Callable
    oracle: Callable
    arguments: list[Argument]
    gradient_of: Callable | None = None


IMAGES = Argument("image", (5, 4, 3, 2))
SMALL_IMAGES = Argument("image", (5, 2, 2, 1))
LOGITS = Argument("logit", (5, 3, 2, 1))
MEANS, LOG_VARS, NOISE = (Argument(kind, (5, 4)) for kind in ("mean", "log_var", "noise"))
MEAN, VARIANCE, LOG_VAR = (Argument(kind, (4,)) for kind in ("mean", "variance", "log_var"))
PARTS, PART_VARIANCES = (Argument(kind, (3, 4)) for kind in ("mean", "variance"))
COVARIANCE = Argument("covariance", (4, 4))
ERRORS = Argument("error", (5,))
WEIGHT = Argument("weight", ())


def draw(argument, rng):
    kind, shape = argument
    if kind == "covariance":
        root = rng.normal(size=shape)
        array = root @ root.T / len(root) + 0.2 * np.eye(len(root))
    elif kind in ("variance", "weight", "error"):
        array = np.exp(rng.normal(size=shape))
    elif kind == "noise":
        array = rng.normal(size=shape)
    else:
        array = rng.normal(0.3, 1.5, shape)
    return np.asarray(array, np.float32)


def arrays_of(case, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [draw(argument, rng).astype(dtype) for argument in case.arguments]


def _each(function):
    """``function`` of every image on its own."""
    return lambda *arrays: np.array([function(*rows) for rows in zip(*arrays, strict=True)])


def _kl(mean, cov, other=None):
    """KL(N(mean, cov) || N(0, other)), with log determinants."""
    other = np.eye(len(cov)) if other is None else other
    log_dets = np.linalg.slogdet(other)[1] - np.linalg.slogdet(cov)[1]
    return 0.5 * (np.trace(np.linalg.solve(other, cov)) + mean @ np.linalg.solve(other, mean) - len(cov) + log_dets)


def _posterior_kl(mean, log_var):
    return _kl(mean, np.diag(np.exp(log_var)))


def _variance_kl(log_var, target=1.0):
    return _kl(np.zeros(len(log_var)), np.diag(np.exp(log_var)), target * np.eye(len(log_var)))


def _pooled(means, second_moments, weights):
    """Mean and variance of a mixture by its raw moments."""
    mean = np.average(means, axis=0, weights=weights)
    return mean, np.average(second_moments, axis=0, weights=weights) - mean**2


def _mixture_moments(mean, log_var):
    return _pooled(mean, mean**2 + np.exp(log_var), None)


def _covariance(mean, log_var=None, shrinkage=0.1):
    cov = np.cov(mean.T, bias=True)
    shrunk = (1 - shrinkage) * cov + shrinkage * np.diag(np.diag(cov))
    return mean.mean(0), shrunk if log_var is None else shrunk + np.diag(np.exp(log_var).mean(0))


def _shrunk_covariance(*codes):
    return losses.batch_covariance(*codes, shrinkage=0.1)


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


def _kurtosis(mean, log_var):
    centre, var = _mixture_moments(mean, log_var)
    fourth = np.vectorize(lambda loc, scale: scipy.stats.norm.moment(4, loc, scale))(mean - centre, np.exp(log_var / 2))
    return centre, var, fourth.mean(0) / var**2 - 3


def _elbo(weights, target, population_kl, reconstruction, mean, log_var):
    terms = np.mean(reconstruction), population_kl, np.mean([_variance_kl(row, target) for row in log_var])
    return np.dot(weights, terms), *terms


def _anchored_at(mean, _, *codes):
    """The function with the derivatives of ``anchored_moments`` at this population."""
    return lambda _, __, means, *log_vars: (
        means.mean(0),
        ((means - mean) ** 2).mean(0) + sum(np.exp(log_var).mean(0) for log_var in log_vars),
    )


def _constant(function):
    """At any point the function that stays what ``function`` is there."""
    return lambda *at: lambda *arrays: function(*at)


def _average(means, variances):
    average = losses.init_moments_average(means.shape[1])
    for mean, var in zip(means, variances, strict=True):
        average = losses.update_moments_average(average, Moments(mean, var), decay=0.7)
    return average


def _average_oracle(means, variances):
    return *_pooled(means, variances + means**2, [0.7**2, 0.7, 1]), 1 - 0.7**3


def _update_average(old_mean, old_var, weight, mean, var):
    return losses.update_moments_average(
        MomentsAverage(Moments(old_mean, old_var), weight), Moments(mean, var), decay=0.9
    )


def _update_average_oracle(old_mean, old_var, weight, mean, var):
    means, second = np.stack([old_mean, mean]), np.stack([old_var + old_mean**2, var + mean**2])
    return *_pooled(means, second, [0.9 * weight, 0.1]), 0.9 * weight + 0.1


def _queue(*batches):
    queue = losses.init_means_queue(7, 4)
    for batch in batches:
        queue = losses.update_means_queue(queue, batch)
    return queue


def _queued(*batches):
    return np.concatenate(batches[::-1])[:7]


def _queue_oracle(*batches):
    queued = _queued(*batches)
    return np.concatenate([queued, np.zeros((7 - len(queued), 4))]), len(queued)


def _lecam(real, fake):
    anchors = losses.init_lecam_anchors()
    for _ in range(3):
        penalty, anchors = losses.lecam_penalty(real, fake, anchors, decay=0.9)
        real, fake = 2 * real[::-1], -fake
    return penalty, anchors


def _lecam_oracle_at(real, fake):
    """Three batches; the anchors are the weighted averages of all logits up to and with the newest."""
    reals, fakes = [real, 2 * real[::-1], 4 * real], [fake, -fake, fake]
    anchors = [np.average([batch.mean() for batch in batches], weights=[0.9**2, 0.9, 1]) for batches in (reals, fakes)]

    def penalty(real, fake):
        return _each(lambda r, f: np.mean((4 * r - anchors[1]) ** 2 + (f - anchors[0]) ** 2))(real, fake)

    return lambda real, fake: (penalty(real, fake), *anchors, 1 - 0.9**3)


def _lecam_once_at(real, fake, old_real, old_fake, weight):
    new_weight = 0.99 * weight + 0.01
    new_real, new_fake = (
        (0.99 * weight * old + 0.01 * batch.mean()) / new_weight for old, batch in ((old_real, real), (old_fake, fake))
    )
    penalty = _each(lambda r, f: np.mean((r - new_fake) ** 2 + (f - new_real) ** 2))
    return lambda real, fake, *_: (penalty(real, fake), new_real, new_fake, new_weight)


def _lecam_once(real, fake, old_real, old_fake, weight):
    return losses.lecam_penalty(real, fake, LeCamAnchors(old_real, old_fake, weight), decay=0.99)


def _value_of(at):
    """The value, where ``at`` gives the function whose derivative is ours."""
    return lambda *arrays: at(*arrays)(*arrays)


def _linear(images, weights):
    weights = weights.astype(images.dtype)
    return images.reshape(len(images), -1) @ weights


def _quadratic(images, matrix):
    matrix, flat = matrix.astype(images.dtype), images.reshape(len(images), -1)
    return jnp.sum((flat @ matrix) * flat, axis=1)[:, None]


def _adaptive(a, b, c, d, **options):
    return losses.adaptive_generator_weight({"kernel": a, "bias": b}, {"kernel": c, "bias": d}, **options)


def _adaptive_oracle(a, b, c, d, delta=1e-6, maximum=1e4):
    lengths = [np.linalg.norm(np.concatenate([part.ravel() for part in parts])) for parts in ((a, b), (c, d))]
    return np.minimum(lengths[0] / (lengths[1] + delta), maximum)


KERNEL, BIAS = Argument("other", (3, 4)), Argument("other", (4,))


def _mmd(z, prior, scales=(0.1, 0.2, 0.5, 1, 2, 5, 10)):
    def kernel(a, b):
        return sum(2 * len(a) * s / (2 * len(a) * s + np.sum((a - b) ** 2)) for s in scales)

    def mean_of_pairs(codes):
        return np.mean([kernel(a, b) for i, a in enumerate(codes) for j, b in enumerate(codes) if i != j])

    return mean_of_pairs(z) + mean_of_pairs(prior) - 2 * np.mean([kernel(a, b) for a in z for b in prior])


def _dip(_, cov):
    pairs = [(i, j) for i in range(len(cov)) for j in range(len(cov)) if i != j]
    return sum(cov[pair] ** 2 for pair in pairs), sum((cov[i, i] - 1) ** 2 for i in range(len(cov)))


def _distance(x_hat, x):
    return jnp.sum(jnp.abs(x - x_hat) ** 3, axis=(1, 2, 3))


def _nll(family):
    return lambda x_hat, x, log_scale: _each(lambda x_hat, x, scale: -family.logpdf(x, x_hat, scale).sum())(
        x_hat, x, np.broadcast_to(np.exp(log_scale), x.shape)
    )


def _softplus(x):
    return -scipy.special.log_expit(-x)


def _real_and_fake(real_term, fake_term):
    return _each(lambda real, fake: np.mean(real_term(real)) + np.mean(fake_term(fake)))


CASES = {
    # Reconstructions and likelihoods.
    "l1_reconstruction": Case(losses.l1_reconstruction, _each(lambda a, b: np.mean(np.abs(b - a))), [IMAGES] * 2),
    "l2_reconstruction": Case(losses.l2_reconstruction, _each(lambda a, b: np.mean((b - a) ** 2)), [IMAGES] * 2),
    "l1_sum": Case(losses.l1_sum, _each(lambda a, b: np.sum(np.abs(b - a))), [IMAGES] * 2),
    "l2_sum": Case(losses.l2_sum, _each(lambda a, b: np.sum((b - a) ** 2)), [IMAGES] * 2),
    "perceptual_reconstruction": Case(
        lambda x_hat, x: losses.perceptual_reconstruction(x_hat, x, _distance),
        _each(lambda a, b: np.sum(np.abs(b - a) ** 3)),
        [IMAGES] * 2,
    ),
    "gaussian_nll": Case(losses.gaussian_nll, _nll(scipy.stats.norm), [IMAGES] * 2 + [Argument("log_scale", ())]),
    "gaussian_nll of a scale a pixel": Case(
        losses.gaussian_nll, _nll(scipy.stats.norm), [IMAGES] * 2 + [Argument("log_scale", IMAGES.shape)]
    ),
    "laplace_nll": Case(losses.laplace_nll, _nll(scipy.stats.laplace), [IMAGES] * 2 + [Argument("log_scale", ())]),
    "laplace_nll of a scale a pixel": Case(
        losses.laplace_nll, _nll(scipy.stats.laplace), [IMAGES] * 2 + [Argument("log_scale", IMAGES.shape)]
    ),
    "optimal_log_scale gaussian": Case(
        losses.optimal_log_scale, lambda a, b: np.log(scipy.stats.norm.fit((b - a).ravel(), floc=0)[1]), [IMAGES] * 2
    ),
    "optimal_log_scale laplace": Case(
        lambda x_hat, x: losses.optimal_log_scale(x_hat, x, kind="laplace"),
        lambda a, b: np.log(scipy.stats.laplace.fit((b - a).ravel(), floc=0)[1]),
        [IMAGES] * 2,
    ),
    # KL divergences in closed form.
    "gaussian_kl": Case(losses.gaussian_kl, _each(_posterior_kl), [MEANS, LOG_VARS]),
    "kl_by_dimension": Case(
        losses.kl_by_dimension,
        np.vectorize(lambda mean, log_var: _posterior_kl(np.array([mean]), np.array([log_var]))),
        [MEANS, LOG_VARS],
    ),
    "variance_regularizer": Case(losses.variance_regularizer, _each(_variance_kl), [LOG_VARS]),
    "variance_regularizer of another target": Case(
        lambda log_var: losses.variance_regularizer(log_var, target=0.3),
        _each(lambda log_var: _variance_kl(log_var, 0.3)),
        [LOG_VARS],
    ),
    "population_kl": Case(
        lambda mean, var: losses.population_kl(Moments(mean, var)),
        lambda mean, var: _kl(mean, np.diag(var)),
        [MEAN, VARIANCE],
    ),
    "population_kl of a covariance": Case(
        lambda mean, cov: losses.population_kl(CovarianceMoments(mean, cov)), _kl, [MEAN, COVARIANCE]
    ),
    "gaussian_total_correlation": Case(
        lambda mean, cov: losses.gaussian_total_correlation(CovarianceMoments(mean, cov)),
        lambda mean, cov: _kl(0 * mean, cov, np.diag(np.diag(cov))),
        [MEAN, COVARIANCE],
    ),
    # The mixture itself.
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
    # Moments of the population.
    "batch_moments means": Case(losses.batch_moments, lambda mean: (np.mean(mean, 0), np.var(mean, 0)), [MEANS]),
    "batch_moments mixture": Case(losses.batch_moments, _mixture_moments, [MEANS, LOG_VARS]),
    "batch_covariance means": Case(_shrunk_covariance, _covariance, [MEANS]),
    "batch_covariance mixture": Case(_shrunk_covariance, _covariance, [MEANS, LOG_VARS]),
    "batch_covariance not shrunk": Case(
        lambda mean: losses.batch_covariance(mean, shrinkage=0), lambda mean: _covariance(mean, shrinkage=0), [MEANS]
    ),
    "batch_covariance diagonal": Case(
        lambda mean: losses.batch_covariance(mean, shrinkage=1), lambda mean: _covariance(mean, shrinkage=1), [MEANS]
    ),
    "combine_moments": Case(
        lambda mean, var: losses.combine_moments(Moments(mean, var)),
        lambda mean, var: _pooled(mean, var + mean**2, None),
        [PARTS, PART_VARIANCES],
    ),
    "combine_moments weighted": Case(
        lambda mean, var, weights: losses.combine_moments(Moments(mean, var), weights),
        lambda mean, var, weights: _pooled(mean, var + mean**2, weights),
        [PARTS, PART_VARIANCES, Argument("weight", (3,))],
    ),
    "anchored_moments means": Case(
        lambda mean, var, *codes: losses.anchored_moments(Moments(mean, var), *codes),
        lambda mean, var, *_: (mean, var),
        [MEAN, VARIANCE, MEANS],
        _anchored_at,
    ),
    "anchored_moments mixture": Case(
        lambda mean, var, *codes: losses.anchored_moments(Moments(mean, var), *codes),
        lambda mean, var, *_: (mean, var),
        [MEAN, VARIANCE, MEANS, LOG_VARS],
        _anchored_at,
    ),
    "update_moments_average": Case(
        _update_average,
        _update_average_oracle,
        [MEAN, VARIANCE, WEIGHT, MEAN, VARIANCE],
        _constant(_update_average_oracle),
    ),
    "update_moments_average of three batches": Case(
        _average, _average_oracle, [PARTS, PART_VARIANCES], _constant(_average_oracle)
    ),
    "update_means_queue": Case(_queue, _queue_oracle, [PARTS] * 2, _constant(_queue_oracle)),
    "update_means_queue that is full": Case(_queue, _queue_oracle, [PARTS] * 3, _constant(_queue_oracle)),
    "queue_moments": Case(
        lambda means: losses.queue_moments(MeansQueue(means, jnp.int32(3))),
        lambda means: (np.mean(means[:3], 0), np.var(means[:3], 0)),
        [MEANS],
    ),
    "queue_moments mixture": Case(
        lambda means, log_var: losses.queue_moments(MeansQueue(means, jnp.int32(4)), log_var),
        lambda means, log_var: (np.mean(means[:4], 0), np.var(means[:4], 0) + np.mean(np.exp(log_var), 0)),
        [MEANS, LOG_VARS],
    ),
    # Whole objectives.
    "mixture_elbo": Case(
        losses.mixture_elbo,
        lambda rec, mean, log_var: _elbo(
            (5000, 1, 0.2), 1.0, _kl(mean.mean(0), np.diag(mean.var(0))), rec, mean, log_var
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
            (3, 0.7, 0.4), 0.5, _kl(mean.mean(0), np.diag(_mixture_moments(mean, log_var)[1])), rec, mean, log_var
        ),
        [ERRORS, MEANS, LOG_VARS],
    ),
    "mixture_elbo of moments": Case(
        lambda mean, cov, *arrays: losses.mixture_elbo(*arrays, moments=CovarianceMoments(mean, cov)),
        lambda mean, cov, *arrays: _elbo((5000, 1, 0.2), 1.0, _kl(mean, cov), *arrays),
        [MEAN, COVARIANCE, ERRORS, MEANS, LOG_VARS],
    ),
    "beta_vae": Case(
        losses.beta_vae, _each(lambda rec, mean, log_var: rec + _posterior_kl(mean, log_var)), [ERRORS, MEANS, LOG_VARS]
    ),
    "beta_vae of another beta": Case(
        lambda *arrays: losses.beta_vae(*arrays, beta=4.0),
        _each(lambda rec, mean, log_var: rec + 4 * _posterior_kl(mean, log_var)),
        [ERRORS, MEANS, LOG_VARS],
    ),
    # The method's relatives.
    "free_bits_kl": Case(
        lambda mean, log_var: losses.free_bits_kl(mean, log_var, free_nats=1.4),
        lambda mean, log_var: sum(
            max(1.4, np.mean([_posterior_kl(m, v) for m, v in zip(mean[:, [d]], log_var[:, [d]], strict=True)]))
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
    "batch_norm_kl_bound": Case(
        lambda mean, var: losses.batch_norm_kl_bound(Moments(mean, var)),
        lambda mean, var: _kl(mean, np.diag(1 + 0 * var)) + np.sum(var) / 2,
        [MEAN, VARIANCE],
    ),
    # The game with the discriminator.
    "discriminator_loss bce": Case(
        losses.discriminator_loss, _real_and_fake(lambda real: _softplus(-real), _softplus), [LOGITS] * 2
    ),
    "discriminator_loss hinge": Case(
        lambda real, fake: losses.discriminator_loss(real, fake, kind="hinge"),
        _real_and_fake(lambda real: np.maximum(0, 1 - real), lambda fake: np.maximum(0, 1 + fake)),
        [LOGITS] * 2,
    ),
    "discriminator_loss least_squares": Case(
        lambda real, fake: losses.discriminator_loss(real, fake, kind="least_squares"),
        _real_and_fake(lambda real: (real - 1) ** 2, np.square),
        [LOGITS] * 2,
    ),
    "generator_loss bce": Case(losses.generator_loss, _each(lambda fake: np.mean(_softplus(-fake))), [LOGITS]),
    "generator_loss hinge": Case(
        lambda fake: losses.generator_loss(fake, kind="hinge"), _each(lambda fake: -np.mean(fake)), [LOGITS]
    ),
    "generator_loss least_squares": Case(
        lambda fake: losses.generator_loss(fake, kind="least_squares"),
        _each(lambda fake: np.mean((fake - 1) ** 2)),
        [LOGITS],
    ),
    "r1_penalty of a linear discriminator": Case(
        lambda images, weights: losses.r1_penalty(lambda images: _linear(images, weights), images),
        lambda images, weights: np.full(5, np.sum(np.mean(weights, 1) ** 2)),
        [SMALL_IMAGES, Argument("other", (4, 3))],
    ),
    "r1_penalty of a quadratic discriminator": Case(
        lambda images, matrix: losses.r1_penalty(lambda images: _quadratic(images, matrix), images),
        lambda images, matrix: np.sum((images.reshape(5, -1) @ (matrix + matrix.T)) ** 2, 1),
        [SMALL_IMAGES, Argument("other", (4, 4))],
    ),
    "lecam_penalty": Case(
        _lecam_once,
        _value_of(_lecam_once_at),
        [LOGITS, LOGITS, Argument("anchor", ()), Argument("anchor", ()), WEIGHT],
        _lecam_once_at,
    ),
    "lecam_penalty of three batches": Case(_lecam, _value_of(_lecam_oracle_at), [LOGITS] * 2, _lecam_oracle_at),
    "adaptive_generator_weight": Case(
        _adaptive, _adaptive_oracle, [KERNEL, BIAS, KERNEL, BIAS], _constant(_adaptive_oracle)
    ),
    "adaptive_generator_weight at its maximum": Case(
        lambda *gradients: _adaptive(*gradients, delta=0.1, maximum=0.5),
        lambda *gradients: _adaptive_oracle(*gradients, delta=0.1, maximum=0.5),
        [KERNEL, BIAS, KERNEL, BIAS],
        _constant(lambda *gradients: np.float64(0.5)),
    ),
    # Diagnostics.
    "active_units": Case(
        lambda mean, var: losses.active_units(Moments(mean, var), threshold=1.0),
        lambda mean, var: sum(v > 1 for v in var),
        [MEAN, VARIANCE],
    ),
    "population_shape means": Case(
        losses.population_shape,
        lambda mean: (np.mean(mean, 0), np.var(mean, 0), scipy.stats.kurtosis(mean)),
        [MEANS],
    ),
    "population_shape mixture": Case(losses.population_shape, _kurtosis, [MEANS, LOG_VARS]),
}
