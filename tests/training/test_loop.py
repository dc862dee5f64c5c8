"""A run from its first step to its last, and what it leaves behind."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from run_cases import assert_documented, losses_by_step
from small_runs import tiny_config

import rvae_jax
from rvae_jax.config import DataConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.errors import UserError
from rvae_jax.formats.export import safetensors, write
from rvae_jax.storage import stored_model
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.storage.run_weights import load_weights
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


ALL_DEVICES = jax.devices()


def test_a_run_leaves_the_files_that_train_lists(finished):
    workdir, _ = finished
    assert json.loads((workdir / "config.json").read_text())["model"]["latent_dim"] == 16
    assert {path.name for path in (workdir / "pictures").iterdir()} >= {
        "reconstructions.png",
        "samples.png",
        "transition.png",
        "reconstructions_00000004.png",
    }
    assert "encoder/stem/kernel" in (workdir / "parameters.txt").read_text()
    assert Checkpoints(workdir, read_only=True).steps() == [4, 8]
    (events,) = (workdir / "tensorboard").iterdir()
    assert b"validation/l1" in events.read_bytes()


def test_pictures_have_their_size_and_contrast(finished):
    workdir, _ = finished
    for name in ("reconstructions", "samples", "transition"):
        with Image.open(workdir / "pictures" / f"{name}.png") as picture:
            pixels = np.asarray(picture)
        assert pixels.shape[1] == 10 * 98 + 2
        assert pixels.std() > 10


def test_metrics_are_finite_and_documented(finished):
    workdir, _ = finished
    rows = read_metrics(workdir)
    assert [row["step"] for row in rows if "loss/total" in row] == [2, 4, 6, 8]
    assert_documented(rows)


def test_the_step_is_compiled_once(finished):
    _, messages = finished
    assert sum("XLA compilation of jit(train_step)" in message for message in messages) == 1, messages


def test_init_from_takes_what_fits_and_lists_the_rest(finished, data_dir, tmp_path, capsys):
    workdir, _ = finished
    list(write(safetensors(stored_model.read(workdir)), stored_model.epath.Path(tmp_path / "export")))
    others = {"model.image_shape": (8, 8, 1), "model.input_norm": False, "optimizer.learning_rate": 1e-12}
    config = tiny_config(data_dir, steps=1, **others)
    train(config, tmp_path / "run", init_from=tmp_path / "export")
    said = capsys.readouterr().out
    assert "vae/params/encoder/norm/gamma (16, 16): there only" in said
    assert "vae/params/sampler/z_mean/kernel: (128, 16) there, (32, 16) here, starts fresh" in said
    _, theirs, step = load_weights(workdir)
    assert f"Starts from exported directory {tmp_path / 'export'}, step {step};" in said
    _, ours, _ = load_weights(tmp_path / "run")
    for tree in (ours["vae"]["params"], ours["ema_params"]):
        np.testing.assert_allclose(
            tree["decoder"]["stem"]["kernel"], theirs["ema_params"]["decoder"]["stem"]["kernel"], atol=1e-9
        )
    with pytest.raises(UserError, match="already holds a run, at step 1"):
        train(dataclasses.replace(config, steps=2), tmp_path / "run", init_from=workdir)


@pytest.mark.parametrize("network", ["paper", "patches"])
def test_codes_may_have_two_dimensions(data_dir, tmp_path, network):
    train(tiny_config(data_dir, steps=1, **{"model.latent_dim": 2, "model.network": network}), tmp_path)
    model = rvae_jax.load(tmp_path)
    assert model.sample(3).shape == (3, 16, 16, 1)
    assert model.encode(model.sample(3).clip(-1, 1))[0].shape == (3, 2)


def test_a_model_is_loaded_while_its_run_deletes_checkpoints(finished, tmp_path, monkeypatch):
    copy = shutil.copytree(finished[0], tmp_path / "run")
    first = Checkpoints(copy, read_only=True).best_step()
    weight_shapes = Checkpoints.weight_shapes

    def delete_and_read(self, step):
        if step == first:
            shutil.rmtree(self.folder / str(step))
        return weight_shapes(self, step)

    monkeypatch.setattr(Checkpoints, "weight_shapes", delete_and_read)
    assert load_weights(copy)[2] == ({4, 8} - {first}).pop()
    with pytest.raises(UserError, match=f"holds no checkpoint of step {first}"):
        load_weights(copy, first)


def test_several_devices_train_as_one(finished, data_dir, tmp_path):
    four = ALL_DEVICES[:4]
    train(tiny_config(data_dir), tmp_path, devices=four)
    ours, theirs = losses_by_step(tmp_path), losses_by_step(finished[0])
    assert len(four) == 4 and ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)
    config = tiny_config(data_dir, batch_size=10)
    with pytest.raises(UserError, match="batch_size=10: expected a multiple of the 4 devices"):
        train(config, tmp_path / "other", devices=four)


@pytest.fixture
def folder_config(tmp_path):
    """Trains on a folder of sixty pictures of noise."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / f"pictures/{number}.png")
    data = DataConfig(folder=str(tmp_path / "pictures"), data_dir=str(tmp_path / "datasets"))
    return tiny_config(None, data=data, steps=4)


def damage_train_records(config, indices):
    (shard,) = pathlib.Path(config.data.data_dir).rglob("*-train.array_record*")
    content = bytearray(shard.read_bytes())
    images = catalog.load_dataset(prepare_for(config).data, "train")
    for pixels in [images[index].tobytes() for index in indices]:
        content[content.index(pixels) + 100] ^= 0xFF
    shard.write_bytes(content)


def test_a_run_on_a_folder_goes_on_past_damaged_records(folder_config, tmp_path, capsys):
    prepare_for(folder_config)
    damage_train_records(folder_config, [5])
    assert train(folder_config, tmp_path / "run") is None
    assert "Warning: 1 images cannot be read and are replaced by others; the last: Corrupted" in capsys.readouterr().out
    rows = [row for row in read_metrics(tmp_path / "run") if "damaged_images" in row]
    assert rows
    assert all(row["damaged_images"] == 1 for row in rows)
    assert all(0 <= row["input_wait"] < 10 for row in rows)

    shutil.copy(tmp_path / "pictures/0.png", tmp_path / "pictures/another.png")
    prepared = sorted((tmp_path / "datasets").iterdir())
    with pytest.raises(UserError, match=r"the files in --config\.data\.folder have changed since; to go on") as error:
        train(dataclasses.replace(folder_config, steps=6), tmp_path / "run")
    assert sorted((tmp_path / "datasets").iterdir()) == prepared
    (name,) = re.findall(r"--config\.data\.name=(\S+) instead", str(error.value))
    data = dataclasses.replace(folder_config.data, folder=None, name=name)
    assert train(dataclasses.replace(folder_config, steps=6, data=data), tmp_path / "run") is None


def test_too_many_damaged_records_stop_a_run(folder_config, tmp_path):
    prepare_for(folder_config)
    damage_train_records(folder_config, [1, 5, 7])
    with pytest.raises(UserError, match=r"is damaged: [23] of 48 images cannot be read so far"):
        train(folder_config, tmp_path / "run")


def test_a_run_is_loaded_at_its_best_or_a_given_step(finished):
    workdir, _ = finished
    model = rvae_jax.load(workdir)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
    mean, log_var = model.encode(images)
    assert mean.shape == log_var.shape == (3, 16)
    np.testing.assert_array_equal(model.reconstruct(images), model.decode(mean))
    assert model.reconstruct(images).shape == images.shape
    np.testing.assert_array_equal(model.sample(2, seed=1), model.sample(2, seed=1))
    assert not np.array_equal(model.sample(2, seed=1), model.sample(2, seed=2))
    best = min((row["selection/l1"], row["step"]) for row in read_metrics(workdir) if "selection/l1" in row)
    assert model.step == best[1]
    older = rvae_jax.load(workdir, step=4)
    assert older.step == 4
    assert not np.array_equal(older.decode(mean), rvae_jax.load(workdir, step=8).decode(mean))
    with pytest.raises(UserError, match=r"no checkpoint of step 5; there are \[4, 8\]"):
        rvae_jax.load(workdir, step=5)
    with pytest.raises(UserError, match=r"shape \(3, 8, 8, 1\); expected \(n, 16, 16, 1\)"):
        model.encode(images[:, ::2, ::2])
    with pytest.raises(UserError, match=r"expected \(n, 16\)"):
        model.decode(np.zeros((1, 15)))


def test_loaded_weights_are_the_averaged_ones(finished):
    workdir, _ = finished
    _, weights, _ = load_weights(workdir)
    loaded = rvae_jax.load(workdir).variables["params"]["decoder"]["stem"]["kernel"]
    np.testing.assert_array_equal(loaded, weights["ema_params"]["decoder"]["stem"]["kernel"])
    assert not np.array_equal(loaded, weights["vae"]["params"]["decoder"]["stem"]["kernel"])


def test_the_last_checkpoint_is_the_result_where_that_is_asked(data_dir, tmp_path, capsys):
    # The learning rate is far too high after the first steps, so that the error on the selection images rises.
    config = tiny_config(data_dir, select="last", **{"optimizer.learning_rate": 0.1, "optimizer.warmup": 6})
    train(config, tmp_path / "run")
    assert "Done. Selected, as the last: step 8;" in capsys.readouterr().out
    errors = {row["step"]: row["selection/l1"] for row in read_metrics(tmp_path / "run") if "selection/l1" in row}
    assert errors[8] > errors[4]
    assert rvae_jax.load(tmp_path / "run").step == 8
