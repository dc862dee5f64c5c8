"""Reconstructions, likelihoods, and the game with the discriminator."""

import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
from case_parts import IMAGES, LOGITS, SMALL_IMAGES, WEIGHT, Argument, Case, constant, each, value_of

from rvae_jax import losses
from rvae_jax.losses import LeCamAnchors


def _distance(x_hat, x):
    return jnp.sum(jnp.abs(x - x_hat) ** 3, axis=(1, 2, 3))


def _nll(family):
    return lambda x_hat, x, log_scale: each(lambda x_hat, x, scale: -family.logpdf(x, x_hat, scale).sum())(
        x_hat, x, np.broadcast_to(np.exp(log_scale), x.shape)
    )


def _softplus(x):
    return -scipy.special.log_expit(-x)


def _real_and_fake(real_term, fake_term):
    return each(lambda real, fake: np.mean(real_term(real)) + np.mean(fake_term(fake)))


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
        return each(lambda r, f: np.mean((4 * r - anchors[1]) ** 2 + (f - anchors[0]) ** 2))(real, fake)

    return lambda real, fake: (penalty(real, fake), *anchors, 1 - 0.9**3)


def _lecam_once_at(real, fake, old_real, old_fake, weight):
    new_weight = 0.99 * weight + 0.01
    new_real, new_fake = (
        (0.99 * weight * old + 0.01 * batch.mean()) / new_weight for old, batch in ((old_real, real), (old_fake, fake))
    )
    penalty = each(lambda r, f: np.mean((r - new_fake) ** 2 + (f - new_real) ** 2))
    return lambda real, fake, *_: (penalty(real, fake), new_real, new_fake, new_weight)


def _lecam_once(real, fake, old_real, old_fake, weight):
    return losses.lecam_penalty(real, fake, LeCamAnchors(old_real, old_fake, weight), decay=0.99)


RECONSTRUCTIONS = {
    "l1_reconstruction": Case(losses.l1_reconstruction, each(lambda a, b: np.mean(np.abs(b - a))), [IMAGES] * 2),
    "l2_reconstruction": Case(losses.l2_reconstruction, each(lambda a, b: np.mean((b - a) ** 2)), [IMAGES] * 2),
    "l1_sum": Case(losses.l1_sum, each(lambda a, b: np.sum(np.abs(b - a))), [IMAGES] * 2),
    "l2_sum": Case(losses.l2_sum, each(lambda a, b: np.sum((b - a) ** 2)), [IMAGES] * 2),
    "perceptual_reconstruction": Case(
        lambda x_hat, x: losses.perceptual_reconstruction(x_hat, x, _distance),
        each(lambda a, b: np.sum(np.abs(b - a) ** 3)),
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
}

ADVERSARIAL = {
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
    "fake_loss bce": Case(losses.fake_loss, each(lambda fake: np.mean(_softplus(fake))), [LOGITS]),
    "fake_loss hinge": Case(
        lambda fake: losses.fake_loss(fake, kind="hinge"), each(lambda fake: np.mean(np.maximum(0, 1 + fake))), [LOGITS]
    ),
    "fake_loss least_squares": Case(
        lambda fake: losses.fake_loss(fake, kind="least_squares"), each(lambda fake: np.mean(fake**2)), [LOGITS]
    ),
    "generator_loss bce": Case(losses.generator_loss, each(lambda fake: np.mean(_softplus(-fake))), [LOGITS]),
    "generator_loss hinge": Case(
        lambda fake: losses.generator_loss(fake, kind="hinge"), each(lambda fake: -np.mean(fake)), [LOGITS]
    ),
    "generator_loss least_squares": Case(
        lambda fake: losses.generator_loss(fake, kind="least_squares"),
        each(lambda fake: np.mean((fake - 1) ** 2)),
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
        value_of(_lecam_once_at),
        [LOGITS, LOGITS, Argument("anchor", ()), Argument("anchor", ()), WEIGHT],
        _lecam_once_at,
    ),
    "lecam_penalty of three batches": Case(_lecam, value_of(_lecam_oracle_at), [LOGITS] * 2, _lecam_oracle_at),
    "adaptive_generator_weight": Case(
        _adaptive, _adaptive_oracle, [KERNEL, BIAS, KERNEL, BIAS], constant(_adaptive_oracle)
    ),
    "adaptive_generator_weight at its maximum": Case(
        lambda *gradients: _adaptive(*gradients, delta=0.1, maximum=0.5),
        lambda *gradients: _adaptive_oracle(*gradients, delta=0.1, maximum=0.5),
        [KERNEL, BIAS, KERNEL, BIAS],
        constant(lambda *gradients: np.float64(0.5)),
    ),
}
