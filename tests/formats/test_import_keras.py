"""Imported weights of the author become a run that is used, evaluated and continued as any other."""

import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image
from reference import FIXTURE, relative_error
from some_models import config_of

import rvae_jax
from rvae_jax import prepare
from rvae_jax.config import Config
from rvae_jax.drawing import figures
from rvae_jax.drawing.scene import Scene
from rvae_jax.errors import UserError
from rvae_jax.evaluation import results
from rvae_jax.evaluation.evaluator import evaluate
from rvae_jax.evaluation.settings import EvaluationSettings
from rvae_jax.formats import author_run
from rvae_jax.formats.author_run import import_keras
from rvae_jax.formats.export import hub, safetensors, write
from rvae_jax.reporting import page
from rvae_jax.storage import stored_model
from rvae_jax.storage.run_weights import load_weights
from rvae_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("one_device")

AUTHOR = epath.Path(__file__).parents[1] / "reference" / "small_a.weights.h5"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 6), ("test", 6)):
        (folder / "pictures" / split).mkdir(parents=True)
        for i in range(count):
            small = rng.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(
                folder / "pictures" / split / f"{i}.png"
            )
    with pytest.MonkeyPatch.context() as patch:
        command = ["prepare", folder / "pictures", "--name=noise", "--size=32", f"--data_dir={folder}"]
        patch.setattr(sys, "argv", list(map(str, command)))
        prepare.main()
    return folder


def run_config(data_dir, **changes):
    config = config_of("square", **changes)
    config.batch_size, config.steps, config.log_every, config.eval_every = 4, 3, 1, 3
    config.data.name, config.data.data_dir = "noise", str(data_dir)
    return config


@pytest.fixture(scope="module")
def imported(data_dir, tmp_path_factory):
    workdir = epath.Path(tmp_path_factory.mktemp("runs") / "author")
    said = import_keras(AUTHOR, run_config(data_dir), workdir)
    assert re.match(r"Imported 340 tensors of .*: encoder, sampler, decoder and discriminator\.", said)
    return workdir


def test_an_imported_model_computes_the_outputs_of_the_author(imported):
    model = rvae_jax.load(imported)
    mean, log_var = model.encode(FIXTURE["in/x"])
    assert relative_error(mean, FIXTURE["out/z_mean"]) < 1e-5
    assert relative_error(log_var, FIXTURE["out/z_log_var"]) < 1e-5
    assert relative_error(model.decode(FIXTURE["in/z_given"]), FIXTURE["out/decoder_z_given"]) < 1e-5


def test_an_imported_model_is_evaluated_drawn_and_reported(imported, tmp_path):
    shutil.copytree(imported, tmp_path / "run")
    model = rvae_jax.load(tmp_path / "run")
    settings = EvaluationSettings(images=6, training_images=24)
    evaluation = evaluate(model, settings, progress=False)
    assert evaluation.reconstruction.l1 > 0
    assert {"reconstructions", "samples_gaussian"} <= {name for name, _ in figures.draw(Scene(model))}
    results.write(model.workdir, evaluation)
    html = page.make_report([model], settings, progress=False)
    assert "metrics.jsonl has no rows of the last tenth of the run." in html


def test_a_shared_model_needs_no_data_set(imported, tmp_path):
    folder = epath.Path(tmp_path / "shared")
    wrote = list(write(hub(stored_model.read(imported), name="author", license="unknown"), folder))
    assert len(wrote) == len(list(pathlib.Path(folder).rglob("*.*"))) == 7
    ours, theirs = rvae_jax.load(folder, data_dir=str(tmp_path)), rvae_jax.load(imported)
    assert relative_error(ours.sample(5, 1, "gaussian"), theirs.sample(5, 1, "gaussian")) < 1e-4
    assert 'sampler="gaussian")' in (folder / "README.md").read_text()
    with pytest.raises(UserError, match=r"data.name=noise"):
        ours.sample(5, 1, "mixture")
    again = list(write(safetensors(stored_model.read(folder)), folder / "again"))
    assert len(again) == 2
    np.testing.assert_array_equal(rvae_jax.load(folder / "again").moments[1], ours.moments[1])


def test_an_imported_run_is_continued(imported, data_dir, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(imported, workdir)
    train(run_config(data_dir), workdir)
    _, after, step = load_weights(epath.Path(workdir))
    _, before, _ = load_weights(imported)
    assert step == 3
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after, before)
    # Adam moves a weight by at most the learning rate, 1e-4, in each of 3 steps; frozen statistics do not move.
    assert max(jax.tree.leaves(moved)) < 4e-4
    assert min(jax.tree.leaves(moved["vae"]["params"])) > 0
    assert max(jax.tree.leaves([moved["vae"]["batch_stats"], moved["discriminator"]["batch_stats"]])) == 0


def test_averages_start_at_the_imported_weights(data_dir, tmp_path):
    import_keras(AUTHOR, run_config(data_dir, ema_decay=0.9), tmp_path / "run")
    _, weights, _ = load_weights(epath.Path(tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, weights["ema_params"], weights["vae"]["params"])


def test_an_import_needs_no_data_set(tmp_path):
    config = run_config(tmp_path / "nowhere")
    import_keras(AUTHOR, config, tmp_path / "run")
    assert rvae_jax.load(tmp_path / "run").sample(2).shape == (2, 32, 32, 3)


def test_a_configuration_of_other_networks_and_no_data_set_takes_those_of_the_file(tmp_path):
    said = import_keras(AUTHOR, Config(), tmp_path / "run")
    assert "to train it further, import it with --config.data.name, with the same --config flags and" in said
    assert "--config.model.image_shape=32,32,3 --config.model.latent_dim=16 --config.model.encoder_filters=" in said
    model = rvae_jax.load(tmp_path / "run")
    assert relative_error(model.encode(FIXTURE["in/x"])[0], FIXTURE["out/z_mean"]) < 1e-5
    assert vars(model.config.model) == vars(config_of("square").model)


def test_a_refused_import_leaves_nothing_behind(imported, data_dir, tmp_path):
    (tmp_path / "part.weights.h5").write_bytes(AUTHOR.read_bytes()[:5000])
    with pytest.raises(UserError, match="is not an HDF5 file, or is incomplete"):
        import_keras(epath.Path(tmp_path / "part.weights.h5"), run_config(data_dir), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(UserError, match=r"--workdir=.* is a file; expected a folder"):
            import_keras(AUTHOR, run_config(data_dir), path)
    with pytest.raises(UserError, match=r"holds a run \(config.json\); expected a new folder"):
        import_keras(AUTHOR, run_config(data_dir), imported)


def test_an_interrupted_import_is_not_a_run(data_dir, tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(author_run.workdir_lib, "claim", crash)
        import_keras(AUTHOR, run_config(data_dir), tmp_path / "run")
    with pytest.raises(UserError, match=r"holds checkpoints; expected the --workdir of a run"):
        rvae_jax.load(tmp_path / "run")
    with pytest.raises(UserError, match=r"holds a run \(checkpoints\); expected a new folder"):
        import_keras(AUTHOR, run_config(data_dir), tmp_path / "run")
