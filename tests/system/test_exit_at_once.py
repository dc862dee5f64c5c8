"""Signals to a command that has nothing to save."""

import signal
import subprocess
import sys
import time

import pytest

CALL = """
import hashlib
from rvae_jax.system import signals
signals.exit_at_once()
print("begun", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""

WITH_CHILD = """
import multiprocessing, time
from rvae_jax.system import signals
signals.exit_at_once()
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
child.start()
time.sleep(1)  # Python forgets signals that come while it forks
child.terminate()
child.join()
time.sleep(0.5)
print("child", child.exitcode)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_long_call_of_a_library_ends_the_process_at_once(number):
    with subprocess.Popen(
        [sys.executable, "-c", CALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.2)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said == f"Stopped by {number.name}.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_signal_to_a_forked_process_leaves_its_parent_alone():
    run = subprocess.run([sys.executable, "-c", WITH_CHILD], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, f"child {128 + signal.SIGTERM}\n"), run.stderr


WITHIN_A_RUN = """
import time
from rvae_jax.system import signals
signals.exit_at_once()
from rvae_jax.distributed.preemption import StopRequest
with StopRequest() as stop:
    print("begun", flush=True)
    end = time.monotonic() + 20
    while stop.signal is None and time.monotonic() < end:
        BUSY
    time.sleep(0.3)
    print("saved", flush=True)
    time.sleep(3)
"""


@pytest.mark.parametrize("busy", ["pass", "time.sleep(0.01)"])
def test_the_first_signal_during_training_is_only_noted_and_the_second_ends_it(busy):
    with subprocess.Popen(
        [sys.executable, "-c", WITHIN_A_RUN.replace("BUSY", busy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM: saving, then stopping; send it again to stop at once.\n"
        assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert said == "Stopped by SIGINT.\n"
