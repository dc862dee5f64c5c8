"""Several real processes on the loopback, started by the command that people type."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from small_runs import SMALL

from rvae_jax.distributed import processes
from rvae_jax.storage import stored_model, tensor_file
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.storage.run_weights import load_weights
from rvae_jax.training.metric_log import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
RARELY = ["--config.log_every=1", "--config.eval_every=12", "--config.keep_checkpoints=9"]
STEPS = 24


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def start_processes(data_dir, compile_cache):
    """Starts processes of one run, and ends those that a failed test leaves."""
    started = []

    def start(count, workdir, *flags, devices=2, folders=None, own_flags=()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "XDG_CACHE_HOME": compile_cache}
        together = []
        for index in range(count):
            command = [
                *(sys.executable, "-m", "rvae_jax.main", f"--config={ROOT / 'configs/orl.py'}:tiny"),
                *(f"--workdir={workdir}", f"--config.data.data_dir={data_dir}", *SMALL, *RARELY, *flags),
            ]
            if count > 1:
                command += [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}"]
                command += [f"--process_id={index}"]
            if index < len(own_flags):
                command.append(own_flags[index])
            together.append(
                subprocess.Popen(
                    command,
                    cwd=folders[index] if folders else ROOT,
                    env=environment | {"PYTHONPATH": str(ROOT)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        started.extend(together)
        return together

    yield start
    for process in started:
        process.kill()
        process.stdout.close()


def read_until(process, after):
    said = ""
    for line in process.stdout:
        said += line
        if after in line:
            return said
    raise AssertionError(said)


def finish(together, status=0):
    said = [process.communicate(timeout=240)[0] for process in together]
    assert [process.returncode for process in together] == [status] * len(together), "\n\n".join(said)
    return said


def rows_of(workdir, name):
    return {row["step"]: row for row in read_metrics(workdir) if name in row}


@pytest.fixture(scope="module")
def alone(data_dir, compile_cache, tmp_path_factory):
    """The run in one process on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    command = [
        *(sys.executable, "-m", "rvae_jax.main", f"--config={ROOT / 'configs/orl.py'}:tiny", *SMALL, *RARELY),
        *(f"--workdir={workdir}", f"--config.data.data_dir={data_dir}", f"--config.steps={STEPS}"),
    ]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": compile_cache}, check=True)
    return workdir


def assert_same_run(workdir, alone):
    """Up to float32 rounding, which Adam and the steps before it make larger."""
    for name in ("loss/total", "latent/population_std", "gradient_norm/vae"):
        ours, theirs = rows_of(workdir, name), rows_of(alone, name)
        assert list(ours) == list(theirs) == list(range(1, STEPS + 1))
        np.testing.assert_allclose(
            [row[name] for row in ours.values()], [row[name] for row in theirs.values()], rtol=2e-3
        )
    ours, theirs = rows_of(workdir, "validation/l1"), rows_of(alone, "validation/l1")
    assert list(ours) == list(theirs) == [12, 24]
    for step, row in theirs.items():
        for name, value in row.items():
            assert ours[step][name] == pytest.approx(value, rel=2e-3, abs=0.06), name
    for name in ("validation/l1_of_mean_image", "selection/l1_of_mean_image"):  # no network has a part in it
        assert [row[name] for row in ours.values()] == [row[name] for row in theirs.values()]
    ours, theirs = (jax.tree.leaves(load_weights(each, STEPS)[1]) for each in (workdir, alone))
    for mine, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, their, atol=5e-3)


def test_a_run_of_changing_numbers_of_processes_equals_that_of_one(start_processes, alone, tmp_path):
    # Two processes: a signal to the second stops both before the same step.
    two = start_processes(2, tmp_path, f"--config.steps={STEPS}")
    said = read_until(two[0], f"step 7/{STEPS}")
    assert "Process 0 of 2 on " in said and ": 2 of 4 devices" in said
    two[1].send_signal(signal.SIGTERM)
    said, silent = finish(two, status=143)
    stopped_at = int(re.search(r"Stopped by SIGTERM at step (\d+)", said)[1])
    assert "Process 1 of 2 on " in silent and "step" not in re.sub(".*preemption.*", "", silent)
    assert max(Checkpoints(tmp_path, read_only=True).steps()) == stopped_at < STEPS

    # Four of one device each, in the other style: when one dies, all end.
    four = start_processes(4, tmp_path, f"--config.steps={STEPS}", "--config.parallel=pmap", devices=1)
    said = read_until(four[0], f"step {stopped_at + 3}/{STEPS}")
    assert f"step {stopped_at + 1}/{STEPS}" in said and f"step {stopped_at}/{STEPS}" not in said
    four[3].kill()
    began = time.monotonic()
    for process in four:
        process.communicate(timeout=processes.HEARTBEAT_TIMEOUT_S + 30)
    assert time.monotonic() - began < processes.HEARTBEAT_TIMEOUT_S + 30
    assert not {process.returncode for process in four} & {0, 1, 2, 130, 143}

    # Two with one device each, which share the optimizer's state.
    finish(start_processes(2, tmp_path, f"--config.steps={STEPS}", "--config.shard_optimizer=true", devices=1))
    assert_same_run(tmp_path, alone)
    for name in ("reconstructions", "samples", "transition"):
        assert (tmp_path / f"pictures/{name}.png").is_file()
    assert not list(tmp_path.glob(".shared.*"))


def test_a_flag_that_differs_between_processes_is_named(start_processes, tmp_path):
    differing = start_processes(2, tmp_path / "run", own_flags=["--config.seed=0", "--config.seed=1"])
    host = re.escape(socket.gethostname())
    for said in finish(differing, status=1):
        assert re.search(rf"Error: --config.seed is 1 in process 1 on {host}, but 0 in process 0 on {host}", said)
    assert not (tmp_path / "run").exists()


def test_a_work_directory_that_is_not_shared_is_refused(start_processes, tmp_path):
    folders = [tmp_path / "host_0", tmp_path / "host_1"]
    for folder in folders:
        folder.mkdir()
    for said in finish(start_processes(2, "run", folders=folders), status=1):
        assert re.search(r"Error: process 1 of 2 on .*: --workdir=.*run: process 0 wrote a file there that this", said)
    assert not (folders[1] / "run").exists()


def test_data_that_one_process_lacks_ends_all(start_processes, data_dir, tmp_path):
    flags = ["--config.data.name=elsewhere"]
    damaged = tmp_path / "data"
    damaged.mkdir()
    two = start_processes(2, tmp_path / "run", *flags, own_flags=[f"--config.data.data_dir={damaged}"])
    for said in finish(two, status=1):
        assert "elsewhere: not a data set of TFDS, nor prepared in" in said
    assert not (tmp_path / "run").exists()


def test_several_processes_start_from_a_model_and_all_say_if_one_lacks_it(start_processes, alone, tmp_path):
    model, export = stored_model.read(alone), tmp_path / "model.safetensors"
    export.write_bytes(
        tensor_file.to_bytes(tensor_file.Content(model.config, model.weights, model.step, model.moments))
    )
    for source in (export, alone):
        run = tmp_path / f"from_{source.name}"
        said, _ = finish(start_processes(2, run, f"--init_from={source}", "--config.steps=1", devices=1))
        assert "Starts from " in said and str(source) in said and "not taken over: nothing" in said
        assert (run / "population.safetensors").exists()
    lacking = [f"--init_from={export}", f"--init_from={tmp_path / 'none.safetensors'}"]
    two = start_processes(2, tmp_path / "other", "--config.steps=1", devices=1, own_flags=lacking)
    for said in finish(two, status=1):
        assert "none.safetensors does not exist" in said and "Traceback" not in said
