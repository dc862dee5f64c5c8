"""Small networks with weights, and what several tests of the networks need."""

import dataclasses

import jax
import jax.extend
import numpy as np
from reference import MODEL, relative_error, variables

from rvae_jax.models import VAE, Discriminator

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def networks(**changes):
    """The VAE and the discriminator of the recorded values."""
    config = dataclasses.replace(MODEL, **changes)
    return VAE(config), Discriminator(config)


def vae_variables():
    """The author's weights and statistics."""
    parts = {name: variables(f"{name}/") for name in ("encoder", "sampler", "decoder")}
    return {
        kind: {name: part[kind] for name, part in parts.items() if part[kind]} for kind in ("params", "batch_stats")
    }


def random_weights(network, *arguments):
    """Weights and statistics, with which no layer is the identity."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: network.init(key, *arguments), jax.random.key(0))
    return jax.tree.map(lambda leaf: (0.2 * rng.normal(size=leaf.shape) + (leaf.ndim == 1)).astype(np.float32), shapes)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(ours, theirs, tolerance):
    assert relative_error(ours, theirs) <= tolerance


def convolution_outputs(jaxpr):
    """Shape and type of every convolution's result."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.outvars[0].aval
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from convolution_outputs(inner)
