import dataclasses
import hashlib
import io
import itertools
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources import faces
from rvae_jax.data.prepare.sources import source as sources
from rvae_jax.data.prepare.sources.named import open_named
from rvae_jax.errors import UserError

SPLITS = ("train", "validation", "test")
ATTRIBUTES = [f"Attribute_{i}" for i in range(38)] + ["Male", "Young"]
LANDMARKS = [f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"]
COUNT = 60


def _jpeg(seed, h, w):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "datasets/downloads/manual").mkdir(parents=True)
    return tmp_path / "datasets"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    monkeypatch.setattr("requests.Session.send", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


def _claim(monkeypatch, name, files):
    """Lets TFDS expect these files, instead of the real ones of the same names."""
    builder = tfds.builder_cls(name)
    infos = {
        url: dataclasses.replace(info, size=len(content), checksum=hashlib.sha256(content).hexdigest())
        for url, info in builder.url_infos.items()
        for content in [files[info.filename]]
    }
    monkeypatch.setattr(builder, "url_infos", infos)
    return infos


def _prepare(name, data_dir, *shapes, path=None, **settings):
    settings = PreparationSettings(shapes=shapes or ((16, 16, 3),), **settings)
    with open_named(name, path, data_dir, max(shape[0] for shape in settings.shapes)) as source:
        preparation.prepare(source, settings, "them", data_dir, processes=1)
    return source


def _examples(data_dir, config="16"):
    return {split: list(tfds.data_source(f"them/{config}", split=split, data_dir=data_dir)) for split in SPLITS}


def _by_name(data_dir, config="16"):
    rows = itertools.chain(*_examples(data_dir, config).values())
    return {row["name"].decode(): row for row in rows}


def _error(call, *args, **kwargs):
    with pytest.raises(UserError) as info:
        call(*args, **kwargs)
    return str(info.value)


# CelebA


@pytest.fixture(scope="module")
def celeba():
    """The five files by name, of sixty pictures."""
    random = np.random.default_rng(0)
    names = [f"{i:06d}.jpg" for i in range(1, COUNT + 1)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("img_align_celeba/", "")
        for i, name in enumerate(names):
            file.writestr(f"img_align_celeba/{name}", _jpeg(i, 218, 178))

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
    _claim(monkeypatch, "celeb_a", celeba)
    _put(data_dir / "downloads/manual", celeba)
    source = _prepare("celeb_a", data_dir, (37, 37, 3), crop=faces.FACE_SETS["celeb_a"].crop)
    assert "non-commercial research" in source.terms
    assert "@inproceedings" in source.citation
    examples = _examples(data_dir, "37")
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
            middle = _pixels(archive.read(f"img_align_celeba/{name}"))[35:183, 15:163].astype(float)
            expected = middle.reshape(37, 4, 37, 4, 3).mean(axis=(1, 3))
            assert np.abs(row["image"] - expected).max() <= 0.51


def test_celeba_is_what_tfds_makes_of_the_same_files(celeba, data_dir, monkeypatch):
    _claim(monkeypatch, "celeb_a", celeba)
    _put(data_dir / "downloads/manual", celeba)
    _prepare("celeb_a", data_dir, (218, 178, 3))
    ours = _examples(data_dir, "218x178")

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
            np.testing.assert_array_equal(row["image"], _pixels(expected["image"].getvalue()))
            assert {key: int(value) for key, value in row["landmarks"].items()} == expected["landmarks"]
            assert {key: bool(value) for key, value in row["attributes"].items()} == expected["attributes"]
            assert {key: int(value) for key, value in row["identity"].items()} == expected["identity"]


def test_celeba_is_found_in_another_folder(celeba, data_dir, tmp_path, monkeypatch):
    _claim(monkeypatch, "celeb_a", celeba)
    _put(tmp_path / "mine", celeba)
    source = faces.open_celeba(tmp_path / "mine", data_dir, tmp_path, 64)
    assert len(source.files) == COUNT
    assert source.read("img_align_celeba/000001.jpg") == _jpeg(0, 218, 178)


def _quota(self, urls):
    raise ValueError("Failed to get url. HTTP code: 429.\nQuota exceeded")


@pytest.mark.parametrize("damage", ["missing", "size", "checksum", "download"])
def test_what_celeba_needs_is_told_in_one_message(celeba, data_dir, tmp_path, monkeypatch, damage):
    infos = _claim(monkeypatch, "celeb_a", celeba)
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
    message = _error(faces.open_celeba, path, data_dir, tmp_path, 64)
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
    _claim(monkeypatch, "celeb_a", files)
    _put(data_dir / "downloads/manual", files)
    message = _error(faces.open_celeba, None, data_dir, data_dir, 64)
    assert "60 pictures, of which list_eval_partition.txt has 59" in message


def test_the_real_celeba_is_what_tfds_expects():
    infos = {info.filename: info for info in tfds.builder_cls("celeb_a").url_infos.values()}
    assert infos["img_align_celeba.zip"].size == 1_443_490_838
    assert len(infos) == 5


# CelebA-HQ


def _tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(("height", "chosen"), [(16, 64), (64, 64), (65, 128), (128, 128)])
def test_the_smallest_archive_that_is_large_enough_is_taken(data_dir, height, chosen, capsys):
    for size in (64, 128):
        files = {f"data{size}x{size}/{i:05d}.jpg": _jpeg(i, size, size) for i in range(30)}
        _tar(data_dir / f"downloads/manual/data{size}x{size}.tar", files)
    source = faces.open_celeba_hq(None, data_dir, data_dir, height)
    assert set(source.files) == {f"data{chosen}x{chosen}/{i:05d}.jpg" for i in range(30)}
    assert "has 30 pictures; CelebA-HQ has 30,000" in capsys.readouterr().out
    if height == 64:
        _prepare("celeb_a_hq", data_dir, (64, 64, 3))
        row = _by_name(data_dir, "64")["data64x64/00007.jpg"]
        np.testing.assert_array_equal(row["image"], _pixels(_jpeg(7, 64, 64)))


def test_without_an_archive_that_is_large_enough_it_is_told(data_dir):
    _tar(data_dir / "downloads/manual/data64x64.tar", {"data64x64/0.jpg": _jpeg(0, 64, 64)})
    message = _error(faces.open_celeba_hq, None, data_dir, data_dir, 128)
    assert f"{data_dir}/downloads/manual has no data{{R}}x{{R}}.tar with R of at least 128" in message
    assert "CelebAMask-HQ" in message


MAPPING = {0: 162_769, 1: 162_770, 2: 182_636, 3: 182_637, 4: 0, 5: 202_598}  # numbers that count from 0
EXPECTED = {0: "train", 1: "validation", 2: "validation", 3: "test", 4: "train", 5: "test"}


@pytest.fixture
def mask_hq(tmp_path):
    folder = tmp_path / "CelebAMask-HQ"
    pictures = folder / "CelebA-HQ-img"
    masks = folder / "CelebAMask-HQ-mask-anno/0"
    for path in (pictures, masks):
        path.mkdir(parents=True)
    lines = [str(len(MAPPING)), " ".join(ATTRIBUTES)]
    for i in MAPPING:
        (pictures / f"{i}.jpg").write_bytes(_jpeg(i, 64, 64))
        Image.fromarray(np.zeros((51, 51), np.uint8)).save(masks / f"{i:05d}_skin.png")
        lines.append(f"{i}.jpg  " + " ".join("1" if (i + j) % 3 == 0 else "-1" for j in range(40)))
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{i:<11d} {number:<12d} {number + 1:06d}.jpg" for i, number in MAPPING.items()]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx   orig_idx   orig_file", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("by_name", [True, False])
def test_celebamask_hq_has_celebas_partition_and_attributes(mask_hq, data_dir, by_name):
    name, path = ("celeb_a_hq", mask_hq) if by_name else (str(mask_hq), None)
    source = _prepare(name, data_dir, path=path)
    assert set(source.files) == {f"{i}.jpg" for i in MAPPING}
    assert "non-commercial" in source.terms
    examples = _examples(data_dir)
    found = {int(row["name"][:-4]): split for split, rows in examples.items() for row in rows}
    assert found == EXPECTED
    for name, row in _by_name(data_dir).items():
        i = int(name[:-4])
        assert [row["attributes"][key] for key in ATTRIBUTES] == [(i + j) % 3 == 0 for j in range(40)]


def test_celebamask_hq_may_lack_its_lists(mask_hq, data_dir):
    (mask_hq / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    source = faces.open_celebamask_hq(mask_hq)
    assert source.splits is None
    assert set(source.labels) == {"attributes"}
    (mask_hq / "CelebAMask-HQ-attribute-anno.txt").unlink()
    assert faces.open_celebamask_hq(mask_hq).labels == {}


def test_a_picture_without_attributes_is_told(mask_hq):
    (mask_hq / "CelebA-HQ-img/6.jpg").write_bytes(_jpeg(6, 64, 64))
    assert "no line for 6.jpg" in _error(faces.open_celebamask_hq, mask_hq)


# LFW


PEOPLE = [f"Person_{i:02d}" for i in range(40)]


def _lfw_files():
    """One to four pictures of each person."""
    files = {}
    for i, person in enumerate(PEOPLE):
        for j in range(1 + i % 4):
            files[f"lfw/{person}/{person}_{j + 1:04d}.jpg"] = _jpeg(10 * i + j, 50, 50)
    return files


@pytest.mark.parametrize("kind", ["staged", "from", "file", "folder"])
def test_nobody_of_lfw_is_in_two_splits(data_dir, tmp_path, monkeypatch, kind):
    files = _lfw_files()
    archive = tmp_path / "lfw.tgz"
    _tar(archive, files, "w:gz")
    _claim(monkeypatch, "lfw", {"lfw.tgz": archive.read_bytes()})
    path = {"staged": None, "from": tmp_path, "file": archive, "folder": tmp_path / "unpacked/lfw"}[kind]
    if kind == "staged":
        archive.rename(data_dir / "downloads/manual/lfw.tgz")
    if kind == "folder":
        with tarfile.open(archive) as opened:
            opened.extractall(tmp_path / "unpacked", filter="data")
    source = _prepare("lfw", data_dir, (25, 25, 3), path=path)
    assert "research" in source.terms
    examples = _examples(data_dir, "25")
    people = {split: {row["attributes"]["person"].decode() for row in rows} for split, rows in examples.items()}
    assert sum(map(len, people.values())) == 40
    assert set.union(*people.values()) == set(PEOPLE)
    assert all(people.values())
    rows = _by_name(data_dir, "25")
    prefix = "" if kind == "folder" else "lfw/"
    assert len(rows) == len(files)
    for name, content in files.items():
        row = rows[prefix + name.removeprefix("lfw/")]
        assert row["attributes"]["person"].decode() == name.split("/")[1]
        expected = _pixels(content).reshape(25, 2, 25, 2, 3).mean(axis=(1, 3))
        assert np.abs(row["image"] - expected).max() <= 0.51


def test_another_lfw_is_refused(data_dir, tmp_path):
    _tar(tmp_path / "lfw.tgz", _lfw_files(), "w:gz")
    message = _error(faces.open_lfw, tmp_path, data_dir, tmp_path, 64)
    assert "180,566,744 bytes" in message
    assert f"put these into {tmp_path}" in message


def test_a_plain_folder_has_no_labels(data_dir, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/0.jpg").write_bytes(_jpeg(0, 20, 20))
    with open_named(str(tmp_path / "plain"), None, data_dir, 64) as source:
        pass
    assert (source.labels, source.terms, source.splits) == ({}, "", None)
    assert sources.folder_of("a/b/c.jpg") == "a/b"
