"""The comparison's own parts: its arms, its budget of CPU time, what it keeps, its tables."""

import argparse
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.comparison import __main__ as comparison
from benchmarks.comparison import arms, cpu_time, linear, store, table
from benchmarks.comparison import train as training
from rvae_jax import config as config_lib
from rvae_jax.data.pixels import to_float
from rvae_jax.errors import UserError
from rvae_jax.evaluation.material import ImageSets

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("name", arms.OURS)
def test_every_arm_of_ours_is_a_valid_configuration(name):
    config = arms.OURS[name].config()
    for steps in (cpu_time.LEAST_STEPS, 3_000):
        config_lib.validate(config_lib.replace_fields(config, {"steps": steps, "eval_every": steps}), device_count=1)
    assert (config.model.image_shape, config.model.latent_dim) == ((64, 64, 3), arms.LATENT_DIM)
    splits = ("train_split", "selection_split", "validation_split", "flip")
    ours = arms.OURS["ours"].config().data
    assert [getattr(config.data, split) for split in splits] == [getattr(ours, split) for split in splits]


def test_each_part_that_is_left_out_or_added_changes_what_it_should():
    whole = arms.OURS["ours"].config()
    parts = {
        "no_pca": {"model.linear_path"},
        "full_covariance": {"loss.covariance"},
        "no_lpips": {"loss.perceptual", "loss.perceptual_crop"},
        "prior_fakes": {"loss.prior_fakes"},
    }
    for name, fields in parts.items():
        assert set(config_lib.differences(whole, arms.OURS[name].config())) == fields
    without = arms.OURS["no_discriminator"].config()
    assert without.loss.adversarial == "none" and without.loss.perceptual == whole.loss.perceptual
    author = arms.OURS["author_networks"].config()
    assert (author.model.network, author.loss, author.model.linear_path) == ("paper", whole.loss, "fixed")
    assert author.model.encoder_filters == arms.OURS["paper"].config().model.encoder_filters


def test_the_flags_mean_the_same_as_the_configuration():
    script = (
        "import sys; from rvae_jax import command_line, config; flag = command_line.define_config()\n"
        "command_line.run(lambda _: print(config.to_dict(flag.value)), flag, ['config'])"
    )
    for name in ("author_networks", "no_discriminator"):
        command = [sys.executable, "-c", script, *arms.OURS[name].flags()]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert result.stdout.strip() == str(config_lib.to_dict(arms.OURS[name].config())), result.stderr


def test_the_number_of_steps_fills_the_cpu_seconds():
    pace = cpu_time.pace_of([(5, 40.0), (10, 42.0), (25, 50.0)], total=70.0, steps=30)
    assert pace == cpu_time.Pace(start_and_end=55.0, step=0.5)
    assert pace.steps(1200) == 2290
    assert pace.steps(20) == cpu_time.LEAST_STEPS
    for marks in ([], [(5, 40.0)]):
        with pytest.raises(UserError, match="time more steps"):
            cpu_time.pace_of(marks, 70.0, 30)


def test_the_clock_counts_cpu_time_and_not_waiting():
    clock = cpu_time.Clock(time.process_time() + 0.2)
    time.sleep(0.25)
    assert not clock.is_up()
    while not clock.is_up():
        sum(range(10_000))
    assert clock.used() >= 0.2 and clock.share() == 1.0


def test_the_cpu_time_of_a_program_is_seen_while_it_runs(tmp_path):
    seen = []
    script = "import time\nwhile time.process_time() < 0.6: pass\nprint('last words')\nimport sys; sys.exit(%d)"
    log = tmp_path / "log.txt"
    used = cpu_time.run([sys.executable, "-c", script % 0], {}, log, seen.append)
    assert 0.6 <= used < 2 and seen == sorted(seen) and seen[0] < 0.6 and 0.3 < seen[-1] <= used + 0.02
    with pytest.raises(UserError, match="status 3: last words"):
        cpu_time.run([sys.executable, "-c", script % 3], {}, log, seen.append)


def _images(n=24, size=16):
    rng = np.random.default_rng(0)
    factors, basis = rng.normal(size=(n, 3)), rng.normal(size=(3, size, size, 3))
    images = np.clip(128 + 25 * np.einsum("nf,fhwc->nhwc", factors, basis), 0, 255).astype(np.uint8)
    return ImageSets(images[:8], images[8:], n - 8, np.arange(8))


def test_principal_components_have_white_codes_and_project():
    images = _images()
    model = training.make("pca_64", seed=0)
    model._dimensions = 4
    clock = cpu_time.Clock(1.0)
    assert model.train(images.training, clock)[0] == 32
    both = np.concatenate([images.training, images.training[:, :, ::-1]])
    codes, log_var = model.encode(both)
    np.testing.assert_allclose(codes.T @ codes / len(codes), np.eye(4), atol=2e-3)
    assert np.isneginf(log_var).all()
    flat = to_float(both).reshape(len(both), -1).astype(np.float64)
    centred = flat - flat.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = flat.mean(axis=0) + centred @ axes[:4].T @ axes[:4]
    np.testing.assert_allclose(to_float(model.decode(codes)).reshape(flat.shape), expected.clip(-1, 1), atol=5e-3)


def test_what_an_arm_leaves_is_read_again(tmp_path):
    images = _images()
    store.save_images(tmp_path / "images.npz", images)
    images = store.read_images(tmp_path / "images.npz")
    assert images.training_total == 16
    model = linear.PCA(seed=0, dimensions=4)
    model.train(images.training, cpu_time.Clock(1.0))
    assert store.read_record(tmp_path) is None
    material, record = model.material(images, seed=0), store.Record("pca_4", 0, 1.5, 32, {"jax": "0"})
    store.save(tmp_path, material, record)
    found = store.read_material(tmp_path, images)
    assert store.read_record(tmp_path) == record
    assert found.samples.keys() == {"prior", "gaussian", "mixture"}
    for ours, theirs in ((material.samples["prior"], found.samples["prior"]), (material.training, found.training)):
        np.testing.assert_array_equal(ours, theirs)


def _run(arm, seed, l1, **figures):
    reconstruction = {"l1": l1}
    samples = {"real": {"fid": 19.04}, **figures}
    return {
        "arm": arm,
        "seed": seed,
        "cpu_seconds": 1200.0,
        "images_seen": 50_000,
        "figures": {"reconstruction": reconstruction, "samples": samples, "latent": {}},
    }


def test_the_table_has_a_row_an_arm_with_mean_and_spread(monkeypatch):
    monkeypatch.setattr(table, "RECONSTRUCTION", table.RECONSTRUCTION[1:3])
    monkeypatch.setattr(table, "SAMPLES", table.SAMPLES[:2])
    runs = [_run("ours", 0, 0.09, prior={"fid": 60.0}), _run("mean_face", 0, 0.4), _run("ours", 1, 0.08)]
    text = table.format_tables({"machine": "m", "settings": {"threads": 1}, "runs": runs})
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| arm | images seen | L1 |",
        "|---|---|---|",
        "| `mean_face` | 50,000 | 0.4000 |",
        "| `ours` | 50,000 | 0.0850 ± 0.0071 |",
        "| arm | FID, N(0, I) | FID, Gaussian |",
        "|---|---|---|",
        "| `real images` | 19.0 |  |",
        "| `mean_face` |  |  |",
        "| `ours` | 60.0 |  |",
    ]


def _arguments(folder, **changes):
    values = {
        "arms": ["mean_face"],
        "seeds": [0, 1],
        "cpu_seconds": 1.0,
        "threads": 1,
        "data": "portraits",
        "data_dir": None,
        "images": 8,
        "timed_steps": 10,
    }
    return argparse.Namespace(folder=folder, **values | changes)


def test_a_finished_arm_is_neither_trained_nor_judged_again(tmp_path, monkeypatch):
    store.save_images(tmp_path / "images.npz", _images(size=64))
    trained, judged = [], []

    def train(arm, seed, arguments, folder, images):
        trained.append((arm, seed))
        model = training.make(arm, seed)
        seen, steps = model.train(images.training, cpu_time.Clock(1.0))
        store.save(folder, model.material(images, 0), store.Record(arm, seed, 1.0, seen, {}, steps))

    def judge(*_):
        judged.append(1)
        return {"reconstruction": {"l1": 0.5}, "samples": {"real": {}}, "latent": {}}

    monkeypatch.setattr(comparison, "train", train)
    monkeypatch.setattr(comparison, "judge", judge)
    comparison.run_all(_arguments(tmp_path))
    comparison.run_all(_arguments(tmp_path))
    assert trained == [("mean_face", 0)] and len(judged) == 1  # nothing in it depends on the seed
    assert "| `mean_face` | 1 | 16 | 0.5000 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "pictures" / "mean_face_0.png").exists()
    with pytest.raises(UserError, match=r"--cpu_seconds=2.0: the runs in .* have 1.0"):
        comparison.run_all(_arguments(tmp_path, cpu_seconds=2.0))


def test_a_missing_package_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pythae is missing, which the arm pythae_vae needs; pip install"):
        comparison.run_all(_arguments(tmp_path, arms=["mean_face", "pythae_vae"]))


@pytest.mark.parametrize("arm", arms.PEERS)
def test_a_peer_stops_after_the_first_step_when_no_time_is_left(arm):
    pytest.importorskip(arms.PACKAGES[arm])
    images = _images(size=64).training[:4]
    model = training.make(arm, seed=0)
    assert model.train(images, cpu_time.Clock(0.001)) == (4, 1)
    mean, log_var = model.encode(images[:3])
    assert mean.shape == log_var.shape == (3, arms.LATENT_DIM)
    assert model.decode(mean).shape == (3, 64, 64, 3) and model.decode(mean).dtype == np.uint8
