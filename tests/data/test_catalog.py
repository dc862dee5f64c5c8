import contextlib
import dataclasses
import io
import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare import preparation, shards, sources
from rvae_jax.data.prepare.examples import Settings
from rvae_jax.errors import UserError


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Stripes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(20, 30, 3))
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": image}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(7)), "test": self._generate_examples(range(7, 9))}

    def _generate_examples(self, seeds):
        for seed in seeds:
            png = io.BytesIO()
            Image.fromarray(_noise(20, 30, 3, seed=seed)).save(png, "png")
            yield seed, {"image": io.BytesIO(png.getvalue())}


class Blind(Stripes):
    def _info(self):
        features = tfds.features.FeaturesDict({"label": tfds.features.Scalar(np.int32)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, seeds):
        yield 0, {"label": 1}


class Riegeli(Stripes):
    """Will say that it is in another file format."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "My Cats"
    path.mkdir()
    for i in range(40):
        Image.fromarray(_noise(24, 36, 3, seed=i)).save(path / f"{i:02d}.png")
    return path


def _prepare(folder, data_dir, *shapes, name="cats"):
    source = sources.open_source(folder, Path("/nowhere"))
    preparation.prepare(source, Settings(shapes=shapes), name, data_dir, processes=1)


@pytest.fixture(scope="module")
def data_dir(folder, tmp_path_factory):
    """Sets of ours and of TFDS; nobody writes here."""
    path = tmp_path_factory.mktemp("datasets")
    _prepare(folder, path, (16, 16, 3), (24, 12, 3), (16, 16, 1))
    for builder in (Stripes, Blind, Riegeli):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder(data_dir=path, file_format="array_record").download_and_prepare()
    info = path / "riegeli/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"riegeli"'))
    return path


def _config(data_dir, shape=(16, 16, 3), **data):
    return Config(model=ModelConfig(image_shape=shape), data=DataConfig(data_dir=str(data_dir), **data))


def _error(call, *args):
    with pytest.raises(UserError) as info:
        call(*args)
    message = str(info.value)
    assert "\n" not in message
    return message


def _resolve_error(*args, **kwargs):
    return _error(catalog.resolve, _config(*args, **kwargs))


def _load_error(data_dir, name, split="train"):
    return _error(catalog.load_dataset, DataConfig(name=name, data_dir=str(data_dir)), split)


# A folder of pictures


def test_a_folder_is_prepared_once(folder, tmp_path, monkeypatch, capsys):
    config = _config(tmp_path, (8, 12, 3), folder=str(folder), crop=None)
    resolved = catalog.resolve(config).data
    said = capsys.readouterr().out
    assert resolved.name.startswith("folder_my_cats_")
    assert resolved.name.endswith("/8x12")
    assert said.startswith(f"The pictures in {folder} are data.name={resolved.name} in {tmp_path}")
    splits = resolved.train_split, resolved.selection_split, resolved.validation_split
    assert splits == ("train", "validation", "test")
    assert dataclasses.replace(resolved, name=config.data.name) == config.data

    names = {split: len(catalog.load_dataset(resolved, split)) for split in splits}
    assert sum(names.values()) == 40
    assert min(names.values()) > 0
    by_name = {
        row["name"].decode(): row["image"]
        for split in splits
        for row in tfds.data_source(resolved.name, split=split, data_dir=tmp_path)
    }
    for i in range(40):
        expected = _noise(24, 36, 3, seed=i).reshape(8, 3, 12, 3, 3).mean(axis=(1, 3))
        assert np.abs(by_name[f"{i:02d}.png"] - expected).max() <= 0.51

    monkeypatch.setattr(shards, "_write_shard", lambda *args: pytest.fail("prepared again"))
    assert catalog.resolve(config).data == catalog.resolve(dataclasses.replace(config, data=resolved)).data == resolved
    assert "Already prepared" in capsys.readouterr().out


def test_a_folder_is_cut_as_the_configuration_says(folder, tmp_path):
    resolved = catalog.resolve(_config(tmp_path, (10, 14, 3), folder=str(folder), crop=(10, 14))).data
    assert resolved.crop is None
    for row in tfds.data_source(resolved.name, split="test", data_dir=tmp_path):
        np.testing.assert_array_equal(row["image"], _noise(24, 36, 3, seed=int(row["name"][:2]))[7:17, 11:25])


def test_another_folder_crop_or_shape_has_another_name(folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "My Cats")
    same = catalog.resolve(_config(tmp_path / "data", folder=str(folder))).data.name
    assert catalog.resolve(_config(tmp_path / "data", folder=f"{changed}/")).data.name == same
    (changed / "40.png").write_bytes((changed / "00.png").read_bytes())
    others = [
        catalog.resolve(_config(tmp_path / "data", folder=str(changed))).data.name,
        catalog.resolve(_config(tmp_path / "data", folder=str(folder), crop=(20, 20))).data.name,
        catalog.resolve(_config(tmp_path / "data", (16, 16, 1), folder=str(folder))).data.name,
    ]
    assert len({same, *others}) == 4
    assert len(catalog.load_dataset(DataConfig(name=same, data_dir=str(tmp_path / "data")), "train[:3]")) == 3


@pytest.mark.parametrize("method", ["mkdir", "rename"])
def test_a_folder_whose_preparation_was_killed_at_the_end_goes_on(folder, tmp_path, monkeypatch, method):
    """Just before and just after the rename by which the data set appears."""
    config = _config(tmp_path, folder=str(folder))
    original = getattr(Path, method)

    def killed(path, *args, **kwargs):
        if method == "rename" and path.name == "whole":
            raise KeyboardInterrupt
        original(path, *args, **kwargs)
        if method == "mkdir" and path.name == "16" and path.parent.name.startswith("folder_"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, killed)
        with pytest.raises(KeyboardInterrupt):
            catalog.resolve(config)
    resolved = catalog.resolve(config).data
    assert len(catalog.load_dataset(resolved, "train+validation+test")) == 40


def test_an_archive_is_a_folder_too(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "Zipped"), "zip", folder)
    resolved = catalog.resolve(_config(tmp_path / "data", folder=archive)).data
    assert resolved.name.startswith("folder_zipped_")
    assert len(catalog.load_dataset(resolved, "train+validation+test")) == 40


def test_a_home_and_splits_are_the_users(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = _config("~/sets", folder=str(folder), train_split="train[:9]")
    resolved = catalog.resolve(config).data
    assert resolved.train_split == "train[:9]"
    assert len(catalog.load_dataset(resolved, resolved.train_split)) == 9
    assert (tmp_path / "sets" / resolved.name).is_dir()
    assert catalog.resolve(_config("~/sets", (112, 96, 1), name="orl")).data.name == "orl"
    assert len(catalog.load_dataset(DataConfig(name="orl", data_dir="~/sets"), "train")) == 360


def test_before_the_work_the_caller_may_refuse(folder, tmp_path):
    seen = []

    def refuse(config):
        seen.append(config)
        raise UserError("no")

    config = _config(tmp_path / "data", folder=str(folder))
    assert _error(catalog.resolve, config, refuse) == "no"
    assert not (tmp_path / "data").exists()
    assert [catalog.resolve(config)] == seen


def test_neither_folder_nor_name_or_both_are_told(folder, tmp_path):
    assert "--config.data.name: not given" in _resolve_error(tmp_path)
    assert "--config.data.name: not given" in _resolve_error(tmp_path, name="")
    assert "--config.data.folder is empty" in _resolve_error(tmp_path, folder="")
    message = _resolve_error(tmp_path, folder=str(folder), name="cats")
    assert "expected one of them" in message
    assert not list(tmp_path.iterdir())


def test_four_channels_are_refused(folder, tmp_path):
    assert "expected 1 or 3 channels" in _resolve_error(tmp_path, (16, 16, 4), folder=str(folder))


def test_an_archive_that_may_not_be_read_is_told(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "a.tar")

    monkeypatch.setattr(sources, "open_source", refuse)
    assert "a.tar: Permission denied" in _resolve_error(tmp_path, folder=str(folder))


def test_what_was_unpacked_by_a_killed_process_is_removed(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "cats"), "gztar", folder)
    here = f".unpacked.{socket.gethostname()}"
    child = subprocess.Popen(["true"])
    child.wait()
    names = f"{here}.{child.pid}", f"{here}.{os.getppid()}", ".unpacked.elsewhere.1", f"{here}.example.1"
    dead, *others = (tmp_path / name for name in names)
    for left in (dead, *others):
        left.mkdir()
    with catalog.opened_source(archive, None, tmp_path, 16) as source:
        assert len(source.files) == 40
        assert len(list(tmp_path.glob(".unpacked*"))) == 4
    assert set(tmp_path.glob(".unpacked*")) == set(others)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    assert "no such folder or file" in _resolve_error(tmp_path, folder=str(tmp_path / "none"))


# Names


@pytest.mark.parametrize(
    ("name", "shape", "found"),
    [
        ("cats", (16, 16, 3), "cats/16"),
        ("cats", (24, 12, 3), "cats/24x12"),
        ("cats", (16, 16, 1), "cats/16_grey"),
        ("cats/16", (16, 16, 3), "cats/16"),
        ("stripes", (16, 16, 3), "stripes"),
        ("unknown", (16, 16, 3), "unknown"),
    ],
)
def test_a_name_without_a_size_is_of_the_models(data_dir, name, shape, found):
    config = _config(data_dir, shape, name=name)
    resolved = catalog.resolve(config)
    assert resolved.data.name == found
    assert dataclasses.replace(resolved.data, name=name) == config.data


@pytest.mark.parametrize(
    ("name", "shape", "command"),
    [
        ("cats", (32, 32, 3), "--name=cats --size=32x32,"),
        ("cats", (12, 24, 3), "--name=cats --size=12x24,"),
        ("cats", (24, 12, 1), "--name=cats --size=24x12 --grey,"),
        ("cats/24x12", (16, 16, 3), "--name=cats --size=16x16,"),
        ("cats/24x12:1.0.0", (16, 16, 3), "--name=cats --size=16x16,"),
        ("cats/16", (16, 16, 1), "--name=cats --size=16x16 --grey,"),
    ],
)
def test_another_shape_than_the_models_is_told(data_dir, name, shape, command):
    message = _resolve_error(data_dir, shape, name=name)
    assert message.startswith(f"data.name={name}: prepared as cats/16 (16x16x3), cats/16_grey (16x16x1), ")
    assert f"cats/24x12 (24x12x3), expected {'x'.join(map(str, shape))} as model.image_shape is" in message
    assert command in message


def test_images_are_opened_in_their_order(data_dir):
    images = catalog.load_dataset(DataConfig(name="cats/16", data_dir=str(data_dir)), "train[2:5]")
    rows = tfds.data_source("cats/16", split="train", data_dir=data_dir)
    assert len(images) == 3
    for i in range(3):
        np.testing.assert_array_equal(images[i], rows[2 + i]["image"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("striped", "did you mean stripes?"),
        ("mnst", "did you mean mnist?"),
        ("Zwzwzwzw", "not a data set of TFDS"),
        ("mnist", "run tfds build"),
        ("celeba", "run python -m rvae_jax.prepare celeb_a --size=SIZE --data_dir="),
        ("celeba_hq/64", "run python -m rvae_jax.prepare celeb_a_hq --size=64 --data_dir="),
        ("cats/99", "cats"),
        ("riegeli", "has the format riegeli, expected array_record"),
        ("blind", "has the features label"),
        ("cats/16:a.b", "cats/16:a.b"),
        ("../cats", "../cats"),
        ("", "data.name="),
    ],
)
def test_what_cannot_be_opened_is_told(data_dir, name, message):
    found = _load_error(data_dir, name)
    assert found.startswith(f"data.name={name}: ")
    if message == "run tfds build":
        message = "tfds build mnist --file_format=array_record"
    assert message in found


def test_what_is_there_is_named(data_dir):
    for name in ("mnist", "striped"):
        assert "(there: blind, cats/16, cats/16_grey, cats/24x12, riegeli, stripes)" in _load_error(data_dir, name)
    assert "(there: none)" in _load_error("/nowhere/at/all", "mnist")


@pytest.mark.parametrize("split", ["validate", "train[9:5]", "train[", "train[:0]", ""])
def test_a_split_without_images_is_told(data_dir, split):
    message = _load_error(data_dir, "cats/16", split)
    assert f"split {split!r}" in message
    assert "expected one of train (" in message


def test_a_file_that_is_lost_or_cut_is_told(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "copy")
    (file,) = (copy / "cats/16/1.0.0").glob("cats-train.*")
    file.write_bytes(file.read_bytes()[:70_000])
    assert f"incomplete: {file} has" in _load_error(copy, "cats/16")
    file.unlink()
    assert f"incomplete: no {file}" in _load_error(copy, "cats/16")


# Listing


def test_the_list_has_sets_of_ours_and_of_tfds(data_dir, folder):
    rows = {row["name"]: row for row in catalog.listing(data_dir)}
    assert list(rows) == ["blind", "cats/16", "cats/16_grey", "cats/24x12", "riegeli", "stripes"]
    cats, stripes = rows["cats/24x12"], rows["stripes"]
    assert (cats["shape"], cats["encoding"], cats["source"]) == ((24, 12, 3), "raw", "the folder My Cats")
    assert sum(cats["splits"].values()) == 40
    made = data_dir / "cats/24x12/1.0.0"
    assert cats["bytes"] == sum(len(path.read_bytes()) for path in made.iterdir()) > 40 * 24 * 12 * 3
    assert (stripes["shape"], stripes["encoding"], stripes["source"]) == ((20, 30, 3), "encoded", "TFDS")
    assert stripes["splits"] == {"train": 7, "test": 2}
    assert rows["blind"]["shape"] is None


def test_the_list_has_what_was_begun(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_SHARD_PICTURES", 8)
    _prepare(folder, tmp_path, (16, 16, 3))
    write, calls = shards._write_shard, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(shards, "_write_shard", interrupted)
    for name in ("cats", "dogs"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            _prepare(folder, tmp_path, (24, 24, 3), name=name)
    rows = list(catalog.listing(tmp_path))
    assert rows[0]["name"] == "cats/16"
    assert rows[1:] == [{"name": "cats", "parts": 2}, {"name": "dogs", "parts": 2}]
    assert "(there: cats/16)" in _load_error(tmp_path, "dogs/24")


def test_folders_of_others_are_not_listed(tmp_path):
    (tmp_path / "My Photos/16/1.0.0").mkdir(parents=True)
    (tmp_path / "downloads/manual").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("x")
    assert list(catalog.listing(tmp_path)) == []
    assert list(catalog.listing(tmp_path / "none")) == []


def test_the_folder_is_tfds_own_unless_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.default_data_dir("~/mine") == tmp_path / "mine"
    assert catalog.default_data_dir(None) == Path(tfds.core.constants.DATA_DIR).expanduser()


def test_a_damaged_set_is_listed_as_such_and_hides_no_other(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "copy")
    (copy / "cats/16/1.0.0/dataset_info.json").write_text("{")
    rows = {row["name"]: row for row in catalog.listing(copy)}
    assert str(copy / "cats/16") in rows["cats/16"]["unreadable"]
    assert rows["cats/24x12"]["shape"] == (24, 12, 3)
    assert "cats/24x12" in _load_error(copy, "catz")
    assert "data.name=cats/16: " in _load_error(copy, "cats/16")
    (copy / "file").write_text("x")
    assert "data.name=file: " in _load_error(copy, "file")
