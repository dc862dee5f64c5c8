"""The scripts of launch/, without a cloud: what they print, what they run, when they start again."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
HOSTILE = [
    "--config=configs/orl.py",
    "a b",
    "it's",
    "$HOME",
    '"q"',
    ";",
    "$(date)",
    "--config.data.crop=(1,2)",
    "zwölf",
]
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
DATA = {"DATA_DIR": "/var/tmp/my data", "DATA_BUCKET": "gs://bucket/sets of mine"}
PLACE = ["--zone=us-west4-a", "--project=mine"]
SSH = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "rvae", *PLACE, "--worker=all"]
QUEUED_RESOURCES = ["gcloud", "compute", "tpus", "queued-resources"]
WORKER = "rvae_jax/launch/tpu_worker.sh"
# What runs in the background ignores SIGINT, and so does bash below it, whatever it traps.
INTERRUPTIBLE = ["env", "--default-signal=INT"]
NOTE = r"""{ printf '%s\037' "$@"; echo; }"""


@pytest.fixture
def launch(tmp_path):
    """Runs a script with given variables; what is in ``tmp_path/bin`` comes first on the path."""
    (tmp_path / "bin").mkdir()
    plain = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), "LANG": "C.UTF-8"}

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


@pytest.fixture
def printed(launch):
    """What a script prints with --dry-run, the words of each line."""

    def run(script, command, *arguments, variables=None):
        result = launch(script, command, "--dry-run", *arguments, variables=QUEUED | GKE | DATA | (variables or {}))
        assert result.returncode == 0, result.stderr
        return [shlex.split(line) for line in result.stdout.splitlines()]

    return run


def fake(tmp_path, name, body):
    """Puts a program of ours before the real one; it first writes down its arguments, a line each time."""
    path = tmp_path / "bin" / name
    log = tmp_path / f"{name}.calls"
    path.write_text(f"#!/bin/bash\n{NOTE} >> {log}\n{body}\n")
    path.chmod(0o755)
    return log


def calls(log):
    return [line.split("\037")[:-1] for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def answers(tmp_path, name, values):
    """Shell code that takes the next of the values, and the last one ever after."""
    queue = tmp_path / f"{name}.queue"
    queue.write_text("".join(f"{value}\n" for value in values))
    return f'next=$(head -1 {queue}); [ "$(wc -l < {queue})" = 1 ] || sed -i 1d {queue}'


def revision():
    command = ["git", "-C", str(LAUNCH), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def readme_commands(start):
    lines = (LAUNCH / "README.md").read_text().replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith(f"    {start}")]


def test_shellcheck():
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    scripts = sorted(str(path) for path in LAUNCH.glob("*") if path.suffix in (".sh", ".sbatch"))
    assert len(scripts) == 7
    command = ["shellcheck", "--external-sources", f"--source-path={LAUNCH.parent}", *scripts]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "missing"),
    [
        *[("tpu_vm.sh", ["setup"], TPU, name) for name in TPU],
        *[("tpu_vm.sh", ["stage"], TPU | DATA, name) for name in DATA],
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
        ("tpu_vm.sh", ["stage"], "$DATA_DIR is data; expected a path from /"),
        ("tpu_worker.sh", ["frobnicate"], "'frobnicate': expected install, check"),
        ("tpu_queued.sh", [], "'': expected create, wait"),
        ("tpu_queued.sh", ["run"], "no arguments for the program"),
        ("gke.sh", ["apply"], "no arguments for the program"),
        ("one_host.sh", [], "no arguments for the program"),
        ("one_host.sh", ["run", "--", "x"], "run: unexpected"),
        ("slurm.sbatch", ["x"], "no SLURM job; expected sbatch"),
    ],
)
def test_wrong_use_is_one_line(launch, script, arguments, expected):
    run = launch(script, *arguments, variables=QUEUED | GKE | {"DATA_DIR": "data"})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: ") and expected in run.stderr and run.stderr.count("\n") == 1


def test_scripts_can_be_executed():
    """The README calls them, and on the workers ssh does."""
    for path in LAUNCH.glob("*.sh"):
        assert os.access(path, os.X_OK) or path.name == "lib.sh", path


def test_a_dry_run_runs_nothing(launch, tmp_path):
    ran = [fake(tmp_path, name, "exit 1") for name in ("gcloud", "kubectl", "xpk", "srun", "gcsfuse", "python")]
    every = {
        "tpu_vm.sh": "setup stage check run status logs stop delete",
        "tpu_queued.sh": "create wait run watch status delete",
        "gke.sh": "render apply status logs delete xpk",
    }
    for script, commands in every.items():
        usage = (LAUNCH / script).read_text().split(f"launch/{script} ", 1)[1].split(" ", 1)[0]
        assert commands == usage.replace("|", " ")
        for command in commands.split():
            run = launch(script, command, "--dry-run", "--", *HOSTILE, variables=QUEUED | GKE | DATA)
            assert (run.returncode, bool(run.stdout)) == (0, True), (script, command, run.stderr)
    assert launch("one_host.sh", "--dry-run", "--", "x").returncode == 0
    assert launch("slurm.sbatch", "x", variables={"DRY_RUN": "1"}).returncode == 0
    assert not any(calls(log) for log in ran)


def test_commands_of_tpu_vm(printed):
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
    assert said[:5] == ["deletes", "the", "TPU", "VM", "rvae"]


def test_commands_of_tpu_queued(printed):
    said, create = printed("tpu_queued.sh", "create")
    assert create == [*QUEUED_RESOURCES, "create", "rvae", "--node-id=rvae", *PLACE, "--accelerator-type=v5litepod-16",
                      "--runtime-version=v2-alpha-tpuv5-lite"]  # fmt: skip
    assert "costs money" in " ".join(said)
    spot = {"SPOT": "1", "SERVICE_ACCOUNT": "me@mine"}
    assert printed("tpu_queued.sh", "create", variables=spot)[1] == [*create, "--spot", "--service-account=me@mine"]
    describe = [*QUEUED_RESOURCES, "describe", "rvae", *PLACE, "--format=value(state.state)"]
    assert printed("tpu_queued.sh", "status") == printed("tpu_queued.sh", "wait") == [describe]
    said, delete = printed("tpu_queued.sh", "delete")
    assert delete == [*QUEUED_RESOURCES, "delete", "rvae", *PLACE, "--force", "--quiet"]
    assert said[:4] == ["deletes", "the", "queued", "resource"]
    on_slice = [line for command in ("setup", "stage") for line in printed("tpu_vm.sh", command)]
    on_slice += printed("tpu_vm.sh", "run", "--", *HOSTILE)
    assert printed("tpu_queued.sh", "run", "--", *HOSTILE) == [describe, *on_slice]
    assert printed("tpu_queued.sh", "watch", "--", *HOSTILE)[1:] == [create, describe, *on_slice]


def test_commands_of_gke(printed, launch):
    selector = "--selector=jobset.sigs.k8s.io/jobset-name=celeba"
    (xpk,) = printed("gke.sh", "xpk", "--", *HOSTILE)
    assert xpk[:-1] == [
        *("xpk", "workload", "create", "--workload=celeba", "--docker-image=registry/rvae_jax:1", "--cluster=cluster"),
        *("--tpu-type=v5litepod-16", *PLACE, "--max-restarts=100", "--restart-on-exit-codes=70"),
        "--termination-grace-period-seconds=120",
    ]
    command = shlex.split(xpk[-1].removeprefix("--command="))
    assert command == ["exec", "python", "-m", "rvae_jax.main", "--distributed=on", *HOSTILE]
    assert printed("gke.sh", "status") == [
        ["kubectl", "get", "jobset", "celeba"],
        ["kubectl", "get", "pods", selector, "--output=wide"],
    ]
    assert printed("gke.sh", "logs")[1:] == [["kubectl", "get", "pods", selector, "--output=name"]]
    assert printed("gke.sh", "logs", "--follow") == [
        ["kubectl", "logs", selector, "--container=rvae-jax", "--prefix", "--follow", "--max-log-requests=256"]
    ]
    assert printed("gke.sh", "delete")[1:] == [["kubectl", "delete", "jobset", "celeba", "--wait=true"]]
    applied = launch("gke.sh", "apply", "--dry-run", "--", *HOSTILE, variables=GKE).stdout
    rendered = launch("gke.sh", "render", "--", *HOSTILE, variables=GKE).stdout
    assert applied == f"kubectl apply -f - << 'END'\n{rendered}END\n"


def test_commands_of_one_host_and_slurm(launch):
    one = launch("one_host.sh", "--dry-run", "--", *HOSTILE, variables={"PYTHON": "my python"})
    assert shlex.split(one.stdout) == ["my python", "-m", "rvae_jax.main", *HOSTILE]
    program = ["python", "-m", "rvae_jax.main", "--distributed=on", *HOSTILE]
    log = ["--open-mode=append", "--output=logs/%x-%j.task%t.log"]
    variables = {"DRY_RUN": "1"}
    expected = ["srun", "--kill-on-bad-exit=0", *log, *program]
    for arguments in (HOSTILE, ["--", *HOSTILE]):
        assert shlex.split(launch("slurm.sbatch", *arguments, variables=variables).stdout) == expected
    slurm = launch("slurm.sbatch", *HOSTILE, variables=variables | {"SLURM_CPUS_PER_TASK": "12"})
    assert shlex.split(slurm.stdout) == [*expected[:2], "--cpus-per-task=12", *expected[2:]]


def test_gcloud_knows_what_is_asked_of_it(printed, tmp_path):
    """Its own parser; a command that it understands ends for want of an account."""
    if shutil.which("gcloud") is None:
        pytest.skip("needs gcloud")
    variables = {"SPOT": "1", "SERVICE_ACCOUNT": "me@mine", "LOG_DIR": str(tmp_path)}

    def command_of(script, command, line=-1):
        return printed(script, command, variables=variables)[line]

    (stage,) = printed("tpu_vm.sh", "stage")
    commands = [
        command_of("tpu_vm.sh", "setup", line=1),
        command_of("tpu_vm.sh", "logs"),
        command_of("tpu_vm.sh", "delete"),
        command_of("tpu_queued.sh", "create"),
        command_of("tpu_queued.sh", "status"),
        command_of("tpu_queued.sh", "delete"),
        shlex.split(stage[-1].split(" && ")[1]),
        *[shlex.split(re.sub(r"\$(\w+)", "mine", command)) for command in readme_commands("gcloud ")],
    ]
    assert len(commands) > 12
    wrong = [*commands[0], "--sport"]
    # One process for all: gcloud takes a second to start.
    library = pathlib.Path(shutil.which("gcloud")).resolve().parents[1] / "lib"
    program = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/third_party"]
from googlecloudsdk import gcloud_main
cli = gcloud_main.CreateCLI([])
for command in json.loads(sys.argv[2]):
    try:
        cli.Execute(command[1:])
    except SystemExit:
        print("\\0", file=sys.stderr)
"""
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(tmp_path / "config"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "NO_GCE_CHECK": "true",
    }
    every = [sys.executable, "-c", program, str(library), json.dumps([*commands, wrong])]
    run = subprocess.run(every, env=environment, capture_output=True, text=True, check=False)
    *outcomes, outcome_of_wrong, rest = run.stderr.split("\0")
    assert (len(outcomes), rest.strip()) == (len(commands), ""), run.stderr
    for command, outcome in zip(commands, outcomes, strict=True):
        assert "You do not currently have an active account selected" in outcome, (command, outcome)
    assert "unrecognized arguments: --sport" in outcome_of_wrong


def workers(tmp_path, statuses):
    """Workers as folders, and a gcloud that runs commands in them; their programs end with given statuses."""
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
def test_tpu_workers_start_again_together_where_that_helps(launch, tmp_path, statuses, expected, starts):
    workers(tmp_path, statuses)
    variables = QUICK | {"MAX_RESTARTS": "2", "DATA_DIR": str(tmp_path / "data")}
    run = launch("tpu_vm.sh", "run", "--", *HOSTILE, variables=variables)
    assert run.returncode == expected, run.stdout + run.stderr
    for index in range(2):
        assert started(tmp_path, index) == [["-m", "rvae_jax.main", "--distributed=on", *HOSTILE]] * starts
        assert (tmp_path / f"worker_{index}/rvae_jax_run/log").read_text() == "working\n" * starts
    assert ("restarted 2 times" in run.stderr) == (starts == 3 and expected == 1)
    assert "$DATA_DIR is set, and the arguments are without --config.data.data_dir=" in run.stderr


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda tmp_path: (tmp_path / "worker_1/rvae_jax/.revision").write_text("old"), "has not the code of"),
        (lambda tmp_path: (tmp_path / "worker_1/rvae_jax/launch").unlink(), "No such file"),
        (lambda tmp_path: (tmp_path / "worker_1/rvae_jax/.venv/bin/python").unlink(), "cannot import rvae_jax"),
        (lambda tmp_path: (tmp_path / "data/set").unlink(), "has nothing in"),
    ],
)
def test_no_worker_starts_when_one_lacks_something(launch, tmp_path, spoil, expected):
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


def test_workers_with_different_data_do_not_start(launch, tmp_path):
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
    assert "the workers' data in $DATA_DIR differ" in run.stderr
    assert not list(tmp_path.glob("worker_*/calls"))


def running_workers(launch, tmp_path, *arguments, **variables):
    """A ``tpu_vm.sh run`` whose two programs wait."""
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


def test_stopped_workers_save_and_are_not_started_again(launch, tmp_path):
    workers(tmp_path, [["wait"], ["wait"]])
    with running_workers(launch, tmp_path, "x") as run:
        stopped = launch("tpu_vm.sh", "stop", variables=TPU)
        assert stopped.stdout.count("STATE 143 stopped") == 2, stopped.stdout
        assert "ended with status 143 143: stopped" in run.stdout.read()
    assert run.returncode == 143
    assert (tmp_path / "worker_1/rvae_jax_run/log").read_text() == "working\nsaved\n"
    assert len(started(tmp_path, 0)) == 1


def test_a_run_that_was_left_is_found_again_and_not_started_twice(launch, tmp_path):
    """The connection breaks, the programs go on; polls that fail now and then do no harm."""
    workers(tmp_path, [["wait"], ["wait"]])
    with running_workers(launch, tmp_path, "x") as run:
        os.killpg(run.pid, signal.SIGINT)
        assert "the program goes on" in run.stdout.read()
    assert run.returncode == 130
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE running\n" * 2
    assert "runs already; nothing started" in launch(tmp_path / "worker_0" / WORKER, "start", "x").stdout
    with subprocess.Popen(
        ["bash", str(LAUNCH / "tpu_vm.sh"), "run", "--", "x"],
        env=launch.environment | QUICK,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as again:
        assert again.stdout.readline() == "runs already; waits for it\n"
        (tmp_path / "unreachable").write_text("no\n" * 3)
        while (tmp_path / "unreachable").stat().st_size:
            time.sleep(0.05)
        assert "STATE 143 stopped" in launch("tpu_vm.sh", "stop", variables=TPU).stdout
        assert "ended with status 143 143: stopped" in again.stdout.read()
    assert len(started(tmp_path, 0)) == len(started(tmp_path, 1)) == 1


def test_one_that_does_not_end_with_the_others_is_killed(launch, tmp_path):
    workers(tmp_path, [[134, 0], ["wait", 0]])
    run = launch("tpu_vm.sh", "run", "--", "x", variables=QUICK | {"LEAVE_S": "0"})
    assert run.returncode == 0, run.stdout + run.stderr
    assert "some workers have ended, and others have not" in run.stdout
    assert "ended with status 134 137: restart" in run.stdout
    assert len(started(tmp_path, 0)) == len(started(tmp_path, 1)) == 2


def test_workers_out_of_reach_are_no_reason_to_start_others(launch, tmp_path):
    workers(tmp_path, [["wait"], ["wait"]])
    with running_workers(launch, tmp_path, "x") as run:
        (tmp_path / "unreachable").write_text("no\n" * 10)
        assert "not all workers can be reached; the program may go on there" in run.stdout.read()
    assert run.returncode == 69
    assert len(started(tmp_path, 0)) == 1
    launch("tpu_vm.sh", "stop", variables=TPU)


def test_an_end_is_not_told_before_its_status_is_known(launch, tmp_path):
    """The program is gone, and what watches over it has not yet written how it ended."""
    workers(tmp_path, [[1]])
    mv = fake(tmp_path, "mv", 'sleep 1; exec /bin/mv "$@"')
    launch(tmp_path / "worker_0" / WORKER, "start", "x")
    while not calls(mv):
        time.sleep(0.05)
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE running\n"
    assert launch("tpu_vm.sh", "stop", variables=TPU).stdout == "STATE 1 stopped\n"


def test_a_worker_that_was_restarted_has_lost_its_program(launch, tmp_path):
    workers(tmp_path, [[0]])
    state = tmp_path / "worker_0/rvae_jax_run"
    state.mkdir()
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE none\n"
    for name in ("overseer", "pid"):
        (state / name).write_text(str(os.getpid()))  # now another program's
    assert launch("tpu_vm.sh", "status", variables=TPU).stdout == "STATE 255\n"


def cloud(tmp_path, states, runs):
    """A gcloud whose queued resource goes through the states, and whose programs end with the statuses.

    The state NONE is that of no request; at the status GONE no worker answers.
    """
    body = f"""
        case "$*" in
            *describe*)
                {answers(tmp_path, "states", states)}
                [ "$next" != NONE ] || {{ echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }}
                echo "$next" ;;
            *"tpu_worker.sh state"*)
                [ -e {tmp_path}/started ] || {{ echo "STATE none"; exit; }}
                {answers(tmp_path, "runs", runs)}
                rm {tmp_path}/started
                [ "$next" != GONE ] || exit 255
                echo "STATE $next" ;;
            *"tpu_worker.sh start"*) touch {tmp_path}/started ;;
            *"tpu_worker.sh check"*) [ ! -e {tmp_path}/away ] || exit 255 ;;
        esac
    """
    return fake(tmp_path, "gcloud", body)


def asked(log):
    """What was asked of the queued resource besides its state."""
    return [call[3] for call in calls(log) if call[2] == "queued-resources" and call[3] != "describe"]


WATCH = QUEUED | {"POLL_S": "0", "RESTART_WAIT_S": "0", "MAX_RESTARTS": "0", "SPOT": "1"}


def watch_script(tmp_path):
    """The scripts with one failed poll instead of five, so that these tests are quick."""
    copy = tmp_path / "launch"
    shutil.copytree(LAUNCH, copy)
    script = copy / "tpu_vm.sh"
    text = script.read_text()
    assert "\nMAX_FAILED_POLLS=5\n" in text
    script.write_text(text.replace("\nMAX_FAILED_POLLS=5\n", "\nMAX_FAILED_POLLS=1\n"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--message=x", "--allow-empty"]):
        subprocess.run([*git, *command], check=True)
    return copy / "tpu_queued.sh"


def test_a_slice_that_was_taken_away_is_asked_for_again(launch, tmp_path):
    states = ["NONE", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDING", "FAILED", "PROVISIONING", "ACTIVE"]
    log = cloud(tmp_path, states, ["GONE", "0"])
    run = launch(watch_script(tmp_path), "watch", "--", "x", variables=WATCH)
    assert run.returncode == 0, run.stdout + run.stderr
    assert asked(log) == ["create", "delete", "create", "delete", "create"]
    assert "rvae is WAITING_FOR_RESOURCES, after 0 minutes" in run.stdout
    assert run.stdout.count("the slice was taken away; asks for another") == 2
    assert "the slice is still there and costs money" in run.stdout


def test_recreations_are_bounded(launch, tmp_path):
    log = cloud(tmp_path, ["SUSPENDED"], ["0"])
    run = launch("tpu_queued.sh", "watch", "--", "x", variables=WATCH | {"MAX_RECREATIONS": "2"})
    assert run.returncode == 1
    assert "the slice was taken away 3 times; expected at most $MAX_RECREATIONS=2" in run.stderr
    assert asked(log) == ["delete", "create"] * 2


def test_a_slice_that_is_there_and_out_of_reach_is_tried_again_and_not_replaced(launch, tmp_path):
    log = cloud(tmp_path, ["ACTIVE"], ["0"])
    (tmp_path / "away").touch()
    run = launch("tpu_queued.sh", "watch", "--", "x", variables=WATCH)
    assert run.returncode == 1
    assert "the slice is there, costs money, and could not be used 3 times" in run.stderr
    assert asked(log) == []


@pytest.mark.parametrize(("command", "status"), [("watch", 1), ("watch", 2), ("run", 1)])
def test_a_failed_run_does_not_ask_for_another_slice(launch, tmp_path, command, status):
    log = cloud(tmp_path, ["ACTIVE"], [status])
    run = launch("tpu_queued.sh", command, "--", "x", variables=WATCH)
    assert run.returncode == status
    assert f"the run has ended with status {status}, and the slice is still there and costs money" in run.stderr
    assert asked(log) == []


def test_a_finished_slice_is_deleted_where_wanted(launch, tmp_path):
    log = cloud(tmp_path, ["ACTIVE"], ["0"])
    run = launch("tpu_queued.sh", "run", "--", "x", variables=WATCH | {"DELETE_WHEN_DONE": "1"})
    assert run.returncode == 0, run.stdout + run.stderr
    assert asked(log) == ["delete"]
    assert any("--command=cat rvae_jax_run/log" in call for call in calls(log))


def test_credentials_that_are_missing_end_the_waiting(launch, tmp_path):
    log = fake(tmp_path, "gcloud", 'echo "ERROR: PERMISSION_DENIED" >&2; exit 1')
    run = launch("tpu_queued.sh", "wait", variables=WATCH)
    assert run.returncode == 1
    assert "PERMISSION_DENIED" in run.stderr and "cannot be looked up" in run.stderr
    assert len(calls(log)) == 10


@pytest.mark.parametrize(
    ("statuses", "expected", "starts"),
    [([0], 0, 1), ([143, 70, 0], 0, 3), ([1], 1, 1), ([2], 2, 1), ([130], 130, 1), ([134], 1, 3)],
)
def test_one_host_starts_again_where_that_helps(launch, tmp_path, statuses, expected, starts):
    fake(tmp_path, "nvidia-smi", "exit 1")
    log = fake(tmp_path, "python", f'{answers(tmp_path, "python", statuses)}; echo working; exit "$next"')
    run = launch("one_host.sh", "--", *HOSTILE, variables={"RESTART_WAIT_S": "0", "MAX_RESTARTS": "2"})
    assert run.returncode == expected, run.stdout + run.stderr
    assert calls(log) == [["-m", "rvae_jax.main", *HOSTILE]] * starts
    assert (tmp_path / "logs/one_host.log").read_text() == "working\n" * starts


def test_waits_longer_each_time(launch, tmp_path):
    fake(tmp_path, "nvidia-smi", "exit 1")
    fake(tmp_path, "python", "exit 134")
    log = fake(tmp_path, "sleep", "exit 0")
    launch("one_host.sh", "--", "x", variables={"RESTART_WAIT_S": "100", "MAX_RESTARTS": "4"})
    assert calls(log) == [["100"], ["200"], ["400"], ["600"]]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_host_passes_a_signal_on_once_and_waits(launch, tmp_path, number, status):
    """Also where it reaches the whole foreground, as Ctrl-C does: the log then has what the program says last."""
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


def test_one_host_ends_at_once_between_two_programs(launch, tmp_path):
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
def test_one_host_refuses_to_train_beside_the_gpus(launch, tmp_path, backend, variables, starts):
    fake(tmp_path, "nvidia-smi", "echo 'GPU 0: NVIDIA H100'")
    log = fake(tmp_path, "python", f"[ $1 != -c ] || echo {backend}")
    run = launch("one_host.sh", "--", "x", variables=variables)
    assert run.returncode == 1 - starts, run.stderr
    assert ("nvidia-smi lists GPUs, and JAX sees only the cpu; pip install -e '.[train,cuda]'" in run.stderr) != starts
    assert sum(call[0] == "-m" for call in calls(log)) == starts


@pytest.mark.parametrize(
    ("status", "state", "count", "requeued"),
    [
        (0, "RUNNING", 0, False),
        (1, "RUNNING", 0, False),
        (2, "RUNNING", 0, False),
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


def test_slurm_asks_for_time_to_save():
    """The signal goes to the tasks, which save; the script, without B:, lives on to requeue."""
    options = [line.split() for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if line[:8] == "#SBATCH "]
    assert {"--requeue", "--open-mode=append", "--signal=TERM@120"} <= {option for _, option in options}


# JobSet v1alpha2, from api/jobset/v1alpha2/jobset_types.go of kubernetes-sigs/jobset, which is what
# https://pkg.go.dev/sigs.k8s.io/jobset/api/jobset/v1alpha2 shows.
JOBSET = {
    "JobSet": {"apiVersion", "kind", "metadata", "spec"},
    "JobSetSpec": {
        *("replicatedJobs", "network", "successPolicy", "failurePolicy", "startupPolicy", "suspend", "coordinator"),
        *("managedBy", "ttlSecondsAfterFinished", "volumeClaimPolicies"),
    },
    "FailurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "FailurePolicyRule": {
        *("name", "action", "onJobFailureReasons", "onJobFailureMessagePatterns", "targetReplicatedJobs")
    },
    "ReplicatedJob": {"name", "groupName", "template", "replicas", "dependsOn"},
}
JOBSET_RULE_NAME = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"


def expanded(argument):
    """What Kubernetes makes of an argument, in a container without variables."""
    return argument.replace("$$", "$")


def test_gke_manifest_is_valid(launch):
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    run = launch("gke.sh", "render", "--", *HOSTILE, "@NAME@", variables=GKE | {"NAME": 'a: "b"'})
    assert run.returncode == 0, run.stderr
    assert yaml.safe_load(run.stdout)["metadata"]["name"] == 'a: "b"'
    arguments = [*HOSTILE, "@NAME@", "$(HOME)", "$$", "\U0001f600", "two\nlines"]
    manifest = yaml.safe_load(launch("gke.sh", "render", "--", *arguments, variables=GKE).stdout)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(manifest) == JOBSET["JobSet"]
    assert set(manifest["spec"]) <= JOBSET["JobSetSpec"]
    policy = manifest["spec"]["failurePolicy"]
    assert set(policy) <= JOBSET["FailurePolicy"]
    (rule,) = policy["rules"]
    assert set(rule) <= JOBSET["FailurePolicyRule"] and re.fullmatch(JOBSET_RULE_NAME, rule["name"])
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert policy["maxRestarts"] == 100
    (job,) = manifest["spec"]["replicatedJobs"]
    assert set(job) <= JOBSET["ReplicatedJob"]
    template = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, **job["template"]}
    validate.validate(template, "1.32", strict=True)
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
    (failure,) = spec["podFailurePolicy"]["rules"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert failure == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [1, 2]},
    }
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert [expanded(each) for each in container["args"]] == ["--distributed=on", *arguments]
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", each) for each in container["args"])
    (volume,) = pod["volumes"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "bucket"
    with pytest.raises(validate.ValidationError):
        validate.validate({**template, "spec": {**spec, "paralelism": 4}}, "1.32", strict=True)


def test_kubectl_reads_the_job(launch, tmp_path):
    """Its own parser, without a cluster, on the Job that the JobSet holds; of a JobSet it would ask the cluster."""
    yaml = pytest.importorskip("yaml")
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    manifest = yaml.safe_load(launch("gke.sh", "render", "--", *HOSTILE, variables=GKE).stdout)
    (job,) = manifest["spec"]["replicatedJobs"]

    def read(spec):
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, "spec": spec}
        (tmp_path / "job.json").write_text(json.dumps(document))
        command = ["kubectl", "set", "image", "--local", "--filename", str(tmp_path / "job.json"), "--output=json"]
        command += ["rvae-jax=other:2"]
        environment = os.environ | {"KUBECONFIG": str(tmp_path / "none")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    answer = json.loads(read(job["template"]["spec"]).stdout)["spec"]
    assert answer["template"]["spec"]["containers"][0]["image"] == "other:2"
    assert answer["podFailurePolicy"] == job["template"]["spec"]["podFailurePolicy"]
    assert read(job["template"]["spec"] | {"parallelism": "four"}).returncode != 0


def test_gke_numbers_are_numbers(launch):
    run = launch("gke.sh", "apply", "--dry-run", "--", "x", variables=GKE | {"HOSTS": "four"})
    assert run.returncode == 1
    assert "Error: $HOSTS is 'four'; expected a number" in run.stderr


def test_gke_logs_are_copied_pod_by_pod(launch, tmp_path):
    log = fake(tmp_path, "kubectl", '[ $1 = logs ] && echo "log of $2" || printf "pod/celeba-0\\npod/celeba-1\\n"')
    run = launch("gke.sh", "logs", variables=GKE | {"LOG_DIR": "my logs"})
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "my logs/celeba-1.log").read_text() == "log of pod/celeba-1\n"
    assert ["logs", "pod/celeba-0", "--container=rvae-jax"] in calls(log)


def test_image_has_all_that_it_copies():
    """What the Dockerfile copies is there, and not ignored."""
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    copied = []
    for line in (LAUNCH / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            copied += [word for word in line.split()[1:-1] if not word.startswith("--")]
    assert {"pyproject.toml", "rvae_jax", "configs"} <= set(copied)
    for name in copied:
        assert (LAUNCH.parent / name).exists() and f"!{name}" in ignored
    assert 'ENTRYPOINT ["python", "-m", "rvae_jax.main"]' in (LAUNCH / "Dockerfile").read_text()


@pytest.mark.parametrize("command", readme_commands("launch/"))
def test_commands_of_the_readme(launch, command):
    script, *words = shlex.split(command)
    option = [] if script.endswith("sbatch") else ["--dry-run"]
    variables = QUEUED | GKE | DATA | {"DRY_RUN": "1"}
    run = launch(script.removeprefix("launch/"), *option, *words, variables=variables)
    assert run.returncode == 0 and run.stdout, run.stderr


def test_readme_names_every_variable_and_command():
    readme = (LAUNCH / "README.md").read_text()
    for script in LAUNCH.glob("*.sh"):
        for name in re.findall(r"require_env ([A-Z_]+)|\$\{([A-Z][A-Z_]+):-", script.read_text()):
            assert re.search(rf"\b{''.join(name)}\b", readme), (script.name, name)
    assert len(readme_commands("launch/")) > 15
