import dataclasses
import json
import pathlib

import numpy as np
import pytest
from etils import epath

from rvae_jax.config import Config
from rvae_jax.evaluation import results
from rvae_jax.evaluation.diagnosis import diagnose
from rvae_jax.evaluation.table import format_table

EARLIER = pathlib.Path(__file__).with_name("evaluation_of_0_1.json")


@pytest.fixture
def evaluation():
    return results.from_dict(json.loads(EARLIER.read_text()))


def test_a_file_of_version_0_1_is_read_and_written_byte_for_byte(evaluation):
    assert evaluation.model == results.EvaluatedModel("old/run", 4, 8, "waves/16")
    assert evaluation.reconstruction.psnr == 11.3751 and evaluation.reconstruction.rfid is None
    assert evaluation.latent.dimensions.sigma[0] == 1.12507
    assert evaluation.reconstruction.grid_energy is evaluation.reconstruction.lpips_vgg is None
    assert evaluation.settings.format == 1 < results.FORMAT
    assert evaluation.likelihood is None and evaluation.memorisation.training_images == 24
    assert results.to_bytes(evaluation) == EARLIER.read_bytes()


def test_numbers_are_rounded_to_six_digits(evaluation):
    figures = dataclasses.replace(evaluation.reconstruction, l1=np.float32(1 / 3), l1_training=1234567.8)
    rounded = results.rounded(dataclasses.replace(evaluation, reconstruction=figures)).reconstruction
    assert (rounded.l1, rounded.l1_training) == (0.333333, 1234570.0)
    assert type(rounded.l1) is float


def test_what_was_not_measured_is_not_in_the_file(evaluation):
    content = results.to_dict(dataclasses.replace(evaluation, memorisation=None))
    assert content["memorisation"] == content["likelihood"] == {}
    assert "lpips" not in content["reconstruction"] and "inception_checksum" not in content["protocol"]
    assert results.from_dict(content).memorisation is None
    without_inception = dataclasses.replace(evaluation.settings, inception=None)
    content = results.to_dict(dataclasses.replace(evaluation, settings=without_inception))
    assert content["settings"]["inception"] is None
    assert results.from_dict(content).settings == without_inception


def test_a_file_is_read_only_if_it_is_complete_and_of_this_step_and_format(evaluation, tmp_path):
    folder = epath.Path(tmp_path)
    assert results.read(folder, step=4) is None
    path = results.write(folder, evaluation)
    assert results.read(folder, step=4) == evaluation
    assert results.read(folder, step=5) is None
    content = json.loads(path.read_text())
    for damage in (
        "{cut",
        "[]",
        json.dumps(content | {"settings": content["settings"] | {"format": results.FORMAT + 1}}),
        json.dumps({name: part for name, part in content.items() if name != "latent"}),
        json.dumps(content | {"reconstruction": content["reconstruction"] | {"l1": "small"}}),
    ):
        path.write_text(damage)
        assert results.read(folder, step=4) is None, damage


def test_the_table_has_every_figure(evaluation):
    lines = format_table(evaluation).splitlines()
    for figures in (evaluation.reconstruction, evaluation.generation.prior, evaluation.latent.held_out):
        for name, value in results.measured(figures).items():
            assert any(line.split()[:1] == [name] and f"{value:.5g}" in line.split() for line in lines), name
    assert any(line.startswith("Not measured: fid: FID, KID") for line in lines)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("latent", "dimensions", "sigma"), [1.0]),
        (("latent", "training", "dimensions"), 7.0),
        (("latent", "training", "images"), 0),
        (("latent", "training", "images"), 10**400),
        (("latent", "training", "dimensions"), 10**400),
        (("latent", "dimensions", "var_means"), [10**400] * 8),
        (("generation", "prior", "sharpness"), 10**400),
        (("settings", "format"), {}),
    ],
)
def test_a_file_with_figures_that_no_evaluation_has_is_not_read(place, value, evaluation, tmp_path):
    content = results.to_dict(evaluation)
    *folders, name = place
    part = content
    for folder in folders:
        part = part[folder]
    assert name in part
    part[name] = value
    (tmp_path / results.FILE).write_text(json.dumps(content))
    assert results.read(epath.Path(tmp_path), step=4) is None


def test_a_diagnosis_says_what_is_missing_in_the_evaluation_or_in_the_rows(evaluation):
    prior = dataclasses.replace(evaluation.generation.prior, fid=20.0)
    partial = dataclasses.replace(
        evaluation,
        memorisation=None,
        skipped={},
        generation=dataclasses.replace(evaluation.generation, prior=prior),
    )
    rows = [{"step": 1000, "discriminator/accuracy_real": 0.5}]
    verdicts = {verdict.problem: verdict for verdict in diagnose(partial, rows, Config(steps=1000))}
    assert verdicts["memorisation"].finding == "It was not measured."
    assert verdicts["discriminator too weak"].finding == "metrics.jsonl has no rows of the last tenth of the run."
    assert "FID" not in verdicts["prior mismatch"].finding
