"""launch/one_host.sh, with a program of our own."""

import os
import shlex
import signal
import subprocess
import time

import pytest
from launch_scripts import HOSTILE, INTERRUPTIBLE, LAUNCH, answers, calls, fake


def test_the_command_of_one_host(launch):
    one = launch("one_host.sh", "--dry-run", "--", *HOSTILE, variables={"PYTHON": "my python"})
    assert shlex.split(one.stdout) == ["my python", "-m", "rvae_jax.main", *HOSTILE]


@pytest.mark.parametrize(
    ("statuses", "expected", "starts"),
    [([0], 0, 1), ([143, 70, 0], 0, 3), ([1], 1, 1), ([2], 2, 1), ([130], 130, 1), ([134], 1, 3)],
)
def test_one_host_restarts_if_that_helps(launch, tmp_path, statuses, expected, starts):
    fake(tmp_path, "nvidia-smi", "exit 1")
    log = fake(tmp_path, "python", f'{answers(tmp_path, "python", statuses)}; echo working; exit "$next"')
    run = launch("one_host.sh", "--", *HOSTILE, variables={"RESTART_WAIT_S": "0", "MAX_RESTARTS": "2"})
    assert run.returncode == expected, run.stdout + run.stderr
    assert calls(log) == [["-m", "rvae_jax.main", *HOSTILE]] * starts
    assert (tmp_path / "logs/one_host.log").read_text() == "working\n" * starts


def test_each_restart_waits_twice_as_long_up_to_ten_minutes(launch, tmp_path):
    fake(tmp_path, "nvidia-smi", "exit 1")
    fake(tmp_path, "python", "exit 134")
    log = fake(tmp_path, "sleep", "exit 0")
    launch("one_host.sh", "--", "x", variables={"RESTART_WAIT_S": "100", "MAX_RESTARTS": "4"})
    assert calls(log) == [["100"], ["200"], ["400"], ["600"]]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_host_passes_a_signal_on_once_and_waits_for_the_program(launch, tmp_path, number, status):
    """Also if the signal reaches the whole foreground, as Ctrl-C does; the log has the program's last lines."""
    fake(tmp_path, "nvidia-smi", "exit 1")
    traps = f"trap 'echo asked; asked=1' {number.value}"
    wait = f"for i in $(seq 60); do sleep 0.05; done; [ -z $asked ] || {{ echo saved; exit {status}; }}"
    log = fake(tmp_path, "python", f"{traps}; echo up; {wait.replace('60', '10')}")
    command = [*INTERRUPTIBLE, "bash", str(LAUNCH / "one_host.sh"), "--", "x"]
    with subprocess.Popen(
        command,
        env=launch.environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout.readline() == "up\n"
        os.killpg(run.pid, number)
        run.stdout.read()
    assert run.returncode == status
    assert (tmp_path / "logs/one_host.log").read_text() == "up\nasked\nsaved\n"
    assert len(calls(log)) == 1


def test_a_signal_between_two_runs_ends_one_host_at_once(launch, tmp_path):
    fake(tmp_path, "nvidia-smi", "exit 1")
    fake(tmp_path, "python", "exit 134")
    command = ["bash", str(LAUNCH / "one_host.sh"), "--", "x"]
    environment = launch.environment | {"RESTART_WAIT_S": "30"}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "ended with status 134: restart\n"
        assert run.stdout.readline() == "restart 1 in 30 s\n"
        time.sleep(0.2)
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=5) == 143


@pytest.mark.parametrize(
    ("backend", "variables", "starts"), [("cpu", {}, 0), ("gpu", {}, 1), ("cpu", {"JAX_PLATFORMS": "cpu"}, 1)]
)
def test_one_host_refuses_to_train_on_the_cpu_of_a_machine_with_gpus(launch, tmp_path, backend, variables, starts):
    fake(tmp_path, "nvidia-smi", "echo 'GPU 0: NVIDIA H100'")
    log = fake(tmp_path, "python", f"[ $1 != -c ] || echo {backend}")
    run = launch("one_host.sh", "--", "x", variables=variables)
    assert run.returncode == 1 - starts, run.stderr
    assert ("nvidia-smi lists GPUs, but JAX finds only the cpu; pip install -e '.[train,cuda]'" in run.stderr) != starts
    assert sum(call[0] == "-m" for call in calls(log)) == starts
