"""The scripts of launch/, without a cloud: what they print, what they run, when they start again."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
HOSTILE = ["--config=configs/orl.py", "a b", "it's", "$HOME", '"q"', ";", "--config.data.crop=(1,2)"]
TPU = {"TPU_NAME": "rvae", "ZONE": "us-west4-a", "PROJECT": "mine"}
QUEUED = TPU | {"ACCELERATOR_TYPE": "v5litepod-16", "RUNTIME_VERSION": "v2-alpha-tpuv5-lite"}
GKE = {
    "NAME": "celeba",
    "IMAGE": "registry/rvae_jax:1",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "4x4",
    "HOSTS": "4",
    "DATA_BUCKET": "bucket",
    "CLUSTER": "cluster",
    "TPU_TYPE": "v5litepod-16",
    "ZONE": "us-west4-a",
    "PROJECT": "mine",
}


@pytest.fixture
def launch(tmp_path):
    """Runs a script with given variables; what is in ``tmp_path/bin`` comes first on the path."""
    (tmp_path / "bin").mkdir()
    plain = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(script, *arguments, variables=None, **options):
        return subprocess.run(
            ["bash", str(LAUNCH / script), *arguments],
            env=plain | (variables or {}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    run.environment = plain
    return run


def fake(tmp_path, name, body):
    """Puts a program of ours before the real one; it first writes down its arguments, a line of JSON each time."""
    path = tmp_path / "bin" / name
    log = tmp_path / f"{name}.calls"
    note = "import json, sys; print(json.dumps(sys.argv[1:]))"
    path.write_text(f'#!/bin/bash\npython3 -c {shlex.quote(note)} "$@" >> {log}\n{body}\n')
    path.chmod(0o755)
    return log


def calls(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def answers(tmp_path, name, values):
    """Shell code that takes the next of the values, and the last one ever after."""
    queue = tmp_path / f"queue_of_{name}"
    queue.write_text("".join(f"{value}\n" for value in values))
    return f'next=$(head -1 {queue}); [ "$(wc -l < {queue})" = 1 ] || sed -i 1d {queue}'


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.glob("*") if path.suffix in (".sh", ".sbatch")))
def test_shellcheck(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    command = ["shellcheck", "--external-sources", f"--source-path={LAUNCH.parent}", str(LAUNCH / script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "missing"),
    [
        *[("tpu_vm.sh", ["setup"], TPU, name) for name in TPU],
        *[
            ("tpu_vm.sh", ["stage"], TPU | {"DATA_DIR": "/d", "DATA_BUCKET": "b"}, n)
            for n in ("DATA_DIR", "DATA_BUCKET")
        ],
        *[("tpu_queued.sh", ["create"], QUEUED, name) for name in QUEUED],
        *[("gke.sh", ["render", "--", "x"], GKE, name) for name in list(GKE)[:6]],
        *[("gke.sh", ["xpk", "--", "x"], GKE, name) for name in ("CLUSTER", "TPU_TYPE", "ZONE", "PROJECT")],
    ],
)
def test_a_missing_variable_is_named(launch, script, arguments, variables, missing):
    variables = {name: value for name, value in variables.items() if name != missing}
    run = launch(script, "--dry-run", *arguments, variables=variables)
    assert run.returncode == 1
    assert run.stderr.startswith(f"Error: ${missing} is not set; expected such as: export {missing}=")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("tpu_vm.sh", ["frobnicate"], "'frobnicate': expected setup, stage"),
        ("tpu_vm.sh", ["run"], "no arguments for the program; expected them after --"),
        ("tpu_vm.sh", ["run", "--config=x"], "--config=x: unknown option; the program's own come after --"),
        ("tpu_queued.sh", [], "'': expected create, wait"),
        ("gke.sh", ["apply"], "no arguments for the program"),
        ("one_host.sh", [], "no arguments for the program"),
        ("one_host.sh", ["run", "--", "x"], "run: unexpected"),
    ],
)
def test_wrong_use_is_one_line(launch, script, arguments, expected):
    run = launch(script, *arguments, variables=QUEUED | GKE)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: ") and expected in run.stderr and run.stderr.count("\n") == 1


def test_dry_run_prints_what_would_be_run(launch, tmp_path):
    """And runs nothing: gcloud, kubectl and the like are not even there."""
    ran = [fake(tmp_path, name, "exit 1") for name in ("gcloud", "kubectl", "xpk", "srun", "gcsfuse", "python")]
    place = ["--zone=us-west4-a", "--project=mine"]
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "rvae", *place, "--worker=all"]
    data = {"DATA_DIR": "/data", "DATA_BUCKET": "gs://bucket/sets of mine", "LOG_DIR": "my logs"}

    def printed(script, *arguments):
        run = launch(script, *arguments, "--dry-run", *(["--", *HOSTILE] if arguments[0] in "run xpk" else []),
                     variables=QUEUED | GKE | data)  # fmt: skip
        assert run.returncode == 0, run.stderr
        return [shlex.split(line) for line in run.stdout.splitlines()]

    archive, copy, install = printed("tpu_vm.sh", "setup")
    assert archive[:2] == ["git", "-C"] and archive[-1] == "HEAD"
    scp = ["gcloud", "compute", "tpus", "tpu-vm", "scp", "/tmp/rvae_jax.tar.gz", "rvae:rvae_jax.tar.gz"]
    assert copy == [*scp, *place, "--worker=all"]
    assert install[:-1] == ssh and "pip install -q -e '.[train,tpu,gcs]'" in install[-1]
    (stage,) = printed("tpu_vm.sh", "stage")
    rsync = "set -e; mkdir -p /data; gcloud storage rsync --recursive gs://bucket/sets\\ of\\ mine /data"
    assert stage == [*ssh, f"--command={rsync}"]
    make, logs = printed("tpu_vm.sh", "logs")
    assert make == ["mkdir", "-p", "my logs"]
    assert logs == [*ssh, "--command=cat rvae_jax_run/log", "--output-directory=my logs"]
    assert printed("tpu_vm.sh", "delete")[1:] == [
        ["gcloud", "compute", "tpus", "tpu-vm", "delete", "rvae", *place, "--quiet"]
    ]
    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    create = [*queued, "create", "rvae", "--node-id=rvae", *place, "--accelerator-type=v5litepod-16",
              "--runtime-version=v2-alpha-tpuv5-lite"]  # fmt: skip
    said, command = printed("tpu_queued.sh", "create")
    assert command == create and "costs money" in " ".join(said)
    assert printed("tpu_queued.sh", "wait") == [[*queued, "describe", "rvae", *place, "--format=value(state.state)"]]
    assert printed("tpu_queued.sh", "delete")[1] == [*queued, "delete", "rvae", *place, "--force", "--quiet"]
    (xpk,) = printed("gke.sh", "xpk")
    command = shlex.split(xpk[-1].removeprefix("--command="))
    assert command == ["python", "-m", "rvae_jax.main", "--distributed=on", *HOSTILE]
    assert printed("gke.sh", "delete")[1] == ["kubectl", "delete", "jobset", "celeba", "--wait=true"]
    one = launch("one_host.sh", "--dry-run", "--", *HOSTILE)
    assert shlex.split(one.stdout) == ["python", "-m", "rvae_jax.main", *HOSTILE]
    slurm = launch("slurm.sbatch", *HOSTILE, variables={"DRY_RUN": "1"})
    assert shlex.split(slurm.stdout)[:2] == ["srun", "--kill-on-bad-exit=0"]
    assert shlex.split(slurm.stdout)[-len(HOSTILE) - 4 :] == [
        "python",
        "-m",
        "rvae_jax.main",
        "--distributed=on",
        *HOSTILE,
    ]
    assert not any(calls(log) for log in ran)


def test_gcloud_knows_what_is_asked_of_it(launch, tmp_path):
    """Its own parser; a command that it understands ends for want of an account."""
    if shutil.which("gcloud") is None:
        pytest.skip("needs gcloud")
    variables = QUEUED | {"SPOT": "1", "DATA_DIR": "/data", "DATA_BUCKET": "gs://b", "LOG_DIR": str(tmp_path)}
    commands = []
    asked = {"tpu_vm.sh": ("setup", "logs", "delete"), "tpu_queued.sh": ("create", "status", "delete")}
    for script, command in [(script, command) for script, known in asked.items() for command in known]:
        printed = launch(script, command, "--dry-run", variables=variables).stdout.splitlines()
        commands += [line for line in printed if line.startswith("gcloud ")]
    assert len(commands) == 7
    for command in commands:
        run = subprocess.run(
            shlex.split(command),
            env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "config"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "You do not currently have an active account selected" in run.stderr, (command, run.stderr)


def workers(tmp_path, statuses):
    """Two workers as two folders, and a gcloud that runs commands in them; their programs end with given statuses."""
    revision = subprocess.run(["git", "-C", LAUNCH, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    for index, own in enumerate(statuses):
        worker = tmp_path / f"worker_{index}"
        (worker / "rvae_jax/.venv/bin").mkdir(parents=True)
        (worker / "rvae_jax/.revision").write_text(revision.stdout)
        (worker / "data").mkdir()
        (worker / "data/set").touch()
        python = worker / "rvae_jax/.venv/bin/python"
        note = "import json, sys; print(json.dumps(sys.argv[1:]))"
        python.write_text(
            f'#!/bin/bash\npython3 -c {shlex.quote(note)} "$@" >> {worker}/calls\necho working\n'
            f"trap 'exit 143' TERM\n{answers(tmp_path, f'worker_{index}', own)}\n"
            '[ "$next" != wait ] || { for _ in $(seq 100); do sleep 0.1; done; }\nexit "$next"\n'
        )
        python.chmod(0o755)
    body = f"""
        for last; do case $last in --command=*) command=${{last#--command=}} ;; esac; done
        for worker in {tmp_path}/worker_*/; do (cd "$worker" && bash -c "$command") || exit 1; done
    """
    return fake(tmp_path, "gcloud", body)


@pytest.mark.parametrize(
    ("statuses", "expected", "starts"),
    [
        ([[0], [0]], 0, 1),
        ([[143, 134, 0], [143, 70, 0]], 0, 3),
        ([[1], [134]], 1, 1),
        ([[70, 2], [70, 2]], 2, 2),
        ([[134], [134]], 1, 3),
    ],
)
def test_tpu_workers_start_again_together_where_that_helps(launch, tmp_path, statuses, expected, starts):
    workers(tmp_path, statuses)
    variables = TPU | {"POLL_S": "0.2", "RESTART_WAIT_S": "0", "MAX_RESTARTS": "2", "DATA_DIR": "data"}
    run = launch("tpu_vm.sh", "run", "--", *HOSTILE, variables=variables)
    assert run.returncode == expected, run.stdout + run.stderr
    for index in range(2):
        started = calls(tmp_path / f"worker_{index}/calls")
        assert started == [["-m", "rvae_jax.main", "--distributed=on", *HOSTILE]] * starts
        assert (tmp_path / f"worker_{index}/rvae_jax_run/log").read_text() == "working\n" * starts
    if starts == 3 and expected == 1:
        assert "restarted 2 times; expected at most $MAX_RESTARTS=2" in run.stderr


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [
        ("data/set", "has nothing in data; run stage"),
        ("rvae_jax/.revision", "has not the code of"),
    ],
)
def test_no_worker_starts_when_one_lacks_something(launch, tmp_path, lacks, expected):
    workers(tmp_path, [[0], [0]])
    (tmp_path / "worker_1" / lacks).unlink()
    run = launch("tpu_vm.sh", "run", "--", "x", variables=TPU | {"DATA_DIR": "data"})
    assert run.returncode == 1
    assert expected in run.stdout and "not all workers are ready; nothing was started" in run.stderr
    assert not list(tmp_path.glob("worker_*/calls"))


def test_stopping_lets_the_workers_save(launch, tmp_path):
    workers(tmp_path, [["wait"], ["wait"]])
    command = ["bash", str(LAUNCH / "tpu_vm.sh"), "run", "--", "x"]
    environment = launch.environment | TPU | {"POLL_S": "0.2", "MAX_RESTARTS": "0"}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        for _ in range(200):
            time.sleep(0.05)
            if len(list(tmp_path.glob("worker_*/rvae_jax_run/pid"))) == 2:
                break
        time.sleep(0.3)
        stopped = launch("tpu_vm.sh", "stop", variables=TPU)
        assert stopped.stdout.count("STATUS 143") == 2, stopped.stdout
        assert "ended with status 143 143: restart" in running.stdout.read()


def test_a_slice_that_was_taken_away_is_asked_for_again(launch, tmp_path):
    states = answers(tmp_path, "states", ["", "WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "ACTIVE"])
    runs = answers(tmp_path, "runs", ["255", "0"])
    body = f"""
        case "$*" in
            *describe*) {states}; [ -n "$next" ] && echo "$next" ;;
            *"ssh"*"setsid"*) echo started ;;
            *"ssh"*"STATUS"*) {runs}; echo "STATUS $next" ;;
        esac
    """
    log = fake(tmp_path, "gcloud", body)
    variables = QUEUED | {"POLL_S": "0", "RESTART_WAIT_S": "0", "MAX_RESTARTS": "0", "SPOT": "1"}
    run = launch("tpu_queued.sh", "watch", "--", "x", variables=variables)
    assert run.returncode == 0, run.stdout + run.stderr
    asked = [call[3] for call in calls(log) if call[2] == "queued-resources" and call[3] != "describe"]
    assert asked == ["create", "delete", "create"]
    assert "WAITING_FOR_RESOURCES after 0 minutes" in run.stdout
    assert "the slice was taken away; asks for another" in run.stdout
    assert "the slice is still there and costs money" in run.stdout


def test_a_failed_run_does_not_ask_for_another_slice(launch, tmp_path):
    log = fake(tmp_path, "gcloud", 'case "$*" in *describe*) echo ACTIVE ;; *STATUS*) echo "STATUS 1" ;; esac')
    run = launch("tpu_queued.sh", "watch", "--", "x", variables=QUEUED | {"POLL_S": "0"})
    assert run.returncode == 1
    assert "the run has ended, and the slice is still there and costs money" in run.stderr
    assert not {"create", "delete"} & {call[3] for call in calls(log)}


@pytest.mark.parametrize(
    ("statuses", "expected", "starts"), [([0], 0, 1), ([143, 70, 0], 0, 3), ([1], 1, 1), ([130], 130, 1), ([134], 1, 3)]
)
def test_one_host_starts_again_where_that_helps(launch, tmp_path, statuses, expected, starts):
    fake(tmp_path, "nvidia-smi", "exit 1")
    log = fake(tmp_path, "python", f'{answers(tmp_path, "python", statuses)}; echo working; exit "$next"')
    run = launch("one_host.sh", "--", *HOSTILE, variables={"RESTART_WAIT_S": "0", "MAX_RESTARTS": "2"})
    assert run.returncode == expected, run.stdout + run.stderr
    assert calls(log) == [["-m", "rvae_jax.main", *HOSTILE]] * starts
    assert (tmp_path / "logs/one_host.log").read_text() == "working\n" * starts


def test_one_host_passes_a_signal_on_and_waits(launch, tmp_path):
    fake(tmp_path, "nvidia-smi", "exit 1")
    log = fake(
        tmp_path, "python", "trap 'sleep 0.3; echo saved; exit 143' TERM; echo up; for i in 1 2 3 4; do sleep 1; done"
    )
    command = ["bash", str(LAUNCH / "one_host.sh"), "--", "x"]
    with subprocess.Popen(command, env=launch.environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGTERM)
        assert "saved" in running.stdout.read()
    assert running.returncode == 143
    assert len(calls(log)) == 1


def test_one_host_refuses_to_train_beside_the_gpus(launch, tmp_path):
    fake(tmp_path, "nvidia-smi", "echo 'GPU 0: NVIDIA H100'")
    log = fake(tmp_path, "python", "echo cpu")
    run = launch("one_host.sh", "--", "x")
    assert run.returncode == 1
    assert "nvidia-smi lists GPUs, and JAX sees only the cpu; pip install -e '.[train,cuda]'" in run.stderr
    assert len(calls(log)) == 1


@pytest.mark.parametrize(
    ("status", "state", "count", "requeued"),
    [
        (0, "RUNNING", 0, False),
        (1, "RUNNING", 0, False),
        (130, "RUNNING", 0, False),
        (143, "RUNNING", 0, True),
        (134, "RUNNING", 99, True),
        (143, "RUNNING", 100, False),
        (143, "CANCELLED", 0, False),
    ],
)
def test_slurm_requeues_where_that_helps(launch, tmp_path, status, state, count, requeued):
    fake(tmp_path, "srun", f"exit {status}")
    log = fake(tmp_path, "scontrol", f'[ "$1" != show ] || echo "JobId=7 JobState={state} Reason=None"')
    fake(tmp_path, "sleep", "exit 0")
    variables = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(count)}
    run = launch("slurm.sbatch", *HOSTILE, variables=variables)
    assert (["requeue", "7"] in calls(log)) == requeued, run.stdout + run.stderr
    assert run.returncode == (0 if requeued else status)


# https://pkg.go.dev/sigs.k8s.io/jobset/api/jobset/v1alpha2
JOBSET = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        *("replicatedJobs", "network", "successPolicy", "failurePolicy", "startupPolicy", "suspend", "coordinator"),
        *("managedBy", "ttlSecondsAfterFinished"),
    },
    "spec.failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "rule": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "replicatedJob": {"name", "groupName", "template", "replicas", "dependsOn"},
}


def test_gke_manifest_is_valid(launch):
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    run = launch("gke.sh", "render", "--", *HOSTILE, "@NAME@", variables=GKE | {"NAME": 'a: "b"'})
    assert run.returncode == 0, run.stderr
    assert yaml.safe_load(run.stdout)["metadata"]["name"] == 'a: "b"'
    manifest = yaml.safe_load(launch("gke.sh", "render", "--", *HOSTILE, "@NAME@", variables=GKE).stdout)
    assert set(manifest) == JOBSET[""]
    assert set(manifest["spec"]) <= JOBSET["spec"]
    assert set(manifest["spec"]["failurePolicy"]) <= JOBSET["spec.failurePolicy"]
    (rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert set(rule) <= JOBSET["rule"] and rule["action"] == "FailJobSet"
    (job,) = manifest["spec"]["replicatedJobs"]
    assert set(job) <= JOBSET["replicatedJob"]
    template = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, **job["template"]}
    validate.validate(template, "1.32", strict=True)
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["name"] == spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]
    assert container["args"] == ["--distributed=on", *HOSTILE, "@NAME@"]
    with pytest.raises(validate.ValidationError):
        validate.validate({**template, "spec": {**spec, "paralelism": 4}}, "1.32", strict=True)


def test_gke_numbers_are_numbers(launch):
    run = launch("gke.sh", "apply", "--dry-run", "--", "x", variables=GKE | {"HOSTS": "four"})
    assert run.returncode == 1
    assert "Error: $HOSTS is 'four'; expected a number" in run.stderr
