import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from face_files import ATTRIBUTES, claim, error_of, examples_of, make_jpeg, pixels_of, prepare_named

from rvae_jax.data.prepare.sources import faces
from rvae_jax.data.prepare.sources.source import SPLITS

LANDMARKS = [f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"]


COUNT = 60


@pytest.fixture(scope="module")
def celeba():
    """The five files by name, of sixty pictures."""
    random = np.random.default_rng(0)
    names = [f"{i:06d}.jpg" for i in range(1, COUNT + 1)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("img_align_celeba/", "")
        for i, name in enumerate(names):
            file.writestr(f"img_align_celeba/{name}", make_jpeg(i, 218, 178))

    def table(header, values, width):
        lines = [str(COUNT), " ".join(header) + " "] if header else []
        for name, row in zip(names, values, strict=True):
            lines.append(" ".join([name, *(f"{value:{width}d}" for value in row)]))
        return ("\n".join(lines) + "\n").encode()

    return {
        "img_align_celeba.zip": archive.getvalue(),
        # Not in the order of any hash, and in other shares.
        "list_eval_partition.txt": table(None, [[(0, 0, 1, 2, 0)[i % 5]] for i in range(COUNT)], 1),
        "list_attr_celeba.txt": table(ATTRIBUTES, random.choice([-1, 1], (COUNT, 40)), 2),
        "list_landmarks_align_celeba.txt": table(LANDMARKS, random.integers(-9, 220, (COUNT, 10)), 3),
        "identity_CelebA.txt": table(None, random.integers(1, 10_178, (COUNT, 1)), 1),
    }


def _put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _table(content, header):
    lines = [line.split() for line in content.decode().splitlines()]
    columns, rows = (lines[1], lines[2:]) if header else (None, lines)
    return columns, {row[0]: [int(value) for value in row[1:]] for row in rows}


def test_celeba_keeps_its_partition_and_labels(celeba, data_dir, monkeypatch):
    claim(monkeypatch, "celeb_a", celeba)
    _put(data_dir / "downloads/manual", celeba)
    source = prepare_named("celeb_a", data_dir, (37, 37, 3), crop=faces.FACE_SETS["celeb_a"].crop)
    assert "non-commercial research" in source.terms
    assert "@inproceedings" in source.citation
    examples = examples_of(data_dir, "37")
    assert {split: len(rows) for split, rows in examples.items()} == {"train": 36, "validation": 12, "test": 12}
    features = tfds.builder("them/37", data_dir=data_dir).info.features
    assert {features["attributes"][key].np_dtype for key in ATTRIBUTES} == {np.dtype(bool)}
    assert {features["landmarks"][key].np_dtype for key in LANDMARKS} == {np.dtype(np.int64)}
    partition = _table(celeba["list_eval_partition.txt"], header=False)[1]
    attributes = _table(celeba["list_attr_celeba.txt"], header=True)[1]
    landmarks = _table(celeba["list_landmarks_align_celeba.txt"], header=True)[1]
    identity = _table(celeba["identity_CelebA.txt"], header=False)[1]
    archive = zipfile.ZipFile(io.BytesIO(celeba["img_align_celeba.zip"]))
    for number, split in enumerate(SPLITS):
        for row in examples[split]:
            folder, name = row["name"].decode().split("/")
            assert folder == "img_align_celeba"
            assert partition[name] == [number]
            assert [row["attributes"][key] for key in ATTRIBUTES] == [value == 1 for value in attributes[name]]
            assert [row["landmarks"][key] for key in LANDMARKS] == landmarks[name]
            assert [row["identity"]["Identity_No"]] == identity[name]
            # The middle 148x148 of 218x178, by fours.
            middle = pixels_of(archive.read(f"img_align_celeba/{name}"))[35:183, 15:163].astype(float)
            expected = middle.reshape(37, 4, 37, 4, 3).mean(axis=(1, 3))
            assert np.abs(row["image"] - expected).max() <= 0.51


def test_celeba_is_what_tfds_makes_of_the_same_files(celeba, data_dir, monkeypatch):
    claim(monkeypatch, "celeb_a", celeba)
    _put(data_dir / "downloads/manual", celeba)
    prepare_named("celeb_a", data_dir, (218, 178, 3))
    ours = examples_of(data_dir, "218x178")

    builder = tfds.builder_cls("celeb_a")(data_dir=data_dir / "theirs")
    folder = data_dir / "downloads/manual"
    files = {
        "list_eval_partition": folder / "list_eval_partition.txt",
        "list_attr_celeba": folder / "list_attr_celeba.txt",
        "landmarks_celeba": folder / "list_landmarks_align_celeba.txt",
        "identity_celeba": folder / "identity_CelebA.txt",
    }
    archive = zipfile.ZipFile(folder / "img_align_celeba.zip")
    for number, split in enumerate(SPLITS):
        images = {Path(name).name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
        theirs = dict(builder._generate_examples(number, files, images))
        assert {row["name"].decode().split("/")[1] for row in ours[split]} == set(theirs)
        for row in ours[split]:
            expected = theirs[row["name"].decode().split("/")[1]]
            np.testing.assert_array_equal(row["image"], pixels_of(expected["image"].getvalue()))
            assert {key: int(value) for key, value in row["landmarks"].items()} == expected["landmarks"]
            assert {key: bool(value) for key, value in row["attributes"].items()} == expected["attributes"]
            assert {key: int(value) for key, value in row["identity"].items()} == expected["identity"]


def test_celeba_is_found_in_another_folder(celeba, data_dir, tmp_path, monkeypatch):
    claim(monkeypatch, "celeb_a", celeba)
    _put(tmp_path / "mine", celeba)
    source = faces.open_celeba(tmp_path / "mine", data_dir, tmp_path, 64)
    assert len(source.files) == COUNT
    assert source.read("img_align_celeba/000001.jpg") == make_jpeg(0, 218, 178)


def _quota(self, urls):
    raise ValueError("Failed to get url. HTTP code: 429.\nQuota exceeded")


@pytest.mark.parametrize("damage", ["missing", "size", "checksum", "download"])
def test_what_celeba_needs_is_told_in_one_message(celeba, data_dir, tmp_path, monkeypatch, damage):
    infos = claim(monkeypatch, "celeb_a", celeba)
    monkeypatch.setattr(tfds.download.DownloadManager, "download", _quota)
    files, path = dict(celeba), None
    folder = data_dir / "downloads/manual"
    if damage == "missing":
        path = folder = tmp_path / "mine"
        del files["identity_CelebA.txt"]
        found = f"{folder} has no identity_CelebA.txt"
    elif damage == "size":
        files["list_attr_celeba.txt"] += b"\n"
        found = f"{folder}/list_attr_celeba.txt has {len(files['list_attr_celeba.txt']):,} bytes"
    elif damage == "checksum":
        files["img_align_celeba.zip"] = b"P" * len(files["img_align_celeba.zip"])
        found = f"{folder}/img_align_celeba.zip has another SHA-256"
    else:
        del files["img_align_celeba.zip"]
        found = "ValueError: Failed to get url. HTTP code: 429. Quota exceeded"
    _put(folder, files)
    message = error_of(faces.open_celeba, path, data_dir, tmp_path, 64)
    assert found in message
    assert f"put these into {folder}" in message
    assert len(infos) == 5
    lines = message.splitlines()
    assert len(lines) == 6
    for url, info in infos.items():
        expected = f"  {info.filename}  {info.size:,} bytes, SHA-256 {info.checksum}, from {url}"
        assert expected in lines


def test_a_partition_of_other_pictures_is_refused(celeba, data_dir, monkeypatch):
    files = dict(celeba)
    lines = files["list_eval_partition.txt"].decode().splitlines(keepends=True)
    files["list_eval_partition.txt"] = "".join(lines[:-1]).encode()
    claim(monkeypatch, "celeb_a", files)
    _put(data_dir / "downloads/manual", files)
    message = error_of(faces.open_celeba, None, data_dir, data_dir, 64)
    assert "60 pictures, of which list_eval_partition.txt has 59" in message


def test_the_real_celeba_is_what_tfds_expects():
    infos = {info.filename: info for info in tfds.builder_cls("celeb_a").url_infos.values()}
    assert infos["img_align_celeba.zip"].size == 1_443_490_838
    assert len(infos) == 5
