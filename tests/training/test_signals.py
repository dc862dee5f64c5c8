"""Runs in processes of their own: signals, kills, command lines."""

import pathlib
import re
import signal
import subprocess
import time

import pytest
from run_cases import ROOT, assert_same_run, command, losses_by_step

from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.training.metric_log import read_metrics


@pytest.fixture(scope="module", autouse=True)
def compile_cache(tmp_path_factory):
    """Processes of their own share what they compile, apart from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def start(data_dir, workdir, steps, after):
    """Starts a run in a process of its own; returns when it has printed ``after``, at the end of ``process.said``."""
    process = subprocess.Popen(
        command(data_dir, workdir, steps), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    process.said = ""
    for line in process.stdout:
        process.said += line
        if after in line:
            return process
    raise AssertionError(process.said)


def finish(data_dir, workdir, steps):
    run = subprocess.run(command(data_dir, workdir, steps), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for noise in ("Traceback", "Exception ignored", "Event loop"):
        assert noise not in run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(data_dir, workdir, 40)
    return workdir


def test_a_run_that_was_stopped_and_killed_equals_an_undisturbed_one(undisturbed, data_dir, tmp_path):
    stopped_at = 0
    for number, status, after in ((signal.SIGTERM, 143, 7), (signal.SIGINT, 130, 15)):
        with start(data_dir, tmp_path, 40, after=f"step {after}/40") as process:
            process.send_signal(number)
            rest = process.stdout.read()
        assert process.returncode == status
        stopped_at = int(re.search(rf"Stopped by {number.name} at step (\d+)", rest)[1])
        assert max(Checkpoints(tmp_path, read_only=True).steps()) == stopped_at >= after
    with start(data_dir, tmp_path, 40, after="step 37/40") as process:
        process.kill()
        said = process.said + process.stdout.read()
    assert f"step {stopped_at + 1}/40" in said and f"step {stopped_at}/40" not in said
    assert max(row["step"] for row in read_metrics(tmp_path)) >= 37
    newest = max(Checkpoints(tmp_path, read_only=True).steps())
    assert newest in (20, 30)
    said = finish(data_dir, tmp_path, 40)
    assert f"step {newest + 1}/40" in said and f"step {newest}/40" not in said
    assert_same_run(undisturbed, tmp_path, 40)
    steps = [row["step"] for row in read_metrics(tmp_path) if "loss/total" in row]
    assert steps == list(range(1, 41))
    assert losses_by_step(tmp_path) == losses_by_step(undisturbed)


def handles_sigterm(process):
    """Whether the program, and not only Python, has started."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("number", "delay"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.4), (signal.SIGINT, 1.5)])
def test_a_signal_before_the_training_ends_the_command_at_once(data_dir, tmp_path, number, delay):
    line = command(data_dir, tmp_path, 10**6)
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not handles_sigterm(process):
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said and "Exception ignored" not in said
    assert "Stopped by" in said


def test_a_signal_while_the_step_is_compiled_ends_the_command_before_the_first_step(data_dir, tmp_path):
    with start(data_dir, tmp_path, 10**6, after="Compiling") as process:
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "Stopped by SIGINT.\n" in rest and "step 1/" not in rest and "saving" not in rest


def test_a_second_command_in_the_work_directory_is_refused(data_dir, tmp_path):
    with start(data_dir, tmp_path, 10**6, after="step 2/") as process:
        second = subprocess.run(
            command(data_dir, tmp_path, 10**6), cwd=ROOT, capture_output=True, text=True, check=False
        )
        process.kill()
    assert second.returncode == 1
    assert second.stderr == (
        f"Error: --workdir={tmp_path}: another process is training there; wait for it, stop it, or give another"
        " --workdir\n"
    )
    with start(data_dir, tmp_path, 10**6, after="/1000000") as process:  # a lock ends with its process
        process.kill()


def test_a_wrong_value_is_one_line_and_leaves_nothing(data_dir, tmp_path):
    line = [*command(data_dir, tmp_path / "run", 1), "--config.batch_size=1"]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "Error: --config.batch_size=1: expected at least 2, for the variance of the population\n"
    assert not (tmp_path / "run").exists()
