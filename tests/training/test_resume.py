"""Resuming a run, in one process."""

import shutil

import pytest
from run_cases import assert_documented, assert_same_run, losses_by_step, read_items
from small_runs import tiny_config

from rvae_jax.errors import UserError
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


def test_a_finished_run_is_left_as_it_is(finished, data_dir, capsys):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_text()
    assert train(tiny_config(data_dir), workdir) is None
    assert "is finished: 8 of 8 steps" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_text() == before


def test_resume_is_bit_exact(finished, data_dir, tmp_path):
    workdir, _ = finished
    half = shutil.copytree(workdir, tmp_path / "half")
    shutil.rmtree(half / "checkpoints" / "8")
    train(tiny_config(data_dir), half)
    assert_same_run(workdir, half, 8)
    assert losses_by_step(half) == losses_by_step(workdir)
    assert [row["step"] for row in read_metrics(half) if "loss/total" in row] == [2, 4, 6, 8]


def test_running_statistics_of_the_game_are_resumed(data_dir, tmp_path, capsys):
    game = {"adversarial": "hinge", "prior_fakes": 0.5, "adaptive_weight": True, "lecam_weight": 0.1, "augment": 0.5}
    config = tiny_config(data_dir, steps=4, eval_every=2, **{f"loss.{name}": value for name, value in game.items()})
    whole = tmp_path / "whole"
    train(config, whole)
    half = shutil.copytree(whole, tmp_path / "half")
    shutil.rmtree(half / "checkpoints" / "4")
    train(config, half)
    assert_same_run(whole, half, 4)
    items = read_items(whole, 4)["training"]["running"]
    assert items["adversarial_ratio"]["reconstruction"] > 0
    assert items["lecam"]["weight"] == pytest.approx(1 - 0.99**4)
    assert_documented(read_metrics(whole))


def test_fields_that_change_no_step_may_differ_on_resume(finished, data_dir, tmp_path):
    shutil.copytree(finished[0], tmp_path / "longer")
    train(tiny_config(data_dir, steps=9, remat_stages=1), tmp_path / "longer")
    assert Checkpoints(tmp_path / "longer", read_only=True).steps()[-1] == 9


def test_another_configuration_is_refused_by_field(finished, data_dir):
    workdir, _ = finished
    config = tiny_config(data_dir, seed=3, **{"model.latent_dim": 24})
    with pytest.raises(UserError, match=r"seed is 0 there and 3 here, model.latent_dim is 16 there and 24 here"):
        train(config, workdir)


def test_unreadable_checkpoint_falls_back_to_the_one_before(finished, data_dir, tmp_path, capsys):
    intact, damaged = (shutil.copytree(finished[0], tmp_path / name) for name in ("intact", "damaged"))
    damage(damaged / "checkpoints" / "8")
    for workdir in (intact, damaged):
        train(tiny_config(data_dir, steps=9), workdir)
    assert "8 is unreadable" in capsys.readouterr().out
    assert (damaged / "checkpoints" / "8.unreadable").is_dir()
    assert_same_run(intact, damaged, 9)


def test_no_readable_checkpoint_is_an_error(finished, data_dir, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "damaged")
    for step in (4, 8):
        damage(workdir / "checkpoints" / str(step))
    with pytest.raises(UserError, match="None of the checkpoints"):
        train(tiny_config(data_dir, steps=12), workdir)


def damage(checkpoint):
    for path in (checkpoint / "weights").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
