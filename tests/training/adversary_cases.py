"""Objectives that use what the discriminator's side has, and their states."""

import dataclasses
import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from small_runs import TINY
from step_cases import BATCH, CAPTURE, random_images, random_state

from rvae_jax import losses
from rvae_jax.config import LossConfig, ModelConfig
from rvae_jax.models import make_models
from rvae_jax.storage.feature_weights import load_feature_weights
from rvae_jax.training import adversary
from rvae_jax.training.step import make_train_step

BASE = LossConfig(adversarial="hinge", adversarial_weight=300.0, reconstruction_weight=50.0)
# Of a discriminator that also sees the first two stages of VGG.
SEES_FEATURES = TINY | {
    "image_shape": (8, 8, 3),
    "decoder_filters": (6, 3),
    "discriminator": "patch+vgg16",
    "discriminator_stages": 2,
}
PRIOR = dataclasses.replace(BASE, prior_fakes=0.25)
ADAPTIVE = dataclasses.replace(PRIOR, adversarial_weight=0.5, adaptive_weight=True)
STEADY = {"r1_weight": 0.3, "r1_every": 4, "lecam_weight": 0.2}
ANCHORS = losses.LeCamAnchors(np.float32(0.3), np.float32(-0.2), np.float32(0.5))
LENGTHS = {"reconstruction": np.float32(3.0), "adversarial": np.float32(0.02)}


@functools.cache
def frozen_weights():
    return {"vgg16": load_feature_weights("vgg16", 2)}


def running_of(loss):
    """Running statistics as in the middle of a run."""
    running = adversary.first_running(loss)
    if loss.adaptive_weight:
        running["adversarial_ratio"] = LENGTHS
    if loss.lecam_weight:
        running["lecam"] = ANCHORS
    return running


def make_step(loss, axis_name=None, accumulate_steps=1, model=MappingProxyType({})):
    """The step of the tiny networks, and its state."""
    networks = make_models(ModelConfig(**TINY | model), adversarial=True, axis_name=axis_name)
    state = random_state(*networks, CAPTURE, running=running_of(loss))
    return make_train_step(*networks, CAPTURE, loss, accumulate_steps=accumulate_steps), state


def one_step(loss):
    """State and metrics after one step."""
    step, state = make_step(loss)
    return jax.device_get(jax.jit(step)(state, random_images(), jax.random.key(0)))


def networks_results(loss, state, params, x, noise, prior):
    """Posterior, fakes and logits of the tiny networks, each by a pass of its own."""
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    variables = {"params": params["vae"], "batch_stats": state.vae.batch_stats}
    x_hat, mean, log_var = vae.apply(variables, x, noise)
    samples = vae.apply(variables, prior, method="decode")

    def logits(images):
        stats = state.discriminator.batch_stats
        return discriminator.apply({"params": params["discriminator"], "batch_stats": stats}, images)

    return (x_hat, mean, log_var), [logits(images) for images in (x, x_hat, samples)]


def noises(share):
    """The noise of the codes of the first step, and its codes from the prior."""
    key = jax.random.fold_in(jax.random.key(0), 0)
    count = round(share * BATCH)
    prior = jax.random.normal(jax.random.fold_in(key, 1), (count, TINY["latent_dim"]))
    return jax.random.normal(key, (BATCH, TINY["latent_dim"])), jnp.asarray(prior)


# All of it at once.
EVERYTHING = dataclasses.replace(ADAPTIVE, prior_fakes=0.5, augment=0.5, **STEADY)
