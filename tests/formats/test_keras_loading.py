"""Keras reads and writes the files of our Keras layout; needs Keras."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from etils import epath
from reference import FIXTURE, relative_error
from some_models import (
    config_of,
    exported,
    flax,
    inputs,
    model_of,
    noise_and_its_images,
    random_weights,
    with_random_moments,
)

from rvae_jax.config import to_dict
from rvae_jax.errors import UserError
from rvae_jax.formats import keras_layout
from rvae_jax.formats.export import keras
from rvae_jax.models import make_models

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")

AUTHOR = epath.Path(__file__).parents[1] / "reference" / "small_a.weights.h5"


def run_keras(config, weights, folder, x, z):
    """The outputs of Keras for images and codes with these weights, and the file that it saves them to."""
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    np.savez(folder / "inputs.npz", x=x, z=z)
    names = ("config.json", "given.weights.h5", "inputs.npz", "outputs.npz", "saved.weights.h5")
    (folder / "given.weights.h5").write_bytes(weights)
    command = [
        sys.executable,
        str(Path(__file__).with_name("keras_program.py")),
        *(str(folder / name) for name in names),
    ]
    environment = os.environ | {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return np.load(folder / "outputs.npz"), folder / "saved.weights.h5"


def shapes(path):
    """The shape of every tensor but those of the optimizers, whose counts differ in type between backends."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.__setitem__(name, getattr(node, "shape", None)))
    return {name: shape for name, shape in found.items() if "optimizer" not in name}


def test_keras_computes_the_outputs_of_the_author_from_his_file(tmp_path):
    config = config_of("square")
    outputs, saved = run_keras(config, AUTHOR.read_bytes(), tmp_path, FIXTURE["in/x"], FIXTURE["in/z_given"])
    for ours, theirs in (
        ("mean", "z_mean"),
        ("log_var", "z_log_var"),
        ("images", "decoder_z_given"),
        ("logits", "dis_logits_x"),
    ):
        assert relative_error(outputs[ours], FIXTURE[f"out/{theirs}"]) < 1e-5
    assert shapes(saved) == shapes(AUTHOR)


@pytest.mark.parametrize(("name", "adversarial"), [("square", "none"), ("wide and grey", "bce")])
def test_keras_reads_our_files_and_computes_what_we_do(name, adversarial, tmp_path):
    config = config_of(name, adversarial=adversarial)
    weights = random_weights(config)
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (3, *config.model.image_shape)).astype(np.float32)
    z = rng.normal(size=(3, config.model.latent_dim)).astype(np.float32)
    written = keras_layout.to_bytes(config, weights)
    theirs, saved = run_keras(config, written, tmp_path, x, z)
    vae, discriminator = make_models(config.model, adversarial=adversarial != "none")
    mean, log_var = jax.jit(lambda x: vae.apply(weights["vae"], x, method="encode"))(x)
    ours = {"mean": mean, "log_var": log_var, "images": vae.apply(weights["vae"], z, method="decode")}
    if discriminator is not None:
        ours["logits"] = discriminator.apply(weights["discriminator"], x)
    assert set(ours) == set(theirs)
    for output, value in ours.items():
        assert relative_error(value, theirs[output]) < 1e-5, output
    again = keras_layout.read(epath.Path(saved), config)
    jax.tree.map(np.testing.assert_array_equal, again, weights)


def test_keras_generates_from_noise_by_the_folded_decoder(tmp_path):
    model = with_random_moments(model_of("wide and grey", tmp_path, ema_decay=0.9))
    noise, images = noise_and_its_images(model)
    folder, _ = exported(model, keras, prior="fold")
    assert {path.name for path in folder.iterdir()} == {"author.weights.h5", "generator.weights.h5"}
    x = inputs(model.config.model.image_shape, 2)
    for name, expected in (("author", flax(model, "decode")(noise)[0]), ("generator", images)):
        written = (folder / f"{name}.weights.h5").read_bytes()
        outputs, _ = run_keras(model.config, written, tmp_path, x, noise)
        assert relative_error(outputs["images"], expected) < 1e-5, name
    with pytest.raises(UserError, match=r"--prior=mixture: the author's program has no layer for it"):
        exported(model, keras, prior="mixture")
