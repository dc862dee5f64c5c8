"""Damaged checkpoints: none is taken for a whole one."""

import errno
import gc
import json
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from small_runs import tiny_config

from rvae_jax.config import in_steps, replace_fields, to_dict
from rvae_jax.errors import PassingError, UserError
from rvae_jax.storage import stored_model
from rvae_jax.storage.checkpoints import Checkpoints, quiet_orbax
from rvae_jax.training.loop import train

pytestmark = [
    pytest.mark.usefixtures("one_device"),
    # Orbax reads arrays side by side, and raises the first error alone.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def errors_end_here():
    """Errors of Orbax that nothing has raised are told of when they are collected: not in another test."""
    yield
    gc.collect()


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def weights_of(workdir):
    return jax.tree.leaves(jax.device_get(stored_model.read(workdir).weights))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a run with one checkpoint."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "4")
    return workdir


def test_a_flipped_bit_is_seen_or_changes_nothing(run):
    expected, rng = weights_of(run), np.random.default_rng(0)
    files = [path for path in files_of(run / "checkpoints" / "8" / "weights") if path.stat().st_size]
    seen = 0
    for path in [max(files, key=lambda path: path.stat().st_size)] * 12 + files:
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            found = weights_of(run)
        except UserError as error:
            seen += 1
            assert "checkpoints/8 is" in str(error) and "\n" not in str(error)
        else:
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        path.write_bytes(content)
    assert seen >= 8


def exchange_values(workdir, step):
    """Replaces the arrays of a step by those of another, which Orbax reads without complaint."""
    shutil.rmtree(workdir / "checkpoints" / str(step) / "weights")
    shutil.copytree(workdir / "checkpoints" / "4" / "weights", workdir / "checkpoints" / str(step) / "weights")


def test_arrays_that_are_not_those_saved_are_named_and_the_checkpoint_before_is_resumed(
    finished, data_dir, tmp_path, capsys
):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    exchange_values(workdir, 8)
    with pytest.raises(UserError, match=r"8 is damaged: \d+ of \d+ arrays are not as they .* such as weights/"):
        stored_model.read(workdir, 8)
    train(tiny_config(data_dir, steps=9, resume="last_complete"), workdir)
    said = capsys.readouterr().out
    assert "8 is unreadable (" in said and " arrays are not as they were saved" in said and "step 6/9" in said
    assert (workdir / "checkpoints" / "8.unreadable").is_dir()


def test_damaged_checksums_are_damage(run):
    for path in files_of(run / "checkpoints" / "8" / "checksums"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"8 is damaged: its checksums cannot be read"):
        stored_model.read(run)


def test_a_checkpoint_without_checksums_is_read_with_a_notice(run, capsys):
    shutil.rmtree(run / "checkpoints" / "8" / "checksums")
    assert stored_model.read(run).step == 8
    assert "8 is of an earlier version, without checksums; not checked." in capsys.readouterr().out


def test_a_value_that_changed_in_the_configuration_is_named(run, data_dir):
    """Also one that changes no shape, and where the configuration is a valid one."""
    path = run / "config.json"
    content = path.read_text()
    path.write_text(content.replace('"variance_target": 1.0', '"variance_target": 0.7'))
    assert path.read_text() != content
    with pytest.raises(UserError, match=r"8 was trained with loss\.variance_target = 1\.0, and config\.json has 0\.7"):
        stored_model.read(run)
    for name, value in {"loss.variance_target": 0.6, "model.latent_dim": 9}.items():  # the second changes shapes, too
        for resume in ("newest", "last_complete"):
            path.unlink()
            with pytest.raises(UserError, match=rf"8 was trained with {name} = .*, and this command has {value}; give"):
                train(tiny_config(data_dir, steps=9, resume=resume, **{name: value}), run)
    assert (run / "checkpoints" / "8").is_dir()


def test_what_the_system_refuses_while_a_checkpoint_is_read_is_no_damage(run, data_dir, monkeypatch):
    def read(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Checkpoints, "_read", read)
    with pytest.raises(PassingError, match=r"8 could not be read: OSError: .* Run the same command again"):
        train(tiny_config(data_dir, steps=9, resume="last_complete"), run)
    assert (run / "checkpoints" / "8").is_dir()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}x", b'{"loss": 7}', b"\xff"])
def test_a_damaged_configuration_of_a_checkpoint_is_named(run, content):
    (run / "checkpoints" / "8" / "config" / "metadata").write_bytes(content)
    with pytest.raises(UserError, match=r"8 is damaged: .*; rename that folder to go on without it"):
        stored_model.read(run)


def test_a_missing_configuration_of_a_checkpoint_is_damage(run, data_dir):
    (run / "checkpoints" / "8" / "config" / "metadata").unlink()
    with pytest.raises(UserError, match=r"8 is damaged: FileNotFoundError"):
        stored_model.read(run)
    with pytest.raises(UserError, match=r"8 is damaged: .*--config\.resume=last_complete"):
        train(tiny_config(data_dir, steps=9), run)


def test_a_checkpoint_of_another_length_of_the_run_is_read(run, data_dir):
    """Schedules given as shares mean other steps there."""
    config = tiny_config(data_dir, steps=8, **{"loss.kl_ramp": 0.5, "loss.kl_start": 0.25})
    longer = replace_fields(config, {"steps": 16})
    (run / "checkpoints" / "8" / "config" / "metadata").write_text(json.dumps(to_dict(in_steps(config))))
    (run / "config.json").write_text(json.dumps(to_dict(in_steps(longer))))
    assert stored_model.read(run).step == 8


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"selection_l1": "low"}', b"\xff"])
def test_a_damaged_selection_error_is_named(run, data_dir, content):
    path = run / "checkpoints" / "8" / "metrics" / "metrics"
    path.write_bytes(content)
    for use in (lambda: stored_model.read(run), lambda: train(tiny_config(data_dir, steps=9), run)):
        with pytest.raises(UserError, match=r"8/metrics/metrics is damaged .* delete the folder"):
            use()
    shutil.rmtree(path.parent)
    assert Checkpoints(run, read_only=True).best_step() == 8


def test_closed_loops_after_a_failed_write_are_not_reported_and_other_errors_are(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(str(unraisable.exc_value)))
    before = sys.unraisablehook
    with quiet_orbax():
        first = sys.unraisablehook
    with quiet_orbax():
        assert sys.unraisablehook is first  # kept: a thread may be in it when it is replaced
        for text in ("Event loop is closed", "another"):
            sys.unraisablehook(types.SimpleNamespace(exc_type=RuntimeError, exc_value=RuntimeError(text)))
    assert sys.unraisablehook is before and reported == ["another"]


def test_the_hook_stays_after_an_error_and_is_not_put_upon_itself(monkeypatch):
    """Writes that are still under way meet the closed event loop after the error has been raised."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    hooks = set()
    for _ in range(3):
        with pytest.raises(OSError, match="full"), quiet_orbax():
            raise OSError("full")
        hooks.add(sys.unraisablehook)
    assert len(hooks) == 1
    with quiet_orbax():
        pass
    assert hooks == {sys.unraisablehook}
