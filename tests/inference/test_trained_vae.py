import json
import math
import shutil
import struct

import numpy as np
import pytest
from etils import epath
from trained_runs import FACTORS, SIZE, waves

import rvae_jax
from rvae_jax.errors import UserError
from rvae_jax.formats.export import safetensors, write
from rvae_jax.inference import samplers
from rvae_jax.storage import population_file, stored_model
from rvae_jax.storage.tensor_file import MOMENTS


def test_each_sampler_gives_its_own_images(healthy):
    prior = healthy.sample(5, seed=3)
    assert prior.shape == (5, SIZE, SIZE, 1)
    np.testing.assert_array_equal(prior, healthy.sample(5, seed=3, sampler="prior"))
    for sampler in ("gaussian", "mixture"):
        assert np.abs(healthy.sample(5, seed=3, sampler=sampler) - prior).max() > 0.1
    with pytest.raises(UserError, match="sampler='flow'"):
        healthy.sample(1, sampler="flow")


def test_moments_of_a_run_that_is_done_need_no_images(trained, tmp_path):
    done = trained("ordinary")
    expected = samplers.mean_and_covariance(*done.population)
    for name in ("config.json", "checkpoints", population_file.FILE):
        (shutil.copytree if (done.workdir / name).is_dir() else shutil.copy)(done.workdir / name, tmp_path / name)
    moved = rvae_jax.load(tmp_path, data_dir=tmp_path / "nowhere")
    for ours, theirs in zip(moved.moments, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert moved.sample(2, sampler="gaussian").shape == (2, SIZE, SIZE, 1)
    list(write(safetensors(stored_model.read(tmp_path)), moved.workdir / "export"))
    exported = rvae_jax.load(tmp_path / "export", data_dir=tmp_path / "nowhere")
    np.testing.assert_allclose(exported.moments[1], expected[1], atol=1e-4)
    with pytest.raises(UserError, match=r"data\.name=waves"):
        moved.sample(2, sampler="mixture")


def test_moments_of_another_step_are_not_taken(tmp_path):
    path = epath.Path(tmp_path)
    population_file.write(path, 7, (np.zeros(2), np.eye(2)))
    assert population_file.read(path, 8, 2) is None
    np.testing.assert_array_equal(population_file.read(path, 7, 2).moments[1], np.eye(2))


def _of_types(step, moments):
    """A file without checksums, of a step of 7 or, as a floating-point number, of infinity."""
    content = struct.pack("<d", np.inf) if step == "F64" else struct.pack("<Q", 7)
    content = content[-1:] if step.startswith("F8") else content
    header, end = {"step": {"dtype": step, "shape": [], "data_offsets": [0, len(content)]}}, len(content)
    for name, shape in zip(MOMENTS, ([2], [2, 2]), strict=True):
        header[name] = {"dtype": moments, "shape": shape, "data_offsets": [end, end + 8 * math.prod(shape)]}
        end += 8 * math.prod(shape)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content + bytes(end - len(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-3], r"population.safetensors is damaged \(.*\); delete it"),
        (lambda content: b"", "is damaged"),
        (lambda content: content.replace(b"population.mean", b"population.meow"), "is damaged"),
        (lambda content: _of_types("F8_E4M3", "F64"), "is damaged .*has no attribute"),
        (lambda content: _of_types("F64", "F64"), "is damaged .*infinity"),
        (lambda content: _of_types("U64", "C64"), "is damaged .*types complex64 and complex64, expected floating"),
    ],
)
def test_damaged_moments_are_named(tmp_path, damage, message):
    path = epath.Path(tmp_path)
    population_file.write(path, 7, (np.zeros(2), np.eye(2)))
    file = path / population_file.FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=message):
        population_file.read(path, 7, 2)
    population_file.write(path, 7, (np.zeros(2), np.eye(2)))
    with pytest.raises(UserError, match=r"shapes \(2,\) and \(2, 2\) for 3 latent dimensions"):
        population_file.read(path, 7, 3)
    population_file.write(path, 7, (np.array([0, np.nan]), np.eye(2)))
    with pytest.raises(UserError, match="not finite"):
        population_file.read(path, 7, 2)
    population_file.write(path, 7, (np.zeros(2), np.eye(2)))
    content = file.read_bytes()
    for place in range(len(content) - 40, len(content)):  # of the covariance
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(UserError, match="damaged"):
            population_file.read(path, 7, 2)


def test_images_that_are_not_floats_are_refused(healthy):
    with pytest.raises(UserError, match="images are uint8; expected float32"):
        healthy.encode(np.zeros((1, SIZE, SIZE, 1), np.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 1.9, r"images have values from .* to 2\..*; expected \[-1, 1\]"),
        (lambda x: 127.5 * (x + 1), "expected .*: x / 127.5 - 1 of bytes"),
        (lambda x: np.where(x == x.max(), np.nan, x), "images have values from nan to nan"),
        (lambda x: np.where(x == x.max(), np.inf, x), "to inf; expected"),
        (lambda x: x.astype(np.complex64), "images are complex64; expected float32"),
    ],
)
def test_images_beyond_their_range_are_refused(healthy, change, message):
    images = healthy.images(limit=3)
    healthy.encode(1.4 * images.astype(np.float64))
    with pytest.raises(UserError, match=message):
        healthy.encode(change(images))


def test_many_images_are_encoded_in_batches(healthy):
    images = healthy.images("train")
    assert len(images) == 1000
    mean, log_var = healthy.encode(images)
    assert mean.shape == log_var.shape == (1000, FACTORS)
    one, _ = healthy.encode(images[700:701])
    np.testing.assert_allclose(mean[700:701], one, atol=1e-4)


def test_a_folder_is_encoded(healthy, waves_dir, tmp_path, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(waves_dir / "pictures" / "waves" / "test", folder / "test")
    (folder / "z_broken.png").write_bytes(b"no picture")
    count = healthy.encode_folder(folder, tmp_path / "codes.npz")
    assert "Warning: 1 left out, which" in (said := capsys.readouterr().out) and "z_broken.png: " in said
    codes = np.load(tmp_path / "codes.npz")
    assert count == len(codes["names"]) == len(codes["mean"]) == 60
    assert "z_broken.png" in codes["skipped"][0]
    index = list(codes["names"]).index("test/17.png")
    image = waves(60, 3)[0][17][None, ..., None] / np.float32(127.5) - 1
    mean, log_var = healthy.encode(image.astype(np.float32))
    np.testing.assert_allclose(codes["mean"][index], mean[0], atol=1e-4)
    np.testing.assert_allclose(codes["log_var"][index], log_var[0], atol=1e-4)
    with pytest.raises(UserError, match="nothing"):
        healthy.encode_folder(tmp_path / "nothing", tmp_path / "codes.npz")


def test_a_stored_mixture_is_read_and_a_damaged_one_named(tmp_path):
    path, d = epath.Path(tmp_path), 2
    moments, mixture = (np.zeros(d), np.eye(d)), (np.array([0.4, 0.6]), np.zeros((2, d)), np.stack([np.eye(d)] * 2))
    population_file.write(path, 7, moments, mixture)
    for ours, theirs in zip(population_file.read(path, 7, d).mixture, mixture, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    population_file.write(path, 7, moments)
    assert population_file.read(path, 7, d).mixture is None
    for place, value in (
        (0, np.array([1.0, 0.0])),
        (0, np.array(1.0)),
        (1, np.zeros((2, 3))),
        (2, np.full((2, d, d), np.inf)),
    ):
        damaged = [*mixture[:place], value, *mixture[place + 1 :]]
        population_file.write(path, 7, moments, damaged)
        with pytest.raises(UserError, match=r"population.safetensors is damaged \(.*\); delete it"):
            population_file.read(path, 7, d)
