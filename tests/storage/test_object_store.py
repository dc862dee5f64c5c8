"""A run whose work directory is in an object store: against a local emulator of Google Cloud Storage."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import pytest

from rvae_jax.errors import UserError
from rvae_jax.storage import workdir

ROOT = pathlib.Path(__file__).parents[2]

# TensorStore expects the generation of an object in a header, which the emulator leaves out.
EMULATOR = """
import sys, threading
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

plain = objects.download

def download(request, response, storage, *rest, **options):
    plain(request, response, storage, *rest, **options)
    name = request.params["bucket_name"], request.params["object_id"]
    if name[1] in storage.objects.get(name[0], {}):
        response["x-goog-generation"] = storage.get_file_obj(*name)["generation"]

objects.download = download
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
print("started", flush=True)
threading.Event().wait()
"""

RUN = """
import sys
from etils import epath
import rvae_jax
from rvae_jax.formats import export
from rvae_jax.storage import stored_model
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics
from small_runs import tiny_config

workdir = "gs://bucket/runs/first"
for steps in (3, 5):
    train(tiny_config(sys.argv[1], steps=steps, eval_every=3, keep_checkpoints=1), workdir)
folder = epath.Path(workdir)
print("FILES", sorted(str(path.relative_to(folder)) for path in folder.glob("*")))
print("PICTURES", sorted(path.name for path in (folder / "pictures").iterdir()))
print("STEPS", [row["step"] for row in read_metrics(folder) if "loss/total" in row])
model = rvae_jax.load(workdir)
print("LOADED", model.step, model.sample(2).shape)
list(export.write(export.safetensors(stored_model.read(workdir)), folder / "export"))
print("EXPORTED", rvae_jax.load(workdir + "/export"), rvae_jax.load(workdir + "/export/model.safetensors").step)
try:
    train(tiny_config(sys.argv[1], seed=7), workdir)
except rvae_jax.errors.UserError as error:
    print("REFUSED", error)
"""


@pytest.fixture
def emulator():
    pytest.importorskip("gcp_storage_emulator")
    pytest.importorskip("gcsfs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", EMULATOR, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout.readline() == "started\n"
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


def test_a_run_in_a_bucket(emulator, data_dir):
    environment = os.environ | {
        "STORAGE_EMULATOR_HOST": emulator,
        "TENSORSTORE_GCS_HTTP_URL": emulator,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks the real service
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), data_dir],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    said = dict(line.split(" ", 1) for line in run.stdout.splitlines() if line.split(" ")[0].isupper())
    files = ["checkpoints", "config.json", "environment.json", "metrics.jsonl", "parameters.txt", "pictures"]
    assert said["FILES"] == str([*files, "population.safetensors", "tensorboard"])
    pictures = ["reconstructions.png", "reconstructions_00000003.png", "reconstructions_00000005.png"]
    assert str(pictures)[1:-1] in said["PICTURES"]
    assert said["STEPS"] == "[2, 3, 4, 5]"
    assert said["LOADED"] in ("3 (2, 16, 16, 1)", "5 (2, 16, 16, 1)")
    assert "from exported directory gs://bucket/runs/first/export, step" in said["EXPORTED"]
    assert "gs://bucket/runs/first holds a run with another configuration: seed is 0 there and 7" in said["REFUSED"]


def test_a_missing_package_for_the_store_is_named(monkeypatch):
    def exists(self):
        raise ImportError("no gcsfs", name="gcsfs")

    monkeypatch.setattr(type(workdir.epath.Path("gs://bucket/run")), "exists", exists)
    with pytest.raises(UserError, match=r"gs://bucket/run: gcsfs is missing; pip install .*\[gcs\]"):
        workdir.open_workdir("gs://bucket/run")
