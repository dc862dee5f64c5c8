"""All scripts of launch/: wrong use, dry runs, and their README."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from launch_scripts import (
    DATA,
    GKE,
    HOSTILE,
    LAUNCH,
    QUEUED,
    TPU,
    calls,
    fake,
    readme_commands,
)


def test_shellcheck_finds_nothing():
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
    assert run.stderr.startswith(f"Error: ${missing} is not set; for example: export {missing}=")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("tpu_vm.sh", ["frobnicate"], "'frobnicate': expected setup, stage"),
        ("tpu_vm.sh", ["run"], "no arguments for the program; give them after --"),
        ("tpu_vm.sh", ["run", "--config=x"], "--config=x: unknown option; options of the program come after --"),
        ("tpu_vm.sh", ["stage"], "$DATA_DIR is data; expected an absolute path"),
        ("tpu_worker.sh", ["frobnicate"], "'frobnicate': expected install, check"),
        ("tpu_queued.sh", [], "'': expected create, wait"),
        ("tpu_queued.sh", ["run"], "no arguments for the program"),
        ("gke.sh", ["apply"], "no arguments for the program"),
        ("one_host.sh", [], "no arguments for the program"),
        ("one_host.sh", ["run", "--", "x"], "run: unexpected"),
        ("slurm.sbatch", ["x"], "no SLURM job; expected sbatch"),
    ],
)
def test_wrong_use_is_refused_on_one_line(launch, script, arguments, expected):
    run = launch(script, *arguments, variables=QUEUED | GKE | {"DATA_DIR": "data"})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: ") and expected in run.stderr and run.stderr.count("\n") == 1


def test_the_scripts_are_executable():
    """The README runs them directly, and so does ssh on the workers."""
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


def test_gcloud_parses_our_commands(printed, tmp_path):
    """By its own parser; a command that it understands fails since there is no account."""
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


def test_the_image_copies_only_files_that_exist_and_are_not_ignored():
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
def test_the_commands_of_the_readme_run(launch, command):
    script, *words = shlex.split(command)
    option = [] if script.endswith("sbatch") else ["--dry-run"]
    variables = QUEUED | GKE | DATA | {"DRY_RUN": "1"}
    run = launch(script.removeprefix("launch/"), *option, *words, variables=variables)
    assert run.returncode == 0 and run.stdout, run.stderr


def test_the_readme_names_every_variable():
    readme = (LAUNCH / "README.md").read_text()
    for script in LAUNCH.glob("*.sh"):
        for name in re.findall(r"require_env ([A-Z_]+)|\$\{([A-Z][A-Z_]+):-", script.read_text()):
            assert re.search(rf"\b{''.join(name)}\b", readme), (script.name, name)
    assert len(readme_commands("launch/")) > 15
