"""launch/tpu_vm.sh and tpu_worker.sh, with folders in place of workers."""

import os
import shlex
import signal
import subprocess
import time

import pytest
from launch_scripts import HOSTILE, INTERRUPTIBLE, LAUNCH, NOTE, PLACE, SSH, TPU, WORKER, answers, calls, fake, revision


def test_the_commands_of_tpu_vm(printed):
    archive, copy, install = printed("tpu_vm.sh", "setup")
    assert archive == ["git", "-C", str(LAUNCH / ".."), "archive", "--format=tar.gz", "--output=/tmp/rvae_jax.tar.gz",
                       "HEAD"]  # fmt: skip
    copied = ["/tmp/rvae_jax.tar.gz", "rvae:rvae_jax.tar.gz"]
    assert copy == ["gcloud", "compute", "tpus", "tpu-vm", "scp", *copied, *PLACE, "--worker=all"]
    unpack = "mkdir -p rvae_jax && tar -xzf rvae_jax.tar.gz -C rvae_jax"
    assert install == [*SSH, f"--command={unpack} && {WORKER} install {revision()}"]

    there, bucket = r"/var/tmp/my\ data", r"gs://bucket/sets\ of\ mine"
    (stage,) = printed("tpu_vm.sh", "stage")
    rsync = f"mkdir -p {there} && gcloud storage rsync --recursive {bucket} {there}"
    assert stage == [*SSH, f"--command={rsync}"]
    (stage,) = printed("tpu_vm.sh", "stage", variables={"MOUNT": "1"})
    mount = rf"gcsfuse --implicit-dirs -o ro --only-dir=sets\ of\ mine bucket {there}"
    assert stage == [*SSH, f"--command=mkdir -p {there} && {{ mountpoint -q {there} || {mount}; }}"]

    check, start, state = printed("tpu_vm.sh", "run", "--", *HOSTILE)
    assert check == [*SSH, f"--command={WORKER} check {revision()} 5 {there}"]
    assert start[:-1] == SSH and shlex.split(start[-1]) != start[-1]
    assert shlex.split(start[-1].removeprefix("--command=")) == [WORKER, "start", *HOSTILE]
    assert state == [*SSH, f"--command={WORKER} state"]
    assert printed("tpu_vm.sh", "check") == [check]

    make, logs = printed("tpu_vm.sh", "logs", variables={"LOG_DIR": "my logs"})
    assert make == ["mkdir", "-p", "my logs"]
    assert logs == [*SSH, "--command=cat rvae_jax_run/log", "--output-directory=my logs"]
    (follow,) = printed("tpu_vm.sh", "logs", "--follow", variables={"WORKER": "3"})
    assert follow == [*SSH[:-1], "--worker=3", "--command=tail -n 100 -F rvae_jax_run/log"]
    assert printed("tpu_vm.sh", "stop") == [[*SSH, f"--command={WORKER} stop"]]
    said, delete = printed("tpu_vm.sh", "delete")
    assert delete == ["gcloud", "compute", "tpus", "tpu-vm", "delete", "rvae", *PLACE, "--quiet"]
    assert said[:5] == ["deleting", "the", "TPU", "VM", "rvae"]


def workers(tmp_path, statuses):
    """Makes folders that stand for workers, and a gcloud that runs commands in them; programs end with the statuses."""
    for index, own in enumerate(statuses):
        worker = tmp_path / f"worker_{index}"
        (worker / "rvae_jax/.venv/bin").mkdir(parents=True)
        (worker / "rvae_jax/.revision").write_text(revision() + "\n")
        (worker / "rvae_jax/launch").symlink_to(LAUNCH)
        python = worker / "rvae_jax/.venv/bin/python"
        python.write_text(
            f'#!/bin/bash\n[ "$1" = -m ] || {{ [ ! -e {worker}/no_tpu ]; exit; }}\n'
            f"{NOTE} >> {worker}/calls\necho working\n"
            f"trap 'echo saved; exit 143' TERM\n{answers(tmp_path, f'worker_{index}', own)}\n"
            '[ "$next" != wait ] || { for _ in $(seq 200); do sleep 0.05; done; }\nexit "$next"\n'
        )
        python.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/set").write_text("images")
    body = f"""
        for last; do case $last in --command=*) command=${{last#--command=}} ;; esac; done
        status=0
        for worker in {tmp_path}/worker_*/; do
            if [ -s {tmp_path}/unreachable ]; then sed -i 1d {tmp_path}/unreachable; status=255; continue; fi
            (cd "$worker" && bash -c "$command") || {{ now=$?; [ $status != 0 ] || status=$now; }}
        done
        exit $status
    """
    return fake(tmp_path, "gcloud", body)


def started(tmp_path, index):
    return calls(tmp_path / f"worker_{index}/calls")


QUICK = TPU | {"POLL_S": "0.1", "RESTART_WAIT_S": "0"}


@pytest.mark.parametrize(
    ("statuses", "expected", "starts"),
    [
        ([[0], [0]], 0, 1),
        ([[143, 134, 0], [143, 70, 0]], 0, 3),
        ([[1], [134]], 1, 1),
        ([[70, 0], [137, 2]], 2, 2),
        ([[134], [134]], 1, 3),
    ],
)
def test_workers_restart_together_if_that_helps(launch, tmp_path, statuses, expected, starts):
    workers(tmp_path, statuses)
    variables = QUICK | {"MAX_RESTARTS": "2", "DATA_DIR": str(tmp_path / "data")}
    run = launch("tpu_vm.sh", "run", "--", *HOSTILE, variables=variables)
    assert run.returncode == expected, run.stdout + run.stderr
    for index in range(2):
        assert started(tmp_path, index) == [["-m", "rvae_jax.main", "--distributed=on", *HOSTILE]] * starts
        assert (tmp_path / f"worker_{index}/rvae_jax_run/log").read_text() == "working\n" * starts
    assert ("restarted 2 times" in run.stderr) == (starts == 3 and expected == 1)
    assert "$DATA_DIR is set, but the arguments lack --config.data.data_dir=" in run.stderr


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda tmp_path: (tmp_path / "worker_1/rvae_jax/.revision").write_text("old"), "does not have revision"),
        (lambda tmp_path: (tmp_path / "worker_1/rvae_jax/launch").unlink(), "No such file"),
        (lambda tmp_path: (tmp_path / "worker_1/rvae_jax/.venv/bin/python").unlink(), "cannot import rvae_jax"),
        (lambda tmp_path: (tmp_path / "data/set").unlink(), "has no files in"),
    ],
)
def test_no_worker_starts_if_one_is_not_ready(launch, tmp_path, spoil, expected):
    workers(tmp_path, [[0], [0]])
    spoil(tmp_path)
    run = launch("tpu_vm.sh", "run", "--", "x", variables=QUICK | {"DATA_DIR": str(tmp_path / "data")})
    assert run.returncode == 1
    assert expected in run.stderr and "not all workers are ready" in run.stderr
    assert "nothing was started" in run.stderr
    assert not list(tmp_path.glob("worker_*/calls"))


def test_no_worker_starts_without_devices_or_disk(launch, tmp_path):
    workers(tmp_path, [[0], [0]])
    run = launch("tpu_vm.sh", "check", variables=QUICK | {"LEAST_FREE_GB": "99999999"})
    assert run.returncode == 1 and "GB free; expected at least 99999999" in run.stderr
    python = tmp_path / "worker_0/rvae_jax/.venv/bin/python"
    python.write_text('#!/bin/bash\n[[ $2 != *devices* ]] || { echo "cpu" >&2; exit 1; }\n')
    run = launch("tpu_vm.sh", "check", variables=QUICK)
    assert run.returncode == 1 and "has no TPU for JAX" in run.stderr


def test_no_worker_starts_if_their_data_differ(launch, tmp_path):
    workers(tmp_path, [[0], [0]])
    data = tmp_path / "here"
    for index, content in enumerate(["images", "fewer"]):
        (tmp_path / f"data_{index}").mkdir()
        (tmp_path / f"data_{index}/set").write_text(content)
    # The same path shows another folder on each worker.
    gcloud = tmp_path / "bin/gcloud"
    gcloud.write_text(gcloud.read_text().replace("(cd ", f"ln -sfn {tmp_path}/data_${{worker##*_}} {data}; (cd "))
    run = launch("tpu_vm.sh", "run", "--", "x", variables=QUICK | {"DATA_DIR": str(data)})
    assert run.returncode == 1
    assert "1 files, 6 bytes" in run.stdout and "1 files, 5 bytes" in run.stdout
    assert "the data in $DATA_DIR differ between workers" in run.stderr
    assert not list(tmp_path.glob("worker_*/calls"))


def running_workers(launch, tmp_path, *arguments, **variables):
    """Starts ``tpu_vm.sh run``, and waits until both workers run the program."""
    command = [*INTERRUPTIBLE, "bash", str(LAUNCH / "tpu_vm.sh"), "run", "--", *arguments]
    run = subprocess.Popen(
        command,
        env=launch.environment | QUICK | variables,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while any(len(started(tmp_path, index)) < 1 for index in range(2)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    return run


def test_stopped_workers_save_and_are_not_restarted(launch, tmp_path):
    workers(tmp_path, [["wait"], ["wait"]])
    with running_workers(launch, tmp_path, "x") as run:
        stopped = launch("tpu_vm.sh", "stop", variables=TPU)
        assert stopped.stdout.count("STATE 143 stopped") == 2, stopped.stdout
        assert "ended with status 143 143: stopped" in run.stdout.read()
    assert run.returncode == 143
    assert (tmp_path / "worker_1/rvae_jax_run/log").read_text() == "working\nsaved\n"
    assert len(started(tmp_path, 0)) == 1


def test_an_abandoned_run_is_waited_for_and_not_started_twice(launch, tmp_path):
    """The connection breaks and the programs still run; a few failed polls do no harm."""
    workers(tmp_path, [["wait"], ["wait"]])
    with running_workers(launch, tmp_path, "x") as run:
        os.killpg(run.pid, signal.SIGINT)
        assert "the program still runs" in run.stdout.read()
    assert run.returncode == 130
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE running\n" * 2
    second = launch(tmp_path / "worker_0" / WORKER, "start", "x")
    assert "runs the program already; nothing was started" in second.stdout
    with subprocess.Popen(
        ["bash", str(LAUNCH / "tpu_vm.sh"), "run", "--", "x"],
        env=launch.environment | QUICK,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as again:
        assert again.stdout.readline() == "the program runs already; waiting for it\n"
        (tmp_path / "unreachable").write_text("no\n" * 3)
        while (tmp_path / "unreachable").stat().st_size:
            time.sleep(0.05)
        assert "STATE 143 stopped" in launch("tpu_vm.sh", "stop", variables=TPU).stdout
        assert "ended with status 143 143: stopped" in again.stdout.read()
    assert len(started(tmp_path, 0)) == len(started(tmp_path, 1)) == 1


def test_a_worker_that_does_not_end_with_the_others_is_killed(launch, tmp_path):
    workers(tmp_path, [[134, 0], ["wait", 0]])
    run = launch("tpu_vm.sh", "run", "--", "x", variables=QUICK | {"LEAVE_S": "0"})
    assert run.returncode == 0, run.stdout + run.stderr
    assert "some workers have ended, others have not" in run.stdout
    assert "ended with status 134 137: restart" in run.stdout
    assert len(started(tmp_path, 0)) == len(started(tmp_path, 1)) == 2


def test_unreachable_workers_are_not_restarted(launch, tmp_path):
    workers(tmp_path, [["wait"], ["wait"]])
    with running_workers(launch, tmp_path, "x") as run:
        (tmp_path / "unreachable").write_text("no\n" * 10)
        assert "not all workers can be reached; the program may still run there" in run.stdout.read()
    assert run.returncode == 69
    assert len(started(tmp_path, 0)) == 1
    launch("tpu_vm.sh", "stop", variables=TPU)


def test_a_program_counts_as_running_until_its_status_is_written(launch, tmp_path):
    """The program has ended, and its overseer has not written the status yet."""
    workers(tmp_path, [[1]])
    mv = fake(tmp_path, "mv", 'sleep 1; exec /bin/mv "$@"')
    launch(tmp_path / "worker_0" / WORKER, "start", "x")
    while not calls(mv):
        time.sleep(0.05)
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE running\n"
    assert launch("tpu_vm.sh", "stop", variables=TPU).stdout == "STATE 1 stopped\n"


def test_the_program_of_a_restarted_machine_counts_as_lost(launch, tmp_path):
    workers(tmp_path, [[0]])
    state = tmp_path / "worker_0/rvae_jax_run"
    state.mkdir()
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE none\n"
    for name in ("overseer", "pid"):
        (state / name).write_text(str(os.getpid()))  # now another process has the id
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE 255\n"
