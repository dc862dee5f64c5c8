import tarfile

import numpy as np
import pytest
from face_files import claim, error_of, examples_by_name, examples_of, make_jpeg, make_tar_of, pixels_of, prepare_named

from rvae_jax.data.prepare.sources import faces
from rvae_jax.data.prepare.sources.named import open_named
from rvae_jax.data.prepare.sources.source import folder_of

PEOPLE = [f"Person_{i:02d}" for i in range(40)]


def _lfw_files():
    """One to four pictures of each person."""
    files = {}
    for i, person in enumerate(PEOPLE):
        for j in range(1 + i % 4):
            files[f"lfw/{person}/{person}_{j + 1:04d}.jpg"] = make_jpeg(10 * i + j, 50, 50)
    return files


@pytest.mark.parametrize("kind", ["staged", "from", "file", "folder"])
def test_no_person_of_lfw_is_in_two_splits(data_dir, tmp_path, monkeypatch, kind):
    files = _lfw_files()
    archive = tmp_path / "lfw.tgz"
    make_tar_of(archive, files, "w:gz")
    claim(monkeypatch, "lfw", {"lfw.tgz": archive.read_bytes()})
    path = {"staged": None, "from": tmp_path, "file": archive, "folder": tmp_path / "unpacked/lfw"}[kind]
    if kind == "staged":
        archive.rename(data_dir / "downloads/manual/lfw.tgz")
    if kind == "folder":
        with tarfile.open(archive) as opened:
            opened.extractall(tmp_path / "unpacked", filter="data")
    source = prepare_named("lfw", data_dir, (25, 25, 3), path=path)
    assert "research" in source.terms
    examples = examples_of(data_dir, "25")
    people = {split: {row["attributes"]["person"].decode() for row in rows} for split, rows in examples.items()}
    assert sum(map(len, people.values())) == 40
    assert set.union(*people.values()) == set(PEOPLE)
    assert all(people.values())
    rows = examples_by_name(data_dir, "25")
    prefix = "" if kind == "folder" else "lfw/"
    assert len(rows) == len(files)
    for name, content in files.items():
        row = rows[prefix + name.removeprefix("lfw/")]
        assert row["attributes"]["person"].decode() == name.split("/")[1]
        expected = pixels_of(content).reshape(25, 2, 25, 2, 3).mean(axis=(1, 3))
        assert np.abs(row["image"] - expected).max() <= 0.51


def test_another_lfw_is_refused(data_dir, tmp_path):
    make_tar_of(tmp_path / "lfw.tgz", _lfw_files(), "w:gz")
    message = error_of(faces.open_lfw, tmp_path, data_dir, tmp_path, 64)
    assert "180,566,744 bytes" in message
    assert f"put these into {tmp_path}" in message


def test_a_plain_folder_has_no_labels(data_dir, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/0.jpg").write_bytes(make_jpeg(0, 20, 20))
    with open_named(str(tmp_path / "plain"), None, data_dir, 64) as source:
        pass
    assert (source.labels, source.terms, source.splits) == ({}, "", None)
    assert folder_of("a/b/c.jpg") == "a/b"
