"""Every function in a training step of small networks, on one device or on several."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from cases import NO_ARRAYS

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, Moments

COUNT, FEATURES, LATENT, IMAGE, PATCHES = 16, 5, 4, (2, 2, 3), 6
KINDS = ("bce", "hinge", "least_squares")


def _normal(rng, *shape, scale=1.0, offset=0.0):
    return (offset + scale * rng.normal(size=shape)).astype(np.float32)


def _batch(seed):
    rng = np.random.default_rng(seed)
    return {
        "x": _normal(rng, COUNT, FEATURES, offset=0.3 * seed),
        "image": _normal(rng, COUNT, *IMAGE, scale=0.7),
        "noise": _normal(rng, COUNT, LATENT),
        "prior": _normal(rng, COUNT, LATENT),
    }


def _weights():
    rng = np.random.default_rng(10)
    return {
        "mean": _normal(rng, FEATURES, LATENT, scale=0.3),
        "log_var": _normal(rng, FEATURES, LATENT, scale=0.3, offset=-0.3),
        "x_hat": _normal(rng, FEATURES, np.prod(IMAGE), scale=0.3),
        "critic": _normal(rng, np.prod(IMAGE), PATCHES, scale=0.5),
        "log_scale": np.float32(-0.4),
    }


BATCHES, WEIGHTS = [_batch(seed) for seed in range(3)], _weights()
POPULATION = Moments(np.linspace(-1, 1, LATENT, dtype=np.float32), np.linspace(0.5, 2, LATENT, dtype=np.float32))


DIRECTIONS = _normal(np.random.default_rng(20), 3, LATENT, scale=0.6)
COVARIANCE = np.diag(POPULATION.var) + np.float32(0.1)


def apply_networks(weights, batch):
    def critic(images):
        return jnp.tanh(images.reshape(len(images), -1) @ weights["critic"])

    x_hat = jnp.tanh(batch["x"] @ weights["x_hat"]).reshape(-1, *IMAGE)
    mean, log_var = batch["x"] @ weights["mean"], batch["x"] @ weights["log_var"]
    return SimpleNamespace(
        **batch,
        mean=mean,
        log_var=log_var,
        conventions=[(mean,), (mean, log_var)],
        x_hat=x_hat,
        log_scale=weights["log_scale"],
        critic=critic,
        real=critic(batch["image"]),
        fake=critic(x_hat),
        with_decoder=lambda last: apply_networks(weights | {"x_hat": last}, batch),
        decoder=weights["x_hat"],
    )


def averaged(tree, axis):
    return tree if axis is None else jax.lax.pmean(tree, axis)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _combined_moments(codes, axis):
    halves = [tuple(code[start::2] for code in codes) for start in (0, 1)]
    return [
        losses.combine_moments(stacked([moments(*half, axis_name=axis) for half in halves]))
        for moments in (losses.batch_moments, functools.partial(losses.batch_covariance, shrinkage=0))
    ]


def _covariance(a, axis, shrinkage=0.1):
    return losses.batch_covariance(a.mean, a.log_var, shrinkage=shrinkage, axis_name=axis)


def mixture_elbo(a, axis, moments):
    weights = {"reconstruction_weight": 10.0, "population_weight": 2.0, "variance_weight": 0.5}
    reconstruction = losses.l1_reconstruction(a.x_hat, a.image)
    return losses.mixture_elbo(
        reconstruction, a.mean, a.log_var, moments=moments, variance_target=0.5, axis_name=axis, **weights
    )


def _adaptive_weight(a, axis):
    def gradient(loss):
        return jax.grad(lambda last: averaged(jnp.mean(loss(a.with_decoder(last))), axis))(a.decoder)

    reconstruction = gradient(lambda a: losses.l1_reconstruction(a.x_hat, a.image))
    generator = gradient(lambda a: losses.generator_loss(a.fake))
    return losses.adaptive_generator_weight(reconstruction, generator, delta=0.1, axis_name=axis)


def _moments_averages(a, states, axis):
    codes = [*a.conventions, a.conventions[1]]
    moments = [losses.batch_moments(*each, axis_name=axis) for each in a.conventions] + [_covariance(a, axis, 0)]
    states = [
        losses.update_moments_average(state, each, decay=0.8) for state, each in zip(states, moments, strict=True)
    ]
    return states, [
        (
            losses.anchored_moments(state.moments, *each, axis_name=axis),
            losses.codes_in_average(state, COUNT, decay=0.8),
        )
        for state, each in zip(states, codes, strict=True)
    ]


def _means_queue(a, state, axis):
    state = losses.update_means_queue(state, a.mean, axis_name=axis)
    return state, [
        losses.anchored_moments(losses.queue_moments(state, *codes[1:], axis_name=axis), *codes, axis_name=axis)
        for codes in a.conventions
    ]


def _lecam_penalty(a, state, axis):
    penalty, state = losses.lecam_penalty(a.real, a.fake, state, decay=0.8, axis_name=axis)
    return state, penalty


# Results that are equal on all devices; results of single images that depend on the batch; each in all variants.
STATISTICS = {
    "batch_moments": lambda a, axis: [losses.batch_moments(*codes, axis_name=axis) for codes in a.conventions],
    "batch_covariance": lambda a, axis: [
        losses.batch_covariance(*codes, shrinkage=0.1, axis_name=axis) for codes in a.conventions
    ],
    "combine_moments": lambda a, axis: [_combined_moments(codes, axis) for codes in a.conventions],
    "shrink_covariance": lambda a, axis: losses.shrink_covariance(_covariance(a, axis), 0.4),
    "anchored_moments": lambda a, axis: [
        losses.anchored_moments(population, *codes, axis_name=axis)
        for population in (POPULATION, CovarianceMoments(POPULATION.mean, COVARIANCE))
        for codes in a.conventions
    ],
    "population_kl": lambda a, axis: [
        *(losses.population_kl(losses.batch_moments(*codes, axis_name=axis)) for codes in a.conventions),
        losses.population_kl(_covariance(a, axis)),
    ],
    "gaussian_total_correlation": lambda a, axis: losses.gaussian_total_correlation(_covariance(a, axis)),
    "dip_penalty": lambda a, axis: losses.dip_penalty(_covariance(a, axis)),
    "mixture_elbo": lambda a, axis: [mixture_elbo(a, axis, moments) for moments in ("means", "mixture")],
    "free_bits_kl": lambda a, axis: losses.free_bits_kl(a.mean, a.log_var, free_nats=0.3, axis_name=axis),
    "imq_mmd": lambda a, axis: losses.imq_mmd(a.mean, a.prior, axis_name=axis),
    "sliced_normality": lambda a, axis: [
        losses.sliced_normality(a.mean, log_var, DIRECTIONS, axis_name=axis) for log_var in (None, a.log_var)
    ],
    "batch_norm_kl_bound": lambda a, axis: losses.batch_norm_kl_bound(losses.batch_moments(a.mean, axis_name=axis)),
    "active_units": lambda a, axis: losses.active_units(losses.batch_moments(a.mean, axis_name=axis), threshold=0.3),
    "latent_statistics": lambda a, axis: losses.latent_statistics(a.mean, a.log_var, axis_name=axis),
    "population_shape": lambda a, axis: [losses.population_shape(*codes, axis_name=axis) for codes in a.conventions],
    "optimal_log_scale": lambda a, axis: [
        losses.optimal_log_scale(a.x_hat, a.image, kind=kind, axis_name=axis) for kind in ("gaussian", "laplace")
    ],
    "adaptive_generator_weight": _adaptive_weight,
}


OF_IMAGES = {
    "mixture_kl": lambda a, axis: losses.mixture_kl(a.mean, a.log_var, a.noise, axis_name=axis),
    "mutual_information": lambda a, axis: losses.mutual_information(a.mean, a.log_var, a.noise, axis_name=axis),
    "kl_decomposition": lambda a, axis: [
        losses.kl_decomposition(a.mean, a.log_var, a.noise, dataset_size=100, weighting=weighting, axis_name=axis)
        for weighting in ("stratified", "weighted")
    ],
    "gaussian_nll": lambda a, axis: [
        losses.gaussian_nll(a.x_hat, a.image, log_scale)
        for log_scale in (a.log_scale, losses.optimal_log_scale(a.x_hat, a.image, axis_name=axis))
    ],
    "laplace_nll": lambda a, axis: [
        losses.laplace_nll(a.x_hat, a.image, log_scale)
        for log_scale in (a.log_scale, losses.optimal_log_scale(a.x_hat, a.image, kind="laplace", axis_name=axis))
    ],
}


# With state from step to step: the initial state, and a function of it.
STATISTICS_WITH_STATE = {
    "update_moments_average, codes_in_average": (
        [losses.init_moments_average(LATENT, covariance=full) for full in (False, False, True)],
        _moments_averages,
    ),
    "update_means_queue, queue_moments": (losses.init_means_queue(40, LATENT), _means_queue),
}


OF_IMAGES_WITH_STATE = {"lecam_penalty": (losses.init_lecam_anchors(), _lecam_penalty)}


# Results that depend on a single image.
OF_SINGLE_IMAGES = {
    "l1_reconstruction": lambda a: losses.l1_reconstruction(a.x_hat, a.image),
    "l1_sum": lambda a: losses.l1_sum(a.x_hat, a.image),
    "l2_sum": lambda a: losses.l2_sum(a.x_hat, a.image),
    "l2_reconstruction": lambda a: losses.l2_reconstruction(a.x_hat, a.image),
    "perceptual_reconstruction": lambda a: losses.perceptual_reconstruction(
        a.x_hat, a.image, lambda x_hat, x: jnp.mean(jnp.square(jnp.sin(x_hat) - jnp.sin(x)), axis=(1, 2, 3))
    ),
    "gaussian_kl": lambda a: losses.gaussian_kl(a.mean, a.log_var),
    "kl_by_dimension": lambda a: losses.kl_by_dimension(a.mean, a.log_var),
    "variance_regularizer": lambda a: losses.variance_regularizer(a.log_var, target=0.5),
    "beta_vae": lambda a: losses.beta_vae(losses.l2_reconstruction(a.x_hat, a.image), a.mean, a.log_var, beta=2.0),
    "discriminator_loss": lambda a: [losses.discriminator_loss(a.real, a.fake, kind=kind) for kind in KINDS],
    "fake_loss": lambda a: [losses.fake_loss(a.fake, kind=kind) for kind in KINDS],
    "generator_loss": lambda a: [losses.generator_loss(a.fake, kind=kind) for kind in KINDS],
    "r1_penalty": lambda a: losses.r1_penalty(a.critic, a.image),
}


WITHOUT_GRADIENT = {"active_units", "adaptive_generator_weight", "latent_statistics"}
OF_NO_BATCH = NO_ARRAYS | {"correlation_shrinkage"}


WITH_STATE = STATISTICS_WITH_STATE | OF_IMAGES_WITH_STATE
OF_BATCH = [*STATISTICS, *OF_IMAGES, *WITH_STATE]


CASES = [*OF_BATCH, *OF_SINGLE_IMAGES]
INITIAL_STATES = {name: state for name, (state, _) in WITH_STATE.items()}
