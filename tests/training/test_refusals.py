"""What a run refuses or warns of, and how it ends when it cannot go on."""

import errno
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from run_cases import weights_and_moments
from small_runs import tiny_config

from rvae_jax.config import replace_fields, to_dict
from rvae_jax.errors import UserError
from rvae_jax.hardware import memory
from rvae_jax.hardware.cost import cost_of
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.training.compile_step import compile_steps
from rvae_jax.training.held_out import HeldOut
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics
from rvae_jax.training.opening import describe
from rvae_jax.training.run import make_run

pytestmark = pytest.mark.usefixtures("one_device")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_term(finished, data_dir, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    good = weights_and_moments(workdir, 8)
    config = replace_fields(tiny_config(data_dir, steps=12), {"optimizer.learning_rate": 1e20})
    for path in (workdir / "config.json", *workdir.glob("checkpoints/*/config/metadata")):
        path.write_text(json.dumps(to_dict(config)))
    with pytest.raises(UserError, match=r"step 10: loss/\w+ is (nan|inf); stopped; checkpoints of steps 4, 8 are"):
        train(config, workdir)
    assert Checkpoints(workdir, read_only=True).steps() == [4, 8]
    for a, b in zip(good, weights_and_moments(workdir, 8), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_little_disk_space_is_refused_before_the_first_step(data_dir, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="free on its device, expected"):
        train(tiny_config(data_dir), tmp_path)


def test_a_folder_of_pictures_is_no_work_directory(data_dir, tmp_path):
    (tmp_path / "me.JPG").write_bytes(b"a picture")
    with pytest.raises(UserError, match=r"holds no run, but pictures, such as me.JPG; .* by --config.data.folder"):
        train(tiny_config(data_dir), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["me.JPG"]


FILES = ["metrics.jsonl", "training.lock", "environment.json", "parameters.txt", "population.safetensors"]


@pytest.mark.parametrize("name", ["checkpoints", "pictures", "tensorboard", *FILES])
def test_a_file_in_the_place_of_a_folder_or_a_folder_in_that_of_a_file_is_named(name, data_dir, tmp_path):
    (tmp_path / name).mkdir() if name in FILES else (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"{name} is a (file|folder), where a run has a (file|folder); move it away"):
        train(tiny_config(data_dir), tmp_path)


def test_of_many_fields_that_differ_the_first_are_named_and_all_counted(finished, data_dir):
    changes = {"seed": 7, "batch_size": 32, "optimizer.learning_rate": 0.5, "loss.beta": 3.0}
    with pytest.raises(UserError, match=r"16 there and 32 here.* and so on, 4 fields in all; use another") as refused:
        train(tiny_config(data_dir, **changes), finished[0])
    assert str(refused.value).count(" there and ") == 3


def run_of(config, workdir, selection=60):
    """A run whose images do not matter, and its first state."""
    sources = {"train": range(60), "selection": range(selection), "validation": range(60)}
    run = make_run(config, epath.Path(workdir), sources)
    return run, jax.jit(run.program.create_state)(run.init_key)


def test_too_little_memory_is_refused_before_the_first_step_and_a_batch_that_fits_is_named(
    data_dir, tmp_path, monkeypatch
):
    needed = cost_of(compile_steps(*run_of(tiny_config(data_dir, batch_size=2), tmp_path))(1)).memory
    monkeypatch.setattr(memory, "limit", lambda: 3 * needed)
    with pytest.raises(UserError, match=r"--config.batch_size=16: .*; expected at most (\d+), ") as error:
        train(tiny_config(data_dir, batch_size=16), tmp_path / "large")
    assert read_metrics(tmp_path / "large") == []
    fits = int(re.search(r"at most (\d+)", str(error.value))[1])
    monkeypatch.setattr(memory, "limit", lambda: memory.USABLE * 3 * needed)
    compile_steps(*run_of(tiny_config(data_dir, batch_size=fits), tmp_path))


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_metrics_is_named(data_dir, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        train(tiny_config(data_dir), tmp_path)


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(data_dir, tmp_path, monkeypatch):
    save = Checkpoints.save

    def save_until_full(self, items, config, selection_error=None):
        if int(items["training"]["step"]) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, items, config, selection_error)

    monkeypatch.setattr(Checkpoints, "save", save_until_full)
    with pytest.raises(UserError, match=r"No space left on device; .* has complete checkpoints of steps 4\. Put"):
        train(tiny_config(data_dir), tmp_path)


def test_a_folder_that_is_gone_is_one_line(data_dir, tmp_path, monkeypatch):
    def evaluate(self, state):
        shutil.rmtree(tmp_path / "run")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(HeldOut, "evaluate", evaluate)
    with pytest.raises(UserError, match=r"run: the folder is gone; .* has no complete checkpoint\. Put that right"):
        train(tiny_config(data_dir), tmp_path / "run")


def test_a_folder_that_has_become_read_only_is_one_line(data_dir, tmp_path, monkeypatch):
    def save(*_):
        raise PermissionError(errno.EROFS, "Read-only file system", str(tmp_path / "checkpoints"))

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(UserError, match=r"checkpoints: Read-only file system; .* has no complete checkpoint\. Put"):
        train(tiny_config(data_dir), tmp_path)


def test_small_batches_few_images_and_collapsing_objectives_are_warned_of(data_dir, tmp_path, capsys):
    config = replace_fields(tiny_config(data_dir, batch_size=2), {"loss.moments": "mixture"})
    describe(*run_of(config, tmp_path, selection=2))
    output = capsys.readouterr().out
    assert "Warning: 2 selection images: with fewer than 10," in output
    assert "batch_size=2 is below 8: the moments of the population" in output
    assert "loss.moments=mixture with --config.loss.variance_target=1.0 rewards posterior collapse" in output


def test_an_error_of_a_save_under_way_does_not_take_the_place_of_its_cause(data_dir, tmp_path, monkeypatch):
    def close(self):
        raise RuntimeError("of the save")

    def evaluate(self, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HeldOut, "evaluate", evaluate)
    monkeypatch.setattr(Checkpoints, "close", close)
    with pytest.raises(UserError, match=r"No space left on device; .* has no complete checkpoint"):
        train(tiny_config(data_dir), tmp_path)


def test_a_disk_that_is_full_at_the_start_is_one_line_and_the_run_there_is_kept(
    finished, data_dir, tmp_path, monkeypatch
):
    def write(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    workdir = shutil.copytree(finished[0], tmp_path / "run")
    before = (workdir / "config.json").read_bytes()
    monkeypatch.setattr(workdir_lib, "write_atomically", write)
    with pytest.raises(UserError, match=r"config\.json cannot be written: No space left on device"):
        train(tiny_config(data_dir, steps=9), workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_a_second_command_does_not_change_the_configuration_of_the_first(finished, data_dir, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    before = (workdir / "config.json").read_bytes()
    with (
        workdir_lib.training_lock(epath.Path(workdir)),
        pytest.raises(UserError, match="another process is training there"),
    ):
        train(tiny_config(data_dir, steps=9), workdir)
    assert (workdir / "config.json").read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_warned_of(finished, data_dir, tmp_path, monkeypatch, capsys, number):
    def acquire(self, **_):
        raise OSError(number, "no locks")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    train(tiny_config(data_dir), shutil.copytree(finished[0], tmp_path / "run"))
    said = capsys.readouterr().out
    assert "cannot be locked: see to it that no second command trains there" in said and "is finished" in said
