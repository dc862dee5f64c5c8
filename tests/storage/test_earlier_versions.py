"""What the program wrote before its folders were rearranged (reference/v0_1.zip) is read unchanged."""

import dataclasses
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from reference import relative_error

import rvae_jax
from rvae_jax.config import DataConfig, ModelConfig
from rvae_jax.data import catalog
from rvae_jax.evaluation import results
from rvae_jax.formats.author_run import import_keras
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.storage.workdir import read_config
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A run with its evaluation, its exports, the data set it was trained on, and what its model computed."""
    folder = tmp_path_factory.mktemp("v0_1")
    with zipfile.ZipFile(Path(__file__).parents[1] / "reference" / "v0_1.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def expected(files):
    with np.load(files / "expected.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("path", ["run", "export/safetensors", "export/safetensors/model.safetensors", "export/hub"])
def test_a_model_is_loaded_and_computes_the_same(files, expected, path):
    model = rvae_jax.load(files / path, data_dir=str(files / "data"))
    np.testing.assert_array_equal(model.images("validation"), expected["images"])
    mean, log_var = model.encode(expected["images"])
    assert relative_error(mean, expected["mean"]) < 1e-5
    assert relative_error(log_var, expected["log_var"]) < 1e-5
    assert relative_error(model.decode(mean), expected["decoded"]) < 1e-5
    assert relative_error(model.sample(2, seed=3), expected["prior"]) < 1e-5
    assert relative_error(model.sample(2, seed=3, sampler="gaussian"), expected["gaussian"]) < 1e-4


def test_a_run_goes_on(files, tmp_path):
    workdir = shutil.copytree(files / "run", tmp_path / "run")
    config = read_config(workdir)
    data = dataclasses.replace(config.data, data_dir=str(files / "data"))
    assert train(dataclasses.replace(config, steps=12, data=data), workdir) is None
    assert [row["step"] for row in read_metrics(workdir) if "loss/total" in row] == [4, 8, 12]
    assert Checkpoints(workdir, read_only=True).steps()[-1] == 12


def test_an_author_file_becomes_a_run(files, expected, tmp_path):
    config = read_config(files / "run")
    data = dataclasses.replace(config.data, data_dir=str(files / "data"))
    without_average = dataclasses.replace(config.optimizer, ema_decay=None)
    config = dataclasses.replace(config, data=data, optimizer=without_average)
    import_keras(files / "export/keras/author.weights.h5", config, tmp_path / "author")
    mean, _ = rvae_jax.load(tmp_path / "author").encode(expected["images"])
    assert relative_error(mean, expected["mean"]) < 1e-5


def test_a_prepared_data_set_is_found_by_its_name(files):
    data = DataConfig(name="waves", data_dir=str(files / "data"))
    config = dataclasses.replace(read_config(files / "run"), model=ModelConfig(image_shape=(16, 16, 3)), data=data)
    assert catalog.resolve(config).data.name == "waves/16"
    assert len(catalog.load_dataset(catalog.resolve(config).data, "train")) == 24


def test_an_evaluation_is_read_and_written_unchanged(files):
    evaluation = results.read(files / "run", step=4)
    assert results.to_bytes(evaluation) == (files / "run" / results.FILE).read_bytes()
