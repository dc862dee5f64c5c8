"""Exported encoders and decoders compute what the model does: StableHLO by JAX alone, ONNX by onnxruntime."""

import subprocess
import sys

import jax
import numpy as np
import onnxruntime
import pytest
from reference import relative_error
from some_models import exported, flax, inputs, model_of, noise_and_its_images, with_random_mixture

from rvae_jax.formats.export import onnx, stablehlo

SMALL = [
    ("square", "frozen", "float32"),
    ("square", "batch", "bfloat16"),
    ("wide and grey", "batch", "float32"),
    ("wide and grey", "frozen", "bfloat16"),
    ("patches", "frozen", "float32"),
]


@pytest.mark.parametrize(("name", "norm", "dtype"), SMALL)
def test_stablehlo_computes_what_the_model_does_for_any_batch(name, norm, dtype, tmp_path):
    model = model_of(name, tmp_path, norm=norm, dtype=dtype)
    folder, _ = exported(model, stablehlo)
    compare_stablehlo(model, folder, counts=(1, 3), tolerance=1e-5 if dtype == "float32" else 3e-2)


def compare_stablehlo(model, folder, counts, tolerance):
    shape, latent_dim = model.config.model.image_shape, model.config.model.latent_dim
    for name, method, item in (("encoder", "encode", shape), ("decoder", "decode", (latent_dim,))):
        call = jax.export.deserialize(bytearray((folder / f"{name}.jax_export").read_bytes())).call
        for count in counts:
            x = inputs(item, count)
            for ours, theirs in zip(jax.tree.leaves(call(x)), flax(model, method)(x), strict=True):
                assert ours.dtype == np.float32
                assert relative_error(ours, theirs) < tolerance


GENERATORS = [row for row in SMALL if row[2] == "float32"]


@pytest.mark.parametrize("prior", ["fold", "mixture"])
@pytest.mark.parametrize(("name", "norm", "dtype"), GENERATORS)
def test_stablehlo_and_onnx_generate_from_noise(name, norm, dtype, prior, tmp_path):
    """Images of the sampler, by JAX alone and by onnxruntime; the decoder stays what it was."""
    model = with_random_mixture(model_of(name, tmp_path, norm=norm, dtype=dtype))
    noise, images = noise_and_its_images(model, prior)
    folder, _ = exported(model, stablehlo, prior=prior)
    call = jax.export.deserialize(bytearray((folder / "generator.jax_export").read_bytes())).call
    assert relative_error(call(noise), images) < 1e-5
    compare_stablehlo(model, folder, counts=(2,), tolerance=1e-5)
    exported(model, onnx, prior=prior)
    session = onnxruntime.InferenceSession(folder / "generator.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["noise"]
    assert relative_error(session.run(["images"], {"noise": noise})[0], images) < 1e-5


def test_stablehlo_needs_no_package_but_jax(tmp_path):
    model = model_of("wide and grey", tmp_path)
    folder, _ = exported(model, stablehlo)
    x = inputs((24,), 2)
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys; sys.modules |= dict.fromkeys(['flax', 'optax', 'rvae_jax', 'orbax'])\n"
        "import jax, numpy as np\n"
        "call = jax.export.deserialize(bytearray(open(sys.argv[1], 'rb').read())).call\n"
        "np.save(sys.argv[3], call(np.load(sys.argv[2])))\n"
    )
    files = [str(folder / "decoder.jax_export"), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", script, *files], check=True)
    assert relative_error(np.load(tmp_path / "y.npy"), flax(model, "decode")(x)[0]) < 1e-5


@pytest.mark.parametrize(("name", "norm", "dtype"), SMALL)
def test_onnx_computes_what_the_model_does_in_float32_for_any_batch(name, norm, dtype, tmp_path):
    model = model_of(name, tmp_path, norm=norm, dtype=dtype)
    folder, _ = exported(model, onnx)
    compare_onnx(model, folder, counts=(1, 3))


def compare_onnx(model, folder, counts):
    shape, latent_dim = model.config.model.image_shape, model.config.model.latent_dim
    for name, method, item in (("encoder", "encode", shape), ("decoder", "decode", (latent_dim,))):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        (argument,) = session.get_inputs()
        assert argument.name == {"encoder": "images", "decoder": "codes"}[name]
        assert [each.name for each in session.get_outputs()] == {"encoder": ["mean", "log_var"], "decoder": ["images"]}[
            name
        ]
        for count in counts:
            x = inputs(item, count)
            outputs = zip(session.run(None, {argument.name: x}), flax(model, method, "float32")(x), strict=True)
            for ours, theirs in outputs:
                assert relative_error(ours, theirs) < 1e-4


def test_the_network_of_the_paper_is_exported(tmp_path):
    model = model_of("full size", tmp_path)
    for make, compare in ((stablehlo, compare_stablehlo), (onnx, compare_onnx)):
        folder, _ = exported(model, make)
        options = {"tolerance": 1e-4} if make is stablehlo else {}
        compare(model, folder, counts=(1,), **options)
