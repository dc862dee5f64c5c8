"""A run whose first steps have no discriminator, and no perceptual term."""

import shutil

import jax
import numpy as np
import pytest
from run_cases import assert_documented, assert_same_run, losses_by_step, read_items
from small_runs import tiny_config

from rvae_jax.config import replace_fields, without_texture
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics
from rvae_jax.training.program import make_program

pytestmark = pytest.mark.usefixtures("one_device")

ALL_DEVICES = jax.devices()
GAME = {"adversarial": "hinge", "adversarial_start": 0.5, "adaptive_weight": True, "lecam_weight": 0.1}
TEXTURE = {f"loss.{name}": value for name, value in GAME.items()} | {"loss.texture_start": 0.5}


def config(data_dir, **changes):
    return replace_fields(
        tiny_config(data_dir, steps=8, eval_every=2, log_every=3, keep_checkpoints=9), TEXTURE | changes
    )


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    train(config(data_dir), workdir)
    return workdir


def test_before_it_the_run_is_the_one_without_texture(whole, data_dir, tmp_path):
    train(replace_fields(without_texture(config(data_dir)), {"steps": 4}), tmp_path)
    ours, alone = read_items(whole, 4), read_items(tmp_path, 4)
    for name in ("vae", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, ours["weights"][name], alone["weights"][name])
    untrained = read_items(whole, 2)["weights"]["discriminator"]["params"]
    jax.tree.map(np.testing.assert_array_equal, ours["weights"]["discriminator"]["params"], untrained)


def test_after_it_both_players_are_trained(whole):
    before, after = (read_items(whole, step)["weights"] for step in (4, 6))
    for player in ("vae", "discriminator"):
        changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), before[player]["params"], after[player]["params"])
        assert min(jax.tree.leaves(changes)) > 0, changes


def test_metrics_are_those_that_were_computed(whole):
    rows = {row["step"]: row for row in read_metrics(whole) if "loss/total" in row}
    assert {step: "loss/adversarial" in row for step, row in rows.items()} == {
        2: False,
        3: False,
        4: False,
        6: True,
        8: True,
    }
    assert_documented(read_metrics(whole))


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_resume_is_bit_exact_on_either_side_of_it(whole, data_dir, tmp_path, capsys, stop):
    part = shutil.copytree(whole, tmp_path / "part")
    for step in Checkpoints(part, read_only=True).steps():
        if step > stop:
            shutil.rmtree(part / "checkpoints" / str(step))
    train(config(data_dir), part)
    assert_same_run(whole, part, 8)
    assert ("to step 4, where texture starts" in capsys.readouterr().out) == (stop < 4)


def test_several_devices_train_as_one(whole, data_dir, tmp_path):
    train(config(data_dir, shard_optimizer=True), tmp_path, devices=ALL_DEVICES[:2])
    ours, theirs = losses_by_step(tmp_path), losses_by_step(whole)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)


def test_the_first_step_leaves_the_discriminator_alone(data_dir):
    program = make_program(config(data_dir))
    state = program.create_state(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), np.uint8)
    after, metrics = jax.jit(program.first_train_step)(state, images, jax.random.key(2))
    assert not any("discriminator" in name for name in metrics)
    jax.tree.map(np.testing.assert_array_equal, after.discriminator, state.discriminator)
    jax.tree.map(np.testing.assert_array_equal, after.running, state.running)
