"""Several processes as one of them sees them; test_several_processes.py starts real ones."""

import json
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from rvae_jax.distributed import processes
from rvae_jax.distributed.preemption import StopRequest
from rvae_jax.errors import UserError


@pytest.fixture
def others(monkeypatch):
    """Makes this the first of several processes; the others' answers to each exchange are given."""
    answers = []
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(processes, "barrier", lambda name: None)

    def exchange(value):
        return [json.loads(json.dumps(each)) for each in (value, *(answers.pop(0) if answers else (value, value)))]

    monkeypatch.setattr(processes, "exchange", exchange)
    return answers


def test_one_process_exchanges_nothing():
    assert processes.exchange({"a": 1}) == [{"a": 1}]
    rows = np.arange(3.0)
    assert processes.gather(rows) is rows
    processes.require_equal({"a": 1})
    processes.require_shared(epath.Path("/nowhere"))
    with pytest.raises(UserError, match=r"^mine$"), processes.together():
        raise UserError("mine")


def test_leaving_waits_for_no_thread_and_calls_nothing_at_exit():
    script = (
        "import atexit, threading, time; from rvae_jax.distributed import processes;"
        " atexit.register(print, 'at exit'); threading.Thread(target=time.sleep, args=(600,)).start();"
        " print('last', end=''); processes.leave(3, 'why')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "last", "why\n")


def test_gathered_rows_are_exact(monkeypatch):
    """Float64, too, which JAX would round."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        processes.multihost_utils, "process_allgather", lambda rows, tiled: np.concatenate([rows, rows])
    )
    tree = (np.array([1 / 3, 1e-300]), np.array([[True], [False]]), np.float32([[[1], [2]], [[3], [4]]]))
    for ours, theirs in zip(tree, processes.gather(tree), strict=True):
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(theirs, np.concatenate([ours, ours]))


def test_an_error_of_one_process_is_raised_in_all(others):
    others.append((None, {"host": "b", "message": "no data"}))
    with pytest.raises(UserError, match=r"^process 2 of 3 on b: no data$"), processes.together():
        pass
    others.append(({"host": "b", "message": "no data"}, {"host": "c", "message": "no space"}))
    with pytest.raises(UserError, match=r"^process 1 \(and 1 more of 3\) on b: no data$"), processes.together():
        pass
    others.append(({"host": "b", "message": "same"}, {"host": "c", "message": "same"}))
    with pytest.raises(UserError, match=r"^same$"), processes.together():
        raise UserError("same")
    with processes.together():
        pass


def test_a_value_that_differs_is_named(others):
    mine = {"--config.seed": 0, "jax": "0.10.2"}
    processes.require_equal(mine)
    others.append(({"host": "b", "values": mine}, {"host": "c", "values": mine | {"jax": "0.11.0"}}))
    expected = r"^jax is '0\.11\.0' in process 2 on c, but '0\.10\.2' in process 0 on .*; expected the same in all 3$"
    with pytest.raises(UserError, match=expected):
        processes.require_equal(mine)
    others.append(({"host": "b", "values": mine | {"flax": "1"}}, {"host": "c", "values": mine}))
    with pytest.raises(UserError, match=r"^flax is '1' in process 1 on b, but None in process 0"):
        processes.require_equal(mine)


def test_the_check_for_a_shared_folder_leaves_no_file(others, tmp_path):
    processes.require_shared(epath.Path(tmp_path))
    assert not list(tmp_path.iterdir())
    others += [("", ""), (None, {"host": "c", "message": "not seen"})]
    with pytest.raises(UserError, match="process 2 of 3 on c: not seen"):
        processes.require_shared(epath.Path(tmp_path))
    assert not list(tmp_path.iterdir())


def test_versions_include_a_hash_of_the_code():
    found = processes.versions()
    assert found["jax"] == jax.__version__
    assert re.fullmatch("[0-9a-f]{12}", found["the code of rvae_jax"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("on",), "found no cluster (TPU pod, SLURM step, Kubernetes Job or Open MPI); give --coordinator_address"),
        (("auto", "host:1"), "--coordinator_address without --num_processes, --process_id: expected all three"),
        (("auto", None, 2, 0), "--num_processes, --process_id without --coordinator_address"),
        (("on", "host:1", 2, 2), "--process_id=2: expected from 0 to 1"),
        (("off", "host:1", 2, 0), "--distributed=off with --coordinator_address, --num_processes, --process_id"),
    ],
)
def test_wrong_flags_are_refused(monkeypatch, arguments, expected):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=re.escape(expected)):
        processes.initialize(*arguments)
    processes.initialize("auto")
    processes.initialize("off")


def test_an_interrupt_stops_all_processes(others, monkeypatch, capsys):
    sent, asked = [], []
    monkeypatch.setattr("os.kill", lambda _, number: sent.append(number))
    sync_point = "jax.experimental.multihost_utils.reached_preemption_sync_point"
    monkeypatch.setattr(sync_point, lambda step: asked.append(step) or step == 5)
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGTERM) is before  # it is JAX's
        assert not stop.reached(4)
        signal.raise_signal(signal.SIGINT)
        assert sent == [signal.SIGTERM]
        assert "SIGINT: saving, then stopping" in capsys.readouterr().out
        assert stop.reached(5)
    assert (stop.signal, asked) == (signal.SIGTERM, [4, 5])
