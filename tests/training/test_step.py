"""What one step does, on one device."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import flat
from small_runs import TINY
from step_cases import (
    BATCH,
    CAPTURE,
    largest_difference,
    random_images,
    random_state,
)

from rvae_jax.config import LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.models import make_models
from rvae_jax.storage.weights import evaluation_variables
from rvae_jax.training.draws import rows_of_batch
from rvae_jax.training.optimizer import make_optimizer
from rvae_jax.training.state import create_train_state
from rvae_jax.training.step import make_train_step


def test_average_of_weights():
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=False)
    state = random_state(vae, discriminator, CAPTURE, ema=True)
    step = jax.jit(make_train_step(vae, discriminator, CAPTURE, LossConfig(adversarial="none"), ema_decay=0.9))
    for number, decay in ((0, 0.1), (8, 0.5), (71, 72 / 81), (100, 0.9)):
        before = state.replace(step=np.int32(number))
        state = jax.device_get(step(before, random_images(), jax.random.key(0))[0])
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, before.ema_params, state.vae.params)
        assert largest_difference(state.ema_params, expected) <= 1e-6
        assert largest_difference(evaluation_variables(state.weights)["params"], state.vae.params) > 1e-6


def test_initial_state():
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    optimizer = make_optimizer(OptimizerConfig(), 9)
    create = jax.jit(functools.partial(create_train_state, vae, discriminator, optimizer, ema=True))
    first, again, other = (create(jax.random.key(seed)) for seed in (0, 0, 1))
    assert first.step == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    for name, kernel in flat(first.vae.params).items():
        assert name.endswith("kernel") != np.array_equal(kernel, flat(other.vae.params)[name])
    for average, weight in zip(jax.tree.leaves(first.ema_params), jax.tree.leaves(first.vae.params), strict=True):
        assert np.array_equal(average, weight)
        assert average.unsafe_buffer_pointer() != weight.unsafe_buffer_pointer()


def test_eager_initial_state_can_be_donated():
    network = types.SimpleNamespace(
        config=ModelConfig(image_shape=(1, 1, 1), latent_dim=1),
        init=lambda *_: {"params": {"kernel": jnp.ones(3)}, "batch_stats": {}},
    )
    state = create_train_state(network, None, optax.identity(), jax.random.key(0), ema=True)
    after = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)(state)
    assert np.array_equal(after.ema_params["kernel"], after.vae.params["kernel"])


@pytest.mark.usefixtures("strict_promotion")
def test_noise_is_a_function_of_key_and_step_and_place_in_the_batch():
    vae, _ = make_models(ModelConfig(**TINY), adversarial=False)
    state = random_state(vae, None, CAPTURE)
    shape = (BATCH, TINY["latent_dim"])

    @functools.partial(jax.jit, static_argnums=1)
    def noise(step_key, count):
        if count == 1:
            return rows_of_batch(jax.random.normal, step_key, shape, None)
        part = BATCH // count, shape[1]
        drawn = jax.vmap(lambda _: rows_of_batch(jax.random.normal, step_key, part, "batch"), axis_name="batch")
        return drawn(jnp.arange(count)).reshape(shape)

    keys = [jax.random.fold_in(jax.random.key(seed), step) for seed, step in ((0, 0), (0, 1), (0, 2), (1, 0))]
    alone = [np.asarray(noise(key, 1)) for key in keys]
    for count in (2, 8):
        np.testing.assert_array_equal([noise(key, count) for key in keys], alone)
    everything = np.ravel(alone)
    assert len(np.unique(everything)) > 0.99 * everything.size
    assert abs(everything.mean()) < 0.2
    assert everything.std() == pytest.approx(1, abs=0.15)

    step = jax.jit(make_train_step(vae, None, CAPTURE, LossConfig(adversarial="none")))
    errors = [
        float(
            step(state.replace(step=np.int32(number)), random_images(), jax.random.key(seed))[1]["loss/reconstruction"]
        )
        for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert errors[0] == errors[1]
    assert len(set(errors)) == 3


def test_overfits_one_batch():
    wider = {"encoder_filters": (16, 16), "decoder_filters": (16, 2), "encoder_identity_blocks": 1}
    vae, discriminator = make_models(ModelConfig(**TINY | wider), adversarial=True)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, schedule="cosine"), 300)
    state = random_state(vae, discriminator, optimizer)
    rows, columns = np.mgrid[-1:1:8j, -1:1:8j]
    planes = np.stack([np.ones((8, 8)), rows, columns], axis=-1)
    images = np.float32(planes @ np.random.default_rng(0).uniform(-0.3, 0.3, (BATCH, 1, 3, 2)))
    step = jax.jit(make_train_step(vae, discriminator, optimizer, LossConfig()))
    errors = []
    for _ in range(300):
        state, metrics = step(state, images, jax.random.key(0))
        errors.append(float(metrics["loss/reconstruction"]))
    assert state.step == 300
    assert np.mean(errors[-10:]) < 0.15 * errors[0]
    assert np.mean(errors[-10:]) < 0.4 * np.mean(np.abs(images - images.mean(0)))


def test_a_step_runs_the_vae_once_and_the_discriminator_twice(as_on):
    as_on("tpu")
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    state, x = random_state(vae, discriminator, CAPTURE), random_images()
    noise = jnp.zeros((BATCH, TINY["latent_dim"]))

    def convolutions(function, *arguments):
        text = jax.jit(function).lower(*arguments).compile().as_text()
        return text.count(" convolution(")

    in_vae = convolutions(vae.apply, state.vae.variables, x, noise)
    in_discriminator = convolutions(discriminator.apply, state.discriminator.variables, x)
    assert (in_vae, in_discriminator) == (6, 2)
    in_step = convolutions(make_train_step(vae, discriminator, CAPTURE, LossConfig()), state, x, jax.random.key(0))
    # Each convolution of the VAE: itself, and the gradients in its input (the normalised image has one too) and kernel.
    # Each of the discriminator: itself and its kernel's gradient for images and for reconstructions; its input's for
    # images, for reconstructions, and for the VAE, of which the first layer needs the last alone.
    assert in_step == 3 * in_vae + (4 + 3) * in_discriminator - 2
