import contextlib
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from making import Interruption, interrupted_at, noise, open_pictures, user_error
from PIL import Image

from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings


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
            Image.fromarray(noise(20, 30, 3, seed=seed)).save(png, "png")
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
        Image.fromarray(noise(24, 36, 3, seed=i)).save(path / f"{i:02d}.png")
    return path


def _prepare(source, data_dir, *shapes, name="cats", **options):
    preparation.prepare(source, PreparationSettings(shapes=shapes), name, data_dir, processes=1, **options)


@pytest.fixture(scope="module")
def data_dir(folder, tmp_path_factory):
    """Sets of ours and of TFDS; nobody writes here."""
    path = tmp_path_factory.mktemp("datasets")
    _prepare(open_pictures(folder), path, (16, 16, 3), (24, 12, 3), (16, 16, 1))
    for builder in (Stripes, Blind, Riegeli):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder(data_dir=path, file_format="array_record").download_and_prepare()
    info = path / "riegeli/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"riegeli"'))
    return path


def _config(data_dir, shape=(16, 16, 3), **data):
    return Config(model=ModelConfig(image_shape=shape), data=DataConfig(data_dir=str(data_dir), **data))


def _resolve_error(*args, **kwargs):
    return user_error(catalog.resolve, _config(*args, **kwargs))


def _load_error(data_dir, name, split="train"):
    return user_error(catalog.load_dataset, DataConfig(name=name, data_dir=str(data_dir)), split)


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
def test_a_name_without_a_size_gets_that_of_the_model(data_dir, name, shape, found):
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


def test_the_error_names_what_is_there(data_dir):
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


def test_the_list_has_data_sets_of_this_program_and_of_tfds(data_dir, folder):
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


def test_the_list_has_what_was_begun(folder, tmp_path):
    source = open_pictures(folder)
    _prepare(source, tmp_path, (16, 16, 3))
    for name in ("cats", "dogs"):
        with pytest.raises(Interruption):
            _prepare(interrupted_at(source, 17), tmp_path, (24, 24, 3), name=name, shard_pictures=8)
    rows = list(catalog.listing(tmp_path))
    assert rows[0]["name"] == "cats/16"
    assert rows[1:] == [{"name": "cats", "parts": 2}, {"name": "dogs", "parts": 2}]
    assert "(there: cats/16)" in _load_error(tmp_path, "dogs/24")


def test_folders_that_are_no_data_sets_are_not_listed(tmp_path):
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
