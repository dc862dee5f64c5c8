"""What a run refuses or warns of, and how it ends when it cannot go on."""

import errno
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from run_cases import weights_and_moments
from small_runs import tiny_config

from rvae_jax.errors import UserError
from rvae_jax.hardware import memory
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_term(data_dir, tmp_path):
    train(tiny_config(data_dir, steps=4), tmp_path)
    good = weights_and_moments(tmp_path, 4)
    config_path = tmp_path / "config.json"
    stored = json.loads(config_path.read_text())
    stored["optimizer"]["learning_rate"] = 1e20
    config_path.write_text(json.dumps(stored))
    config = tiny_config(data_dir, steps=12)
    config.optimizer.learning_rate = 1e20
    with pytest.raises(UserError, match=r"step 6: loss/\w+ is (nan|inf)"):
        train(config, tmp_path)
    assert Checkpoints(tmp_path, read_only=True).steps() == [4]
    for a, b in zip(good, weights_and_moments(tmp_path, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_little_disk_space_is_refused_before_the_first_step(data_dir, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="free on its device, expected"):
        train(tiny_config(data_dir), tmp_path)


def test_too_little_memory_is_refused_before_the_first_step_and_a_batch_that_fits_is_named(
    data_dir, tmp_path, monkeypatch, capsys
):
    train(tiny_config(data_dir, steps=1, batch_size=2), tmp_path / "small")
    (size, unit), *_ = re.findall(r"([\d.]+) ([MGk]B) a device", capsys.readouterr().out)
    available = 3 * float(size) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    monkeypatch.setattr(memory, "limit", lambda: available)
    with pytest.raises(UserError, match=r"--config.batch_size=16: .*; expected at most (\d+), ") as error:
        train(tiny_config(data_dir, batch_size=16), tmp_path / "large")
    assert read_metrics(tmp_path / "large") == []
    fits = int(re.search(r"at most (\d+)", str(error.value))[1])
    monkeypatch.setattr(memory, "limit", lambda: memory.USABLE * available)
    train(tiny_config(data_dir, steps=1, batch_size=fits), tmp_path / "fits")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_metrics_is_named(data_dir, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="no space left on the device"):
        train(tiny_config(data_dir), tmp_path)


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(data_dir, tmp_path, monkeypatch):
    save = Checkpoints.save

    def save_until_full(self, items, selection_error=None):
        if int(items["training"]["step"]) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, items, selection_error)

    monkeypatch.setattr(Checkpoints, "save", save_until_full)
    with pytest.raises(UserError, match=r"complete checkpoints are there of steps \[4\]"):
        train(tiny_config(data_dir), tmp_path)


def test_small_batches_and_collapsing_objectives_are_warned_of(data_dir, tmp_path, capsys):
    config = tiny_config(data_dir, steps=1, batch_size=2)
    config.loss.moments = "mixture"
    train(config, tmp_path)
    output = capsys.readouterr().out
    assert "batch_size=2 is below 8: the moments of the population" in output
    assert "loss.moments=mixture with --config.loss.variance_target=1.0 rewards posterior collapse" in output
