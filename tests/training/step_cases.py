"""Training steps of tiny networks, and how two of them are compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reference import relative_error
from small_runs import TINY

from rvae_jax.config import LossConfig, ModelConfig
from rvae_jax.distributed import sharding
from rvae_jax.models import make_models
from rvae_jax.training import code_terms
from rvae_jax.training.state import Player, TrainState, create_train_state
from rvae_jax.training.step import make_train_step

BATCH = 8


# Gradient descent that leaves the gradient in its state.
CAPTURE = optax.GradientTransformation(
    lambda params: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params),
    lambda gradients, state, params=None: (jax.tree.map(lambda gradient: -1e-4 * gradient, gradients), gradients),
)


def random_state(vae, discriminator, optimizer, *, ema=False, running=None):
    """A state with random weights and statistics, of which none makes a layer the identity."""
    rng = np.random.default_rng(0)
    create = functools.partial(create_train_state, vae, discriminator, optimizer, ema=ema)
    shapes = jax.eval_shape(create, jax.random.key(0))

    def weight(path, leaf):
        scale = 0.3 if leaf.ndim < 2 else 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        centre = path[-1].key in ("gamma", "moving_variance")
        return (centre + scale * rng.normal(size=leaf.shape)).astype(np.float32)

    def player(shapes):
        weights = jax.tree_util.tree_map_with_path(weight, shapes.variables)
        return Player(weights["params"], weights["batch_stats"], optimizer.init(weights["params"]))

    vae = player(shapes.vae)
    return TrainState(
        step=np.int32(0),
        vae=vae,
        discriminator=None if shapes.discriminator is None else player(shapes.discriminator),
        ema_params=jax.tree.map(np.zeros_like, vae.params) if ema else None,
        running=running or {},
    )


def random_images(shape=(BATCH, *TINY["image_shape"]), seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def captured_step(loss, steps=(0,)):
    """Metrics and both players' gradients of a step, for given numbers of the step."""
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=loss.adversarial != "none")
    state = random_state(vae, discriminator, CAPTURE)
    state = state.replace(running=code_terms.first_running(loss, TINY["latent_dim"]))
    step = jax.jit(make_train_step(vae, discriminator, CAPTURE, loss))
    results = []
    for number in steps:
        after, metrics = step(state.replace(step=np.int32(number)), random_images(), jax.random.key(0))
        results.append((metrics, after.vae.opt_state, after.discriminator and after.discriminator.opt_state))
    return jax.device_get(results)


def largest_difference(ours, theirs):
    return max(map(relative_error, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


OPTIONS = {
    "hinge": (
        LossConfig(adversarial="hinge", adversarial_weight=7.0),
        {0: {"reconstruction": 5000, "population_kl": 1, "variance_regularizer": 0.2, "adversarial": 7}},
    ),
    "standard": (
        LossConfig(kl="standard", beta=3.0, adversarial="none", reconstruction_weight=10.0, kl_ramp=2),
        {0: {"reconstruction": 10, "standard_kl": 1.5}, 1: {"reconstruction": 10, "standard_kl": 3}},
    ),
    "mixture, with ramps": (
        LossConfig(
            moments="mixture",
            adversarial="least_squares",
            variance_target=0.3,
            population_weight=2.0,
            variance_weight=4.0,
            kl_start=2,
            kl_ramp=4,
            adversarial_start=3,
            adversarial_ramp=2,
        ),
        {
            1: {"reconstruction": 5000, "population_kl": 0, "variance_regularizer": 0, "adversarial": 0},
            3: {"reconstruction": 5000, "population_kl": 1, "variance_regularizer": 2, "adversarial": 50},
            9: {"reconstruction": 5000, "population_kl": 2, "variance_regularizer": 4, "adversarial": 100},
        },
    ),
}


def assert_same_gradients(ours, theirs):
    """Entry for entry; a bias before a batch norm has no gradient but rounding."""
    largest = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(theirs))
    for mine, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.max(np.abs(mine - their)) <= 2e-5 * np.max(np.abs(their)) + 3e-6 * largest


def layout_of(style, count, **options):
    return sharding.data_parallel(style, devices=jax.devices()[:count], **options)


@functools.cache
def compiled_step(layout, norm="frozen", accumulate_steps=1, batch_size=2 * BATCH):
    """The step for a layout, what makes a state on its devices, and a batch."""
    networks = make_models(ModelConfig(**TINY, norm=norm), adversarial=True, axis_name=layout.axis_name)
    step = make_train_step(*networks, CAPTURE, LossConfig(), ema_decay=0.9, accumulate_steps=accumulate_steps)

    def make_state():
        state = jax.tree.map(jnp.asarray, random_state(*networks, CAPTURE, ema=True))
        return jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), state, layout.with_shardings(state))

    (batch,) = layout.to_devices([random_images((batch_size, *TINY["image_shape"]))])
    lowered = layout.lower(step, make_state(), batch, jax.random.key(0))
    return lowered.compile(compiler_options=layout.compiler_options), make_state, batch


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
