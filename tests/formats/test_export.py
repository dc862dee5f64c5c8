"""The export command, and what is in a directory for the hub."""

import json
import pathlib
import shutil
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image
from some_models import assert_same_weights, config_of, random_weights

import rvae_jax
from rvae_jax import export
from rvae_jax.errors import UserError, install
from rvae_jax.formats import keras_layout
from rvae_jax.storage import population_file, stored_model
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.storage.workdir import claim
from rvae_jax.training.program import make_program

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """A work directory with one checkpoint, of step 0."""
    config = config_of("wide and grey")
    config.data.name, config.data.data_dir, config.data.folder = "mine/16", str(tmp_path), str(tmp_path / "pictures")
    state = make_program(config).create_state(jax.random.key(0)).with_weights(random_weights(config))
    workdir = epath.Path(tmp_path / "run")
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state.to_items(), config)
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
def test_the_command_writes_the_files_of_each_format(form, files, run, monkeypatch, capsys):
    run_export(monkeypatch, f"--format={form}", f"--workdir={run}")
    folder = run / "export"
    assert {path.name for path in folder.iterdir()} == files
    said = capsys.readouterr().out
    assert f"Exporting the work directory {run}, step 0" in said
    assert all(f"Wrote {folder / name}" in said for name in files)
    for path in folder.iterdir():  # no path of this machine
        assert path.is_dir() or str(run.parent).encode() not in path.read_bytes()
    assert (f"hf upload USER/run {folder}" in said) == (form == "hub")


@pytest.mark.parametrize("form", ["safetensors", "hub"])
def test_the_generator_needs_the_training_images_or_their_moments(form, run, monkeypatch):
    arguments = [f"--format={form}", f"--workdir={run}", "--prior=fold"]
    with pytest.raises(SystemExit, match=r"^Error: data\.name=mine/16"):
        run_export(monkeypatch, *arguments)
    assert not (run / "export").exists()
    population_file.write(run, 0, (np.zeros(24), np.eye(24)))
    run_export(monkeypatch, *arguments)
    assert (run / "export" / "generator.safetensors").exists()


def test_an_export_into_the_run_itself_is_refused(run, monkeypatch):
    with pytest.raises(SystemExit, match=r"--output=.* holds a run; expected another folder"):
        run_export(monkeypatch, "--format=safetensors", f"--workdir={run}", f"--output={run}")


def test_an_output_that_cannot_be_written_is_named(run, monkeypatch):
    (run / "file").write_text("")
    for output in (run / "file", run / "file" / "in"):
        with pytest.raises(SystemExit, match=r"^Error: --output: .*file.*: (Not a directory|File exists)$"):
            run_export(monkeypatch, "--format=safetensors", f"--workdir={run}", f"--output={output}")


def test_an_export_can_be_exported_again(run, monkeypatch, tmp_path):
    run_export(monkeypatch, "--format=safetensors", f"--workdir={run}")
    again = epath.Path(tmp_path / "again.weights.h5")
    run_export(monkeypatch, "--format=keras", f"--workdir={run / 'export'}", f"--output={again}")
    found = keras_layout.read(again / "author.weights.h5", config_of("wide and grey"))
    assert_same_weights(found, stored_model.read(run).weights)


def test_the_hub_reads_the_model_card(run, monkeypatch, tmp_path):
    arguments = [f"--workdir={run}", "--name=faces", "--license=cc-by-nc-4.0"]
    run_export(monkeypatch, "--format=hub", *arguments)
    card = huggingface_hub.ModelCard.load(run / "export" / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-nc-4.0", "rvae_jax")
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert "Not evaluated" in card.text and "elsewhere, and imported" in card.text and "mine/16" in card.text
    # The data set is missing, so only pictures that need none are drawn.
    assert [path.name for path in (run / "export" / "pictures").iterdir()] == ["samples_prior.png"]
    with Image.open(run / "export" / "pictures" / "samples_prior.png") as picture:
        assert picture.size[0] > 500
    assert "![Samples from the prior N(0, I).](pictures/samples_prior.png)" in card.text


def test_names_change_nothing_of_the_model_card(run, monkeypatch, tmp_path, capsys):
    for path in (run / "config.json", run / "checkpoints" / "0" / "config" / "metadata"):
        config = json.loads(path.read_text())
        config["data"]["name"] = "a|<script>\n# b](http://x)"
        path.write_text(json.dumps(config))
    odd = run.rename(run.parent / "my run; rm -rf $x")
    run_export(monkeypatch, "--format=hub", f"--workdir={odd}", f"--output={tmp_path / 'my export'}")
    text = (tmp_path / "my export" / "README.md").read_text()
    assert "\n# my-run-rm-rf-x\n" in text
    assert r"| data | a\|\<script\> \# b\]\(http://x\), split train |" in text
    assert f"hf upload USER/my-run-rm-rf-x '{tmp_path / 'my export'}'" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_export(monkeypatch, "--format=hub", f"--workdir={odd}", "--name=a/b c")
    assert "expected letters, digits" in capsys.readouterr().err


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Stands for the Hugging Face hub: a folder that has the models."""
    folder = tmp_path / "hub"

    def create_repo(name, private, exist_ok):
        assert private and exist_ok
        (folder / name).mkdir(parents=True)
        return f"https://hub/{name}"

    def snapshot_download(name, revision, allow_patterns):
        if not (folder / name).exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"no\n{name} at {revision}")
        return str(folder / name)

    def upload_folder(repo_id, folder_path):
        shutil.copytree(folder_path, folder / repo_id, dirs_exist_ok=True)

    for stand_in in (create_repo, snapshot_download, upload_folder):
        monkeypatch.setattr(huggingface_hub, stand_in.__name__, stand_in)
    return folder


def test_a_model_that_is_pushed_to_the_hub_loads_from_there(run, hub, monkeypatch, tmp_path, capsys):
    run_export(monkeypatch, "--format=hub", f"--workdir={run}", "--push=me/faces")
    assert "Uploaded to https://hub/me/faces; load it with rvae_jax.load('hf://me/faces')" in capsys.readouterr().out
    assert (hub / "me/faces/README.md").exists()
    model = stored_model.read("hf://me/faces@main")
    assert_same_weights(model.weights, stored_model.read(run).weights)
    assert model.source == "hf://me/faces@main, step 0"
    run_export(monkeypatch, "--format=safetensors", "--workdir=hf://me/faces", f"--output={tmp_path / 'again'}")
    assert (tmp_path / "again/model.safetensors").exists()


@pytest.mark.usefixtures("hub")
def test_what_is_not_on_the_hub_is_named(run, monkeypatch):
    with pytest.raises(UserError, match=r"^hf://me/no cannot be fetched: no me/no at None$"):
        stored_model.read("hf://me/no")
    for address in ("hf://me", "hf:///me", "hf://me/a/b"):
        with pytest.raises(UserError, match=f"^{address}: expected hf://USER/NAME or hf://USER/NAME@REVISION$"):
            stored_model.read(address)
    with pytest.raises(SystemExit):
        run_export(monkeypatch, "--format=onnx", f"--workdir={run}", "--push=me/faces")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface_hub is missing; pip install .*\[hub\]"):
        stored_model.read("hf://me/faces")


def test_a_model_card_has_the_evaluation_and_its_verdicts(run, monkeypatch):
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
    assert "- **blur**: Reconstructions look soft" in card.text and "have 0.20 times" in card.text
    assert "posterior collapse" not in card.text
    assert json.loads((run / "export" / "evaluation.json").read_text())["model"]["workdir"] == "run"
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"model": evaluation["model"] | {"step": 1}}))
    run_export(monkeypatch, "--format=hub", f"--workdir={run}")
    assert "Not evaluated" in (run / "export" / "README.md").read_text()


def test_a_model_card_says_what_it_samples_from(run, monkeypatch):
    mixture = np.array([0.4, 0.6]), np.zeros((2, 24)), np.stack([np.eye(24)] * 2)
    population_file.write(run, 0, (np.zeros(24), np.eye(24)), mixture)
    evaluation = json.loads((ROOT / "tests" / "evaluation" / "evaluation_of_0_1.json").read_text())
    part, gain = {"nats": 1.0, "standard_error": 0.1, "chance": 0.2}, {"nats": 3.0, "standard_error": 0.1}
    population = dict.fromkeys(("moments", "correlation", "posteriors"), part) | {"gaussian": gain, "mixture": gain}
    population |= {"codes": 9, "held_out_codes": 9}
    for best, said in (("mixture", "a mixture of Gaussians fitted to the"), ("prior", "the prior N(0, I)")):
        changed = {"model": evaluation["model"] | {"step": 0}, "population": population | {"best_sampler": best}}
        (run / "evaluation.json").write_text(json.dumps(evaluation | changed))
        run_export(monkeypatch, "--format=hub", f"--workdir={run}")
        text = (run / "export" / "README.md").read_text()
        assert f"faces = model.sample(16, seed=0)  # from {said}" in text
        assert ("Sample with sampler='mixture'" in text) == (best == "mixture")
        assert rvae_jax.load(run / "export").best_sampler == best
    (run / "evaluation.json").unlink()
    (run / "export" / "evaluation.json").unlink()
    run_export(monkeypatch, "--format=hub", f"--workdir={run}")
    assert 'faces = model.sample(16, seed=0, sampler="gaussian")' in (run / "export" / "README.md").read_text()


@pytest.mark.parametrize(
    ("form", "missing", "extra"),
    [
        ("keras", "h5py", "interop"),
        ("stablehlo", "flatbuffers", "interop"),
        ("onnx", "onnx", "interop"),
        ("hub", "jinja2", "evaluate"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(form, missing, extra, run):
    script = (
        f"import runpy, sys; sys.modules['{missing}'] = None\n"
        "runpy.run_module('rvae_jax.export', run_name='__main__', alter_sys=True)"
    )
    output = run.parent / "out"
    command = [sys.executable, "-c", script, f"--format={form}", f"--workdir={run}", f"--output={output}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.endswith(f"Error: {missing} is missing; {install(extra)}\n")
    assert not output.exists()
