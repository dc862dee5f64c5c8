"""Exported safetensors files are read again, and damaged or other files are refused."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath
from reference import relative_error
from safetensors import safe_open
from safetensors.numpy import load, save
from some_models import (
    MODELS,
    assert_same_weights,
    config_of,
    exported,
    flax,
    inputs,
    model_of,
    noise_and_its_images,
    random_weights,
    with_random_mixture,
    with_random_moments,
)

import rvae_jax
from rvae_jax.config import to_dict
from rvae_jax.errors import UserError
from rvae_jax.inference import samplers
from rvae_jax.storage import stored_model, tensor_file, weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_and_configuration_survive_a_round_trip(name, norm, dtype, tmp_path):
    model = model_of(name, tmp_path, norm=norm, dtype=dtype)
    folder, _ = exported(model)
    for path in (folder, folder / "model.safetensors"):
        found = stored_model.read(path)
        assert (found.config, found.step, found.folder) == (model.config, 7, folder)
        assert_same_weights(found.weights, model.weights)


@pytest.mark.parametrize("options", [{"adversarial": "none"}, {"ema_decay": 0.9}])
def test_a_file_has_the_players_and_averages_of_the_run(options, tmp_path):
    model = model_of("wide and grey", tmp_path, **options)
    folder, _ = exported(model)
    assert_same_weights(stored_model.read(folder).weights, model.weights)
    names = load((folder / "model.safetensors").read_bytes()).keys()
    assert any(name.startswith("discriminator.") for name in names) == ("adversarial" not in options)
    assert ("ema.encoder.stem.kernel" in names) == ("ema_decay" in options)
    assert {"encoder.stage_0.down.bn_4.moving_variance", "sampler.z_log_var.kernel"} <= names


def test_load_names_its_source_and_takes_averaged_weights(tmp_path):
    model = model_of("wide and grey", tmp_path, ema_decay=0.9)
    folder, _ = exported(model)
    x = inputs((16, 24, 1), 3)
    for path, kind in ((folder, "exported directory"), (folder / "model.safetensors", "file")):
        found = rvae_jax.load(path)
        assert repr(found) == f"TrainedVAE(16x24x1 images, 24 latent dimensions; from {kind} {path}, step 7)"
        assert relative_error(found.encode(x)[0], flax(model, "encode")(x)[0]) < 1e-6
        assert found.sample(2, seed=3).shape == (2, 16, 24, 1)
    plain = model.weights["vae"]
    assert relative_error(found.vae.apply(plain, x, method="encode")[0], found.encode(x)[0]) > 0.1


@pytest.mark.parametrize("name", ["wide and grey", "patches"])
def test_the_generators_tensors_have_the_decoders_names(name, tmp_path):
    """So whoever decodes with the model's own tensors generates with these."""
    model = with_random_moments(model_of(name, tmp_path))
    folder, _ = exported(model, prior="fold")
    ours, theirs = (load((folder / f"{file}.safetensors").read_bytes()) for file in ("model", "generator"))
    decoders = {key for key in ours if key.startswith(("decoder.", "linear."))}
    assert decoders == theirs.keys() and all(ours[key].shape == theirs[key].shape for key in decoders)
    leaves = weights.flatten(model.weights)
    leaves = {place: theirs.get(place.split("/", 2)[2].replace("/", "."), leaf) for place, leaf in leaves.items()}
    replaced = dataclasses.replace(model, weights=weights.unflatten(leaves))
    noise, images = noise_and_its_images(model)
    assert relative_error(flax(replaced, "decode")(noise)[0], images) < 1e-5
    with pytest.raises(UserError, match=r"header's format is 'rvae_jax 1 generator'; expected 'rvae_jax 1'"):
        stored_model.read(folder / "generator.safetensors")


def test_the_generator_of_a_mixture_has_its_transform(tmp_path):
    """As docs/population.md says: the noise's last number counts the edges below it."""
    model = with_random_mixture(model_of("wide and grey", tmp_path))
    folder, _ = exported(model, prior="mixture")
    tensors = load((folder / "generator.safetensors").read_bytes())
    noise, images = noise_and_its_images(model, "mixture")
    codes = [
        tensors["prior.means"][k] + tensors["prior.roots"][k] @ row[:-1]
        for row in noise
        for k in [int((row[-1] >= tensors["prior.edges"]).sum())]
    ]
    assert relative_error(flax(model, "decode")(np.array(codes, np.float32))[0], images) < 1e-5
    assert {key for key in tensors if key.startswith("prior.")} == {"prior.means", "prior.roots", "prior.edges"}


def test_the_generator_of_one_gaussian_has_no_edges(tmp_path):
    model = with_random_mixture(model_of("wide and grey", tmp_path))
    _, means, covariances = model.mixture
    model = dataclasses.replace(model, mixture=(np.ones(1, np.float32), means[:1], covariances[:1]))
    folder, _ = exported(model, prior="mixture")
    assert load((folder / "generator.safetensors").read_bytes())["prior.edges"].shape == (0,)
    assert rvae_jax.load(folder).sample(2, sampler="mixture").shape == (2, 16, 24, 1)


def test_a_mixture_that_is_stored_needs_no_training_images(tmp_path):
    model = dataclasses.replace(with_random_mixture(model_of("wide and grey", tmp_path)), best_sampler="mixture")
    folder, _ = exported(model, prior="mixture")
    found = rvae_jax.load(folder)
    for ours, theirs in zip(found.mixture, model.mixture, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.best_sampler == "mixture"
    expected = samplers.mixture(samplers.Mixture(*model.mixture)).draw(3, 4)
    np.testing.assert_array_equal(found.codes(3, seed=4), expected)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"weights": None}, "population.mixture.weights is missing there"),
        ({"means": np.zeros((2, 24), np.float32)}, r"population.mixture.means is of shape \(2, 24\) there"),
        ({"weights": np.array([0.5, 0.5, 0.0], np.float32)}, r"expected positive numbers; export it again"),
        ({"weights": np.array(1.0, np.float32)}, r"population.mixture"),
        ({"weights": np.full(3, np.nan, np.float32)}, "has values that are not finite"),
    ],
)
def test_a_damaged_mixture_is_named(changes, match, tmp_path):
    folder, _ = exported(with_random_mixture(model_of("wide and grey", tmp_path)))
    path = folder / "model.safetensors"
    arrays = load(path.read_bytes()) | {f"population.mixture.{name}": value for name, value in changes.items()}
    with safe_open(path, "numpy") as file:
        header = {name: value for name, value in file.metadata().items() if name != "checksums"}
    path.write_bytes(save({name: value for name, value in arrays.items() if value is not None}, header))
    refused(epath.Path(folder), match)


def test_a_file_knows_what_to_sample_from(tmp_path):
    model = dataclasses.replace(with_random_moments(model_of("wide and grey", tmp_path)), best_sampler="gaussian")
    folder, _ = exported(model)
    found = rvae_jax.load(folder / "model.safetensors")
    assert found.best_sampler == "gaussian"
    np.testing.assert_array_equal(found.sample(2, seed=1), found.sample(2, seed=1, sampler="gaussian"))
    folder, _ = exported(dataclasses.replace(model, best_sampler=None))
    assert rvae_jax.load(folder / "model.safetensors").best_sampler == "prior"


def refused(path, match, step=None):
    with pytest.raises(UserError, match=match) as error:
        stored_model.read(path, step)
    assert "\n" not in str(error.value)


def test_a_path_without_a_model_is_refused(tmp_path):
    refused(tmp_path / "none", "none does not exist; expected the --workdir of a run, with config.json")
    refused(tmp_path / "none.safetensors", "none.safetensors does not exist; expected a .safetensors file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty is an empty folder; expected")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, "holds empty, notes.txt; expected")
    refused(tmp_path / "notes.txt", "notes.txt is a file of another kind; expected")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(share, tmp_path):
    folder, _ = exported(model_of("wide and grey", tmp_path))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().length)])
    refused(path, "is not a complete .safetensors file")
    refused(folder, "is not a complete .safetensors file")


def test_files_of_other_programs_or_networks_are_refused(tmp_path):
    path = epath.Path(tmp_path / "other.safetensors")
    path.write_bytes(save({"unet.weight": np.zeros(3, np.float32)}))
    refused(path, "not one that rvae_jax.export wrote: its header's format is None; expected 'rvae_jax 1'")
    huge = json.dumps({"model": {"encoder_identity_blocks": 10**6}})
    deep = "[" * 10**5
    for header in (
        {},
        {"step": "1", "config": "{"},
        {"step": "1", "config": '{"new": 1}'},
        {"step": "1", "config": huge},
        {"step": "1", "config": deep},
        {"step": "-7", "config": "{}"},
        {"step": "x", "config": "{}"},
    ):
        path.write_bytes(save({"a": np.zeros(3, np.float32)}, {"format": "rvae_jax 1"} | header))
        refused(path, "other.safetensors has a header that cannot be read: .*; it may be of a newer rvae_jax")
    config = config_of("wide and grey")
    arrays = load(tensor_file.to_bytes(tensor_file.Content(config, random_weights(config), 0)))
    header = {"format": "rvae_jax 1", "step": "0", "config": json.dumps(to_dict(config))}
    name = "encoder.stem.kernel"
    for change, match in (
        ({name: None}, f"{name} is missing there and of shape \\(3, 3, 1, 4\\) by the configuration"),
        ({name: np.zeros((3, 3, 1, 5), np.float32)}, f"{name} is of shape \\(3, 3, 1, 5\\) there"),
        ({"more": np.zeros(2, np.float32)}, "more is of shape \\(2,\\) there and missing by the configuration"),
        ({"a\nb": np.zeros(2, np.float32)}, r"a\\nb is of shape \(2,\) there and missing by the configuration"),
        ({"population.mean": np.zeros(24, np.float32)}, "population.covariance is missing there and of shape"),
        ({name: arrays[name].astype(np.float16)}, f"{name} is F16; expected F32"),
        ({name: arrays[name] * np.float32("nan")}, f"{name} has values that are not finite; expected a model that"),
    ):
        path.write_bytes(save({key: value for key, value in (arrays | change).items() if value is not None}, header))
        refused(path, match)


def test_changed_arrays_are_damage(tmp_path):
    folder, _ = exported(model_of("wide and grey", tmp_path))
    path = folder / "model.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    damaged = r"is damaged: 1 of \d+ arrays are not as they were saved, such as|values that are not finite"
    for place in np.random.default_rng(0).integers(start, len(content), 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused(path, damaged)
    path.write_bytes(content.replace(b'"step":"7"', b'"step":"9"'))
    refused(path, "such as header/step")


def test_another_step_is_refused(tmp_path):
    folder, _ = exported(model_of("wide and grey", tmp_path))
    assert stored_model.read(folder, 7).step == 7
    refused(folder, "is of step 7, and step 3 was asked for; export that step", step=3)


def test_a_configuration_that_was_edited_is_refused(tmp_path):
    folder, _ = exported(model_of("wide and grey", tmp_path))
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"latent_dim": 24', '"latent_dim": 32'))
    refused(folder, "config.json has model.latent_dim = 32, and model.safetensors beside it 24; put back")
    path.unlink()
    assert stored_model.read(folder).config.model.latent_dim == 24
