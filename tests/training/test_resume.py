"""Resuming a run, in one process."""

import shutil

import numpy as np
import pytest
from run_cases import assert_documented, assert_same_run, losses_by_step, read_items
from small_runs import tiny_config

from rvae_jax.config import replace_fields
from rvae_jax.errors import UserError
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics
from rvae_jax.training.opening import describe_new_length

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


SHARES = {
    "optimizer.schedule": "cosine",
    "loss.adversarial_start": 0.25,
    "loss.adversarial_ramp": 0.5,
    "eval_every": 0.5,
}


def test_schedules_follow_another_length_and_a_line_says_so(data_dir, tmp_path, capsys):
    def config(steps, **changes):
        return replace_fields(tiny_config(data_dir, steps=steps, log_every=1, keep_checkpoints=9), SHARES | changes)

    def schedules():
        rows = {row["step"]: row for row in read_metrics(tmp_path) if "loss/total" in row}
        ramps = {
            step: round(row["weighted/adversarial"] / row["loss/adversarial"] / 100, 4) for step, row in rows.items()
        }
        return ramps, {step: row["learning_rate"] for step, row in rows.items()}

    train(config(4), tmp_path)
    ramps, rates = schedules()
    assert list(ramps.values()) == [0, 0.5, 1, 1]
    assert rates == pytest.approx({step: 5e-4 * (1 + np.cos(np.pi * (step - 1) / 4)) for step in range(1, 5)}, abs=1e-9)
    capsys.readouterr()

    # Longer: the ramp was complete, and is not any more.
    train(config(16), tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--config.steps was" in line]
    assert line == (
        "--config.steps was 4 and is 16: schedules follow the new length: eval_every is 8 instead of 2,"
        " loss.adversarial_start is 4 instead of 1, loss.adversarial_ramp is 8 instead of 2,"
        " the cosine ends at the new last step."
        " At step 4, where the run goes on, the learning rate is 0.000854 instead of 0,"
        " the share of the adversarial weight is 0.125 instead of 1."
    )
    ramps, rates = schedules()
    assert [ramps[step] for step in range(5, 17)] == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1, 1]
    assert [rates[step] for step in range(5, 17)] == pytest.approx(
        [5e-4 * (1 + np.cos(np.pi * step / 16)) for step in range(4, 16)], abs=1e-9
    )
    assert Checkpoints(tmp_path, read_only=True).steps() == [2, 4, 8, 16]


def test_a_shorter_length_may_complete_a_ramp(capsys):
    before, now = (replace_fields(tiny_config(None, steps=steps), SHARES) for steps in (16, 8))
    describe_new_length(before, now, 6)
    output = capsys.readouterr().out
    assert "--config.steps was 16 and is 8" in output
    assert "the share of the adversarial weight is 1 instead of 0.375." in output
    alone = {"loss.adversarial": "none", "optimizer.schedule": "constant", "eval_every": 1}
    describe_new_length(*(replace_fields(config, alone) for config in (before, now)), 6)
    assert capsys.readouterr().out == ""


def test_schedules_given_in_steps_stay_where_they_were(data_dir, tmp_path, capsys):
    train(replace_fields(tiny_config(data_dir, steps=2), SHARES), tmp_path)
    steps = {"loss.adversarial_start": 0, "loss.adversarial_ramp": 1}  # what the shares meant
    train(replace_fields(tiny_config(data_dir, steps=3), SHARES | steps), tmp_path)
    output = capsys.readouterr().out
    assert "new length: eval_every is 2 instead of 1, the cosine ends at the new last step. At step 2" in output
    assert "adversarial weight" not in output
    with pytest.raises(UserError, match=r"adversarial_ramp is 1 there and 0\.8 here"):
        train(replace_fields(tiny_config(data_dir, steps=4), SHARES | steps | {"loss.adversarial_ramp": 0.8}), tmp_path)


def test_a_length_that_changes_no_schedule_needs_no_line(finished, data_dir, tmp_path, capsys):
    train(tiny_config(data_dir, steps=9), shutil.copytree(finished[0], tmp_path / "longer"))
    assert "schedules follow" not in capsys.readouterr().out


def test_another_configuration_is_refused_by_field(finished, data_dir):
    workdir, _ = finished
    config = tiny_config(data_dir, seed=3, **{"model.latent_dim": 24})
    with pytest.raises(UserError, match=r"seed is 0 there and 3 here, model.latent_dim is 16 there and 24 here"):
        train(config, workdir)


def test_a_run_goes_back_to_the_checkpoint_before_a_damaged_one_if_it_is_asked_to(finished, data_dir, tmp_path, capsys):
    intact, damaged = (shutil.copytree(finished[0], tmp_path / name) for name in ("intact", "damaged"))
    damage(damaged / "checkpoints" / "8")
    rows = (damaged / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"8 is damaged: .*--config\.resume=last_complete \(there .* of steps \[4\]\)$"):
        train(tiny_config(data_dir, steps=9), damaged)
    assert (damaged / "checkpoints" / "8").is_dir() and (damaged / "metrics.jsonl").read_bytes() == rows
    train(tiny_config(data_dir, steps=9), intact)
    train(tiny_config(data_dir, steps=9, resume="last_complete"), damaged)
    assert "8 is unreadable" in capsys.readouterr().out
    assert (damaged / "checkpoints" / "8.unreadable").is_dir()
    assert_same_run(intact, damaged, 9)


def test_no_readable_checkpoint_is_an_error(finished, data_dir, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "damaged")
    for step in (4, 8):
        damage(workdir / "checkpoints" / str(step))
    with pytest.raises(UserError, match="None of the checkpoints"):
        train(tiny_config(data_dir, steps=12, resume="last_complete"), workdir)


def damage(checkpoint):
    for path in (checkpoint / "weights").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
