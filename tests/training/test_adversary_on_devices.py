"""The discriminator's side is the same however the batch is split over devices and parts."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from adversary_cases import EVERYTHING, SEES_FEATURES, frozen_weights, make_step
from small_runs import TINY
from step_cases import BATCH, assert_same_gradients, layout_of, random_images

from rvae_jax.distributed import sharding
from rvae_jax.hardware import cost


@functools.cache
def _compiled(layout, accumulate_steps=1, discriminator="patch"):
    model, loss = TINY, EVERYTHING
    if discriminator != "patch":
        model = SEES_FEATURES | {"discriminator": discriminator}
        share = EVERYTHING.prior_fakes if discriminator.startswith("patch") else 0.0  # with samples, and without
        loss = dataclasses.replace(EVERYTHING, r1_weight=0.0, prior_fakes=share, discriminator_crop=6, clip=True)
    step, state = make_step(loss, layout.axis_name, accumulate_steps, model)
    on_devices = layout.with_shardings(state)
    state = jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), state, on_devices)
    (batch,) = layout.to_devices([random_images((2 * BATCH, *model["image_shape"]))])
    frozen = () if discriminator == "patch" else (jax.device_put(frozen_weights(), layout.replicated),)
    lowered = layout.lower(step, on_devices, batch, jax.random.key(0), *frozen)
    return lowered.compile(compiler_options=layout.compiler_options), state, (batch, jax.random.key(0), *frozen)


@functools.cache
def _two_steps(layout, accumulate_steps=1, discriminator="patch"):
    step, state, inputs = _compiled(layout, accumulate_steps, discriminator)
    state = jax.tree.map(lambda leaf: leaf + 0, state)  # a copy, since the step donates it
    rows = []
    for _ in range(2):
        state, metrics = step(state, *inputs)
        rows.append(jax.tree.map(float, metrics))
    return state, rows


@pytest.mark.parametrize(
    ("layout", "accumulate_steps", "discriminator"),
    [
        (layout_of("jit", 8), 1, "patch"),
        (layout_of("pmap", 8), 1, "patch"),
        (layout_of("jit", 2), 4, "patch"),
        (layout_of("pmap", 2), 4, "patch"),
        (layout_of("pmap", 2), 2, "patch+vgg16"),
        (layout_of("pmap", 2), 2, "vgg16"),
    ],
    ids=lambda each: f"{each.style}-{each.mesh.size}" if isinstance(each, sharding.DataParallel) else str(each),
)
@pytest.mark.usefixtures("strict_promotion")
def test_steps_are_the_same_however_they_are_laid_out(layout, accumulate_steps, discriminator):
    state, rows = _two_steps(layout, accumulate_steps, discriminator)
    whole, expected = _two_steps(layout_of("jit", 1), discriminator=discriminator)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=2e-5, abs=1e-6)
    for player in ("vae", "discriminator"):
        ours, theirs = (jax.device_get(getattr(each, player).opt_state) for each in (state, whole))
        assert_same_gradients(ours, theirs)
    ours, theirs = (jax.tree.leaves(jax.device_get(each.running)) for each in (state, whole))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    for leaf in jax.tree.leaves(state):
        replicas = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert all(np.array_equal(replica, replicas[0]) for replica in replicas)


def test_samples_are_decoded_by_the_device_whose_share_they_are():
    compiled = [_compiled(layout_of("jit", count))[0] for count in (1, 8)]
    whole, part = (cost.cost_of(each) for each in compiled)
    assert {each.kind for each in cost.collectives(compiled[1].as_text())} == {"all-reduce"}
    assert part.flops < 1.2 * whole.flops / 8
