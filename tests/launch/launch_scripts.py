"""Values and stand-ins that the tests of launch/ share."""

import pathlib
import subprocess

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
# A background process ignores SIGINT, and so does a bash that it starts, even with a trap.
INTERRUPTIBLE = ["env", "--default-signal=INT"]
NOTE = r"""{ printf '%s\037' "$@"; echo; }"""


def fake(tmp_path, name, body):
    """Puts a program before the real one on the path; each call first appends its arguments to the returned log."""
    path = tmp_path / "bin" / name
    log = tmp_path / f"{name}.calls"
    path.write_text(f"#!/bin/bash\n{NOTE} >> {log}\n{body}\n")
    path.chmod(0o755)
    return log


def calls(log):
    return [line.split("\037")[:-1] for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def answers(tmp_path, name, values):
    """Shell code that sets ``next`` to the next of the values, and to the last one from then on."""
    queue = tmp_path / f"{name}.queue"
    queue.write_text("".join(f"{value}\n" for value in values))
    return f'next=$(head -1 {queue}); [ "$(wc -l < {queue})" = 1 ] || sed -i 1d {queue}'


def revision():
    command = ["git", "-C", str(LAUNCH), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def readme_commands(start):
    lines = (LAUNCH / "README.md").read_text().replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith(f"    {start}")]
