"""Models written in other forms, read again by what those forms are for."""

import json
import pathlib
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import onnxruntime
import pytest
from etils import epath
from PIL import Image
from reference import relative_error
from safetensors.numpy import load, save
from some_models import MODELS, assert_same_weights, config_of, random_weights

import rvae_jax
from rvae_jax import export
from rvae_jax.config import to_dict
from rvae_jax.errors import UserError
from rvae_jax.formats import keras_layout
from rvae_jax.formats.export import onnx, safetensors, stablehlo, write
from rvae_jax.models import make_models
from rvae_jax.storage import stored_model, tensor_file
from rvae_jax.storage import weights as weights_lib
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.storage.stored_model import StoredModel
from rvae_jax.storage.workdir import claim
from rvae_jax.training.program import make_program

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    ("square", "frozen", "float32"),
    ("square", "batch", "bfloat16"),
    ("wide and grey", "batch", "float32"),
    ("wide and grey", "frozen", "bfloat16"),
]


def model_of(name, folder, **options):
    config = config_of(name, **options)
    return StoredModel(config, random_weights(config), 7, epath.Path(folder), "a test")


def exported(model, make=safetensors):
    folder = model.folder / "export"
    return folder, list(write(make(model), folder))


def inputs(item, count, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *item)).astype(np.float32)


def flax(model, method, dtype=None):
    vae, _ = make_models(model.config.model, adversarial=False)
    vae = vae if dtype is None else vae.clone(dtype=dtype)
    variables = weights_lib.evaluation_variables(model.weights)
    return lambda x: jax.tree.leaves(jax.jit(lambda x: vae.apply(variables, x, method=method))(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("name", MODELS)
def test_safetensors_round_trip(name, norm, dtype, tmp_path):
    model = model_of(name, tmp_path, norm=norm, dtype=dtype)
    folder, _ = exported(model)
    for path in (folder, folder / "model.safetensors"):
        found = stored_model.read(path)
        assert (found.config, found.step, found.folder) == (model.config, 7, folder)
        assert_same_weights(found.weights, model.weights)


@pytest.mark.parametrize("options", [{"adversarial": "none"}, {"ema_decay": 0.9}])
def test_safetensors_have_the_players_that_there_are(options, tmp_path):
    model = model_of("wide and grey", tmp_path, **options)
    folder, _ = exported(model)
    assert_same_weights(stored_model.read(folder).weights, model.weights)
    names = load((folder / "model.safetensors").read_bytes()).keys()
    assert any(name.startswith("discriminator.") for name in names) == ("adversarial" not in options)
    assert ("ema.encoder.stem.kernel" in names) == ("ema_decay" in options)
    assert {"encoder.stage_0.down.bn_4.moving_variance", "sampler.z_log_var.kernel"} <= names


def test_load_says_what_it_found_and_takes_averaged_weights(tmp_path):
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


@pytest.fixture
def run(tmp_path):
    """A work directory with one checkpoint, of step 0."""
    config = config_of("wide and grey")
    config.data.name, config.data.data_dir, config.data.folder = "mine/16", str(tmp_path), str(tmp_path / "pictures")
    state = make_program(config).create_state(jax.random.key(0)).with_weights(random_weights(config))
    workdir = epath.Path(tmp_path / "run")
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state.to_items())
    checkpoints.close()
    claim(workdir, config)
    return workdir


def run_export(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    export.main()


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("safetensors", {"model.safetensors", "config.json"}),
        ("stablehlo", {"encoder.jax_export", "decoder.jax_export"}),
        ("onnx", {"encoder.onnx", "decoder.onnx"}),
        ("keras", {"author.weights.h5"}),
        ("hub", {"model.safetensors", "config.json", "README.md", "pictures"}),
    ],
)
def test_the_command_writes_what_it_names(form, files, run, monkeypatch, capsys):
    run_export(monkeypatch, f"--format={form}", f"--workdir={run}")
    folder = run / "export"
    assert {path.name for path in folder.iterdir()} == files
    said = capsys.readouterr().out
    assert f"Exporting the work directory {run}, step 0" in said
    assert all(f"Wrote {folder / name}" in said for name in files)
    for path in folder.iterdir():  # nothing of this machine
        assert path.is_dir() or str(run.parent).encode() not in path.read_bytes()
    assert (f"hf upload USER/run {folder}" in said) == (form == "hub")


def test_the_run_itself_is_not_written_over(run, monkeypatch):
    with pytest.raises(SystemExit, match=r"--output=.* holds a run; give a folder of its own"):
        run_export(monkeypatch, "--format=safetensors", f"--workdir={run}", f"--output={run}")


def test_where_nothing_can_be_written_is_told(run, monkeypatch):
    (run / "file").write_text("")
    for output in (run / "file", run / "file" / "in"):
        with pytest.raises(SystemExit, match=r"^Error: --output: .*file.*: (Not a directory|File exists)$"):
            run_export(monkeypatch, "--format=safetensors", f"--workdir={run}", f"--output={output}")


def test_an_export_is_exported_again(run, monkeypatch, tmp_path):
    run_export(monkeypatch, "--format=safetensors", f"--workdir={run}")
    again = epath.Path(tmp_path / "again.weights.h5")
    run_export(monkeypatch, "--format=keras", f"--workdir={run / 'export'}", f"--output={again}")
    found = keras_layout.read(again / "author.weights.h5", config_of("wide and grey"))
    assert_same_weights(found, stored_model.read(run).weights)


@pytest.mark.parametrize(("name", "norm", "dtype"), SMALL)
def test_stablehlo_takes_any_batch(name, norm, dtype, tmp_path):
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


def test_stablehlo_needs_jax_alone(tmp_path):
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
def test_onnx_takes_any_batch_and_computes_in_float32(name, norm, dtype, tmp_path):
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


def test_the_paper_s_network_is_exported(tmp_path):
    model = model_of("full size", tmp_path)
    for make, compare in ((stablehlo, compare_stablehlo), (onnx, compare_onnx)):
        folder, _ = exported(model, make)
        options = {"tolerance": 1e-4} if make is stablehlo else {}
        compare(model, folder, counts=(1,), **options)


def test_a_model_card_is_what_the_hub_reads(run, monkeypatch, tmp_path):
    arguments = [f"--workdir={run}", "--name=faces", "--license=cc-by-nc-4.0"]
    run_export(monkeypatch, "--format=hub", *arguments)
    card = huggingface_hub.ModelCard.load(run / "export" / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-nc-4.0", "rvae_jax")
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert "Not evaluated" in card.text and "elsewhere, and imported" in card.text and "mine/16" in card.text
    # The data set is not there, so that only what needs none is drawn.
    assert [path.name for path in (run / "export" / "pictures").iterdir()] == ["samples_prior.png"]
    with Image.open(run / "export" / "pictures" / "samples_prior.png") as picture:
        assert picture.size[0] > 500
    assert "![Samples from the prior N(0, I).](pictures/samples_prior.png)" in card.text


def test_a_model_card_has_the_evaluation_and_what_is_wrong(run, monkeypatch):
    evaluation = json.loads((ROOT / "tests" / "evaluation" / "evaluation_of_0_1.json").read_text())
    samples = {"sharpness": 0.3, "lpips_diversity": 0.1}
    evaluation |= {
        "model": evaluation["model"] | {"workdir": str(run), "step": 0},
        "reconstruction": {"l1": 0.25, "l1_training": 0.24, "sharpness": 0.2},
        "generation": dict.fromkeys(("real", "prior", "gaussian", "mixture"), samples),
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    run_export(monkeypatch, "--format=hub", f"--workdir={run}")
    card = huggingface_hub.ModelCard.load(run / "export" / "README.md")
    metrics = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert metrics == {"l1": 0.25, "l1_training": 0.24, "sharpness": 0.2, "sharpness_prior": 0.3} | {
        "lpips_diversity_prior": 0.1
    }
    assert "| l1 | 0.25 |" in card.text and "| generation | real | prior | gaussian | mixture |" in card.text
    assert "- **blur**: Reconstructions have 0.20" in card.text and "posterior collapse" not in card.text
    assert json.loads((run / "export" / "evaluation.json").read_text())["model"]["workdir"] == "run"
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"model": evaluation["model"] | {"step": 1}}))
    run_export(monkeypatch, "--format=hub", f"--workdir={run}")
    assert "Not evaluated" in (run / "export" / "README.md").read_text()


def refused(path, match, step=None):
    with pytest.raises(UserError, match=match) as error:
        stored_model.read(path, step)
    assert "\n" not in str(error.value)


def test_what_holds_no_model_is_refused(tmp_path):
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
    refused(path, "is not a whole .safetensors file")
    refused(folder, "is not a whole .safetensors file")


def test_other_files_are_refused(tmp_path):
    path = epath.Path(tmp_path / "other.safetensors")
    path.write_bytes(save({"unet.weight": np.zeros(3, np.float32)}))
    refused(path, "not one that rvae_jax.export wrote: its header's format is None; expected 'rvae_jax 1'")
    for header in ({}, {"step": "1", "config": "{"}, {"step": "1", "config": '{"new": 1}'}):
        path.write_bytes(save({"a": np.zeros(3, np.float32)}, {"format": "rvae_jax 1"} | header))
        refused(path, "other.safetensors has a header that cannot be read: .*; it may be of a newer rvae_jax")
    config = config_of("wide and grey")
    arrays = load(tensor_file.to_bytes(config, random_weights(config), 0))
    header = {"format": "rvae_jax 1", "step": "0", "config": json.dumps(to_dict(config))}
    name = "encoder.stem.kernel"
    for change, match in (
        ({name: None}, f"{name} is missing there and of shape \\(3, 3, 1, 4\\) by the configuration"),
        ({name: np.zeros((3, 3, 1, 5), np.float32)}, f"{name} is of shape \\(3, 3, 1, 5\\) there"),
        ({"more": np.zeros(2, np.float32)}, "more is of shape \\(2,\\) there and missing by the configuration"),
        ({"population.mean": np.zeros(24, np.float32)}, "population.covariance is missing there and of shape"),
        ({name: arrays[name].astype(np.float16)}, f"{name} is F16; expected F32"),
    ):
        path.write_bytes(save({key: value for key, value in (arrays | change).items() if value is not None}, header))
        refused(path, match)


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


@pytest.mark.parametrize(
    ("form", "missing", "extra"),
    [
        ("keras", "h5py", "interop"),
        ("stablehlo", "flatbuffers", "interop"),
        ("onnx", "onnx", "interop"),
        ("hub", "jinja2", "evaluate"),
    ],
)
def test_what_is_not_installed_is_named(form, missing, extra, run):
    script = (
        f"import runpy, sys; sys.modules['{missing}'] = None\n"
        "runpy.run_module('rvae_jax.export', run_name='__main__', alter_sys=True)"
    )
    output = run.parent / "out"
    command = [sys.executable, "-c", script, f"--format={form}", f"--workdir={run}", f"--output={output}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.endswith(f"Error: {missing} is missing; pip install 'rvae_jax[{extra}]'\n")
    assert not output.exists()
