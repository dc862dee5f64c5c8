import dataclasses
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from making import noise, user_error
from PIL import Image

from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "My Cats"
    path.mkdir()
    for i in range(40):
        Image.fromarray(noise(24, 36, 3, seed=i)).save(path / f"{i:02d}.png")
    return path


def _config(data_dir, shape=(16, 16, 3), **data):
    return Config(model=ModelConfig(image_shape=shape), data=DataConfig(data_dir=str(data_dir), **data))


def _prepare_error(*args, **kwargs):
    return user_error(prepare_for, _config(*args, **kwargs))


def test_a_folder_is_prepared_once(folder, tmp_path, capsys):
    config = _config(tmp_path, (8, 12, 3), folder=str(folder), crop=None)
    resolved = prepare_for(config).data
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
        expected = noise(24, 36, 3, seed=i).reshape(8, 3, 12, 3, 3).mean(axis=(1, 3))
        assert np.abs(by_name[f"{i:02d}.png"] - expected).max() <= 0.51

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare_for(config).data == prepare_for(dataclasses.replace(config, data=resolved)).data == resolved
    assert "Already prepared" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_is_cut_as_the_configuration_says(folder, tmp_path):
    resolved = prepare_for(_config(tmp_path, (10, 14, 3), folder=str(folder), crop=(10, 14))).data
    assert resolved.crop is None
    for row in tfds.data_source(resolved.name, split="test", data_dir=tmp_path):
        np.testing.assert_array_equal(row["image"], noise(24, 36, 3, seed=int(row["name"][:2]))[7:17, 11:25])


def test_another_folder_crop_or_shape_has_another_name(folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "My Cats")
    same = prepare_for(_config(tmp_path / "data", folder=str(folder))).data.name
    assert prepare_for(_config(tmp_path / "data", folder=f"{changed}/")).data.name == same
    (changed / "40.png").write_bytes((changed / "00.png").read_bytes())
    others = [
        prepare_for(_config(tmp_path / "data", folder=str(changed))).data.name,
        prepare_for(_config(tmp_path / "data", folder=str(folder), crop=(20, 20))).data.name,
        prepare_for(_config(tmp_path / "data", (16, 16, 1), folder=str(folder))).data.name,
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
            prepare_for(config)
    resolved = prepare_for(config).data
    assert len(catalog.load_dataset(resolved, "train+validation+test")) == 40


def test_an_archive_is_prepared_as_a_folder_is(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "Zipped"), "zip", folder)
    resolved = prepare_for(_config(tmp_path / "data", folder=archive)).data
    assert resolved.name.startswith("folder_zipped_")
    assert len(catalog.load_dataset(resolved, "train+validation+test")) == 40


def test_a_tilde_and_splits_are_the_users(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = _config("~/sets", folder=str(folder), train_split="train[:9]")
    resolved = prepare_for(config).data
    assert resolved.train_split == "train[:9]"
    assert len(catalog.load_dataset(resolved, resolved.train_split)) == 9
    assert (tmp_path / "sets" / resolved.name).is_dir()
    assert prepare_for(_config("~/sets", (112, 96, 1), name="orl")).data.name == "orl"
    assert len(catalog.load_dataset(DataConfig(name="orl", data_dir="~/sets"), "train")) == 360


def test_before_the_work_the_caller_may_refuse(folder, tmp_path):
    seen = []

    def refuse(config):
        seen.append(config)
        raise UserError("no")

    config = _config(tmp_path / "data", folder=str(folder))
    assert user_error(prepare_for, config, refuse) == "no"
    assert not (tmp_path / "data").exists()
    assert [prepare_for(config)] == seen


def test_neither_folder_nor_name_or_both_are_told(folder, tmp_path):
    assert "--config.data.name: not given" in _prepare_error(tmp_path)
    assert "--config.data.name: not given" in _prepare_error(tmp_path, name="")
    assert "--config.data.folder is empty" in _prepare_error(tmp_path, folder="")
    message = _prepare_error(tmp_path, folder=str(folder), name="cats")
    assert "expected one of them" in message
    assert not list(tmp_path.iterdir())


def test_four_channels_are_refused(folder, tmp_path):
    assert "expected 1 or 3 channels" in _prepare_error(tmp_path, (16, 16, 4), folder=str(folder))


def test_an_archive_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "a.tar")

    (tmp_path / "a.tar").touch()
    monkeypatch.setattr(zipfile, "is_zipfile", refuse)
    assert "a.tar: Permission denied" in _prepare_error(tmp_path, folder=str(tmp_path / "a.tar"))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    assert "no such folder or file" in _prepare_error(tmp_path, folder=str(tmp_path / "none"))
