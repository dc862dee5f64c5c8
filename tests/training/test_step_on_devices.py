"""The step is the same however the batch is split over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import relative_error
from small_runs import TINY
from step_cases import (
    BATCH,
    CAPTURE,
    assert_same_gradients,
    bytes_of,
    compiled_step,
    layout_of,
    random_images,
    random_state,
)

from rvae_jax.config import LossConfig, ModelConfig
from rvae_jax.distributed import sharding
from rvae_jax.hardware import cost
from rvae_jax.models import make_models
from rvae_jax.models.layers import Conv
from rvae_jax.training.step import make_train_step

SPLIT = "batch"


@functools.cache
def _trainer(norm, axis_name):
    model = ModelConfig(**TINY, norm=norm)
    vae, discriminator = make_models(model, adversarial=True, axis_name=axis_name)
    return make_train_step(vae, discriminator, CAPTURE, LossConfig()), random_state(vae, discriminator, CAPTURE)


@functools.cache
def _whole_batch(norm):
    step, state = _trainer(norm, None)
    return jax.device_get(jax.jit(step)(state, random_images(), jax.random.key(0)))


def _on_devices(step, state, count):
    """The step of ``count`` devices, each with its part of the batch."""
    mapped = jax.pmap(step, SPLIT, in_axes=(None, 0, None), devices=jax.devices()[:count])
    arguments = state, random_images().reshape(count, -1, *TINY["image_shape"]), jax.random.key(0)
    return jax.device_get(mapped(*arguments))


@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_without_axis_name_each_device_takes_another_step():
    _, expected = _whole_batch("frozen")
    _, metrics = _on_devices(*_trainer("frozen", None), 2)
    assert not np.allclose(np.mean(metrics["loss/population_kl"]), expected["loss/population_kl"], rtol=0.01)


@functools.cache
def _ten_steps(layout, norm="frozen", accumulate_steps=1):
    step, make_state, batch = compiled_step(layout, norm, accumulate_steps)
    state, rows = make_state(), []
    for _ in range(10):
        state, metrics = step(state, batch, jax.random.key(0))
        rows.append(jax.tree.map(float, metrics))
    return state, rows


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (layout_of("jit", 8), {}),
        (layout_of("pmap", 8), {}),
        (layout_of("jit", 4), {"norm": "batch"}),
        (layout_of("pmap", 2), {"norm": "batch"}),
        (layout_of("jit", 4), {"accumulate_steps": 2}),
        (layout_of("pmap", 4), {"accumulate_steps": 2}),
        (layout_of("jit", 2, shard_optimizer=True), {}),
    ],
    ids=lambda each: f"{each.style}-{each.mesh.size}" if isinstance(each, sharding.DataParallel) else "-".join(each),
)
@pytest.mark.usefixtures("strict_promotion")
def test_ten_steps_are_the_same_however_they_are_laid_out(layout, options):
    """With noise, which sits in the same place of the batch."""
    state, rows = _ten_steps(layout, **options)
    whole, expected = _ten_steps(layout_of("jit", 1), norm=options.get("norm", "frozen"))
    assert rows[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=2e-4, abs=1e-6)
    assert rows[9]["loss/total"] < 0.99 * rows[0]["loss/total"]
    for name in ("params", "batch_stats"):
        for player in ("vae", "discriminator"):
            ours, theirs = (getattr(getattr(each, player), name) for each in (state, whole))
            assert_same_gradients(jax.device_get(ours), jax.device_get(theirs))
    assert_same_gradients(jax.device_get(state.ema_params), jax.device_get(whole.ema_params))
    for leaf in jax.tree.leaves(state):
        if leaf.sharding.is_fully_replicated:
            replicas = [np.asarray(shard.data) for shard in leaf.addressable_shards]
            assert len(replicas) == layout.mesh.size
            assert all(np.array_equal(replica, replicas[0]) for replica in replicas)


def test_sharded_optimizer_takes_less_memory():
    layout = layout_of("jit", 2, shard_optimizer=True)
    state, _ = _ten_steps(layout)
    parts = [leaf for leaf in jax.tree.leaves(state.vae.opt_state) if not leaf.sharding.is_fully_replicated]
    assert len(parts) > 10
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 2 for leaf in parts)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((state.vae.params, state.ema_params)))
    # Each device passes on the part of the weights that it has updated.
    assert "all-gather" in compiled_step(layout)[0].as_text()


@pytest.mark.parametrize(("style", "most"), [("jit", 6), ("pmap", 7)])
def test_a_step_moves_its_gradients_once_and_little_else(style, most):
    compiled, make_state, _ = compiled_step(layout_of(style, 8))
    state = make_state()
    collectives = cost.collectives(compiled.as_text())
    assert {each.kind for each in collectives} == {"all-reduce"}
    assert len(collectives) <= most
    moments = 2 * 4 * TINY["latent_dim"]
    least = bytes_of((state.vae.params, state.discriminator.params)) + moments
    moved = sum(each.bytes for each in collectives)
    # The compiler of `jit` adds up the discriminator's gradients of images and of reconstructions after the reduction.
    twice = bytes_of(state.discriminator.params) if style == "jit" else 0
    assert least <= moved <= least + twice + 2 * moments + 4 * 32


@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_discriminators_statistics_follow_images_then_reconstructions():
    after, _ = _whole_batch("batch")
    _, state = _trainer("batch", None)
    vae, _ = make_models(ModelConfig(**TINY, norm="batch"), adversarial=True)
    apply = jax.jit(functools.partial(vae.apply, train=True, mutable=["batch_stats"]))
    result, _ = apply(state.vae.variables, random_images(), jnp.zeros((BATCH, TINY["latent_dim"])))
    weights = state.discriminator.params["layer_0"]["conv"]
    expected = state.discriminator.batch_stats["layer_0"]["bn"]
    mean, variance = np.asarray(expected["moving_mean"]), np.asarray(expected["moving_variance"])
    for images in (random_images(), result.x_hat):
        features = jax.jit(Conv(4, 2).apply)({"params": weights}, images)
        mean = 0.99 * mean + 0.01 * np.mean(features, (0, 1, 2))
        variance = 0.99 * variance + 0.01 * np.var(features, (0, 1, 2))
    ours = after.discriminator.batch_stats["layer_0"]["bn"]
    assert relative_error(ours["moving_mean"], mean) <= 2e-6
    assert relative_error(ours["moving_variance"], variance) <= 2e-6
