"""Accumulation and rematerialisation take the same step in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import TINY
from step_cases import (
    BATCH,
    CAPTURE,
    OPTIONS,
    assert_same_gradients,
    bytes_of,
    compiled_step,
    largest_difference,
    layout_of,
    random_images,
    random_state,
)

from rvae_jax.config import LossConfig, ModelConfig
from rvae_jax.hardware import cost
from rvae_jax.models import make_models
from rvae_jax.training.step import make_train_step


@pytest.mark.parametrize("name", ["standard", "mixture, with ramps"])
def test_accumulation_has_the_gradient_of_the_whole_batch(name):
    loss, weights_at = OPTIONS[name]
    networks = make_models(ModelConfig(**TINY), adversarial=loss.adversarial != "none")
    state = random_state(*networks, CAPTURE).replace(step=np.int32(max(weights_at)))
    whole, parts = (
        jax.device_get(
            jax.jit(make_train_step(*networks, CAPTURE, loss, accumulate_steps=count))(
                state, random_images(), jax.random.key(0)
            )
        )
        for count in (1, 4)
    )
    assert jax.tree.map(float, parts[1]) == pytest.approx(jax.tree.map(float, whole[1]), rel=1e-5)
    ours, theirs = (
        [each.vae.opt_state, each.discriminator and each.discriminator.opt_state] for each, _ in (parts, whole)
    )
    assert_same_gradients(ours, theirs)


def test_accumulation_takes_less_memory_for_little_more_work():
    whole, parts = (
        cost.cost_of(compiled_step(layout_of("jit", 1), accumulate_steps=count, batch_size=64)[0], loop_steps=count)
        for count in (1, 8)
    )
    assert parts.temporary < 0.4 * whole.temporary
    assert whole.flops < parts.flops < 1.5 * whole.flops


def test_accumulation_moves_its_gradients_once_with_pmap():
    compiled, make_state, _ = compiled_step(layout_of("pmap", 4), accumulate_steps=2)
    state = make_state()
    collectives = cost.collectives(compiled.as_text())
    once = sum(each.bytes for each in collectives if not each.in_loop)
    assert once >= bytes_of((state.vae.params, state.discriminator.params))
    assert sum(each.bytes for each in collectives if each.in_loop) <= 4 * 16


DEEPER = TINY | {
    "encoder_filters": (4, 4, 6),
    "decoder_filters": (6, 4, 2),
    "encoder_identity_blocks": 1,
    "decoder_identity_blocks": 1,
}


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.usefixtures("strict_promotion")
def test_rematerialisation_takes_the_same_step_of_the_same_state(norm):
    found = []
    for stages in (0, 2):
        networks = make_models(ModelConfig(**DEEPER, norm=norm), adversarial=False, remat_stages=stages)
        step = jax.jit(make_train_step(*networks, CAPTURE, LossConfig(adversarial="none")))
        state = random_state(*networks, CAPTURE)
        found.append((state, *jax.device_get(step(state, random_images(), jax.random.key(0)))))
    (before, plain, plain_metrics), (before_remat, remat, metrics) = found
    assert jax.tree.structure(before_remat) == jax.tree.structure(before)
    assert jax.tree.map(float, metrics) == pytest.approx(jax.tree.map(float, plain_metrics), rel=1e-5)
    assert_same_gradients(remat.vae.opt_state, plain.vae.opt_state)
    assert largest_difference(remat.vae.batch_stats, plain.vae.batch_stats) <= 2e-6
    assert (largest_difference(remat.vae.batch_stats, before.vae.batch_stats) > 0.01) == (norm == "batch")


def test_rematerialised_stages_keep_the_inputs_of_their_blocks_alone():
    def kept(stages):
        vae, _ = make_models(ModelConfig(**DEEPER), adversarial=False, remat_stages=stages)
        images, noise = random_images(), jnp.zeros((BATCH, DEEPER["latent_dim"]))
        variables = jax.eval_shape(vae.init, jax.random.key(0), images, noise)
        _, backward = jax.eval_shape(lambda *arguments: jax.vjp(vae.apply, *arguments), variables, images, noise)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward) if leaf.shape[:1] == (BATCH,))

    # Of 8x8 images with 4 channels, four bytes each: two blocks, in two stages, of which the second are of 4x4.
    block = BATCH * 8 * 8 * 4 * 4
    assert kept(0) - kept(1) > 8 * block
    assert kept(1) - kept(2) > 2 * block


def test_accumulation_with_batch_norm_is_refused():
    networks = make_models(ModelConfig(**TINY, norm="batch"), adversarial=True)
    with pytest.raises(ValueError, match="accumulate_steps=2 is exact with norm='frozen' only"):
        make_train_step(*networks, CAPTURE, LossConfig(), accumulate_steps=2)
