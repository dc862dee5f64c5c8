import collections
import dataclasses
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from archives import NAMES, OTHERS, assert_holds, content_of, fill_with, make_tar, make_zip, opened
from making import user_error

from rvae_jax.data.prepare.sources.opening import open_path
from rvae_jax.data.prepare.sources.source import folder_of
from rvae_jax.data.prepare.sources.tables import Table


def test_kind_of_archive_does_not_depend_on_its_name(tmp_path):
    assert_holds(opened(make_zip(tmp_path / "cats.tar.gz", NAMES)), NAMES)
    assert_holds(opened(make_tar(tmp_path / "cats.zip", NAMES)), NAMES)
    assert_holds(opened(make_tar(tmp_path / "cats", NAMES, "w:xz")), NAMES)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_modified_changes_with_the_time_of_an_archive(kind, tmp_path):
    path = _archive(kind, tmp_path)
    before = open_path(path, tmp_path / "1").modified
    assert len(before) == 32
    assert open_path(path, tmp_path / "2").modified == before
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    assert open_path(path, tmp_path / "3").modified != before


def test_a_path_that_is_not_there_is_refused(tmp_path):
    assert "nowhere: no such folder or file" in user_error(opened, tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"a picture?" * 100, bytes(2000), content_of("x")])
def test_a_file_that_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    assert f"{tmp_path / 'x'}: " in user_error(opened, tmp_path / "x")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "cats").mkdir()
    assert "cats: no picture there, but nothing at all; expected files .jpg" in user_error(opened, tmp_path / "cats")


def test_without_a_picture_the_error_names_what_is_there(tmp_path):
    fill_with(tmp_path / "cats", *OTHERS, "a.gif", "b.GIF")
    expected = "no picture there, but 2 .gif, 2 .txt, 4 hidden, 1 without a suffix; expected"
    assert expected in user_error(opened, tmp_path / "cats")
    assert expected in user_error(opened, make_zip(tmp_path / "cats.zip", [*OTHERS, "a.gif", "b.GIF"]))
    with tarfile.open(tmp_path / "cats.tar", "w") as archive:
        archive.add(tmp_path / "cats", "cats")
    assert expected in user_error(opened, tmp_path / "cats.tar")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "nothing at all" in user_error(opened, tmp_path / "empty.zip")


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_folders_named_as_splits_are_the_partition(validation, tmp_path):
    names = {"train/a.png": "train", f"{validation}/x/b.png": "validation", "test/c.png": "test"}
    fill_with(tmp_path / "cats", *names, "README.txt")
    source = opened(tmp_path / "cats")
    assert source.splits == names
    assert {name: source.split(name) for name in names} == names
    assert opened(make_zip(tmp_path / "cats.zip", list(names))).splits == names
    assert opened(make_tar(tmp_path / "cats.tar", list(names))).splits == names
    with tarfile.open(tmp_path / "dot.tar", "w") as archive:
        archive.add(tmp_path / "cats", ".")
    assert opened(tmp_path / "dot.tar").splits == names


@pytest.mark.parametrize("second", ["val", "test"])
def test_what_is_not_trained_on_becomes_two_splits(second, tmp_path):
    names = [f"{folder}/{i}.png" for folder in ("train", second) for i in range(400)]
    source = open_path(make_zip(tmp_path / "cats.zip", names), tmp_path)
    counts = collections.Counter((name.partition("/")[0], source.split(name)) for name in names)
    assert counts.pop(("train", "train")) == 400
    assert counts.keys() == {(second, "validation"), (second, "test")}
    assert all(150 < count < 250 for count in counts.values())
    fewer = open_path(make_zip(tmp_path / "fewer.zip", names[::3]), tmp_path)
    assert all(fewer.split(name) == source.split(name) for name in names[::3])


@pytest.mark.parametrize(
    "names",
    [
        ["train/a.png", "train/b.png"],
        ["val/a.png", "test/b.png"],
        ["x/train/a.png", "x/train/b.png"],
        ["boat/a.png", "train/b.png", "lorry/c.png"],
        ["x/a.png", "x/b/test/c.png", "x/b/train/d.png"],
        ["a.png"],
    ],
)
def test_other_folders_are_no_partition(names, tmp_path):
    fill_with(tmp_path / "cats", *names)
    assert opened(tmp_path / "cats").splits is None


@pytest.mark.parametrize("leading", ["mydata/", "a/b c/"])
def test_a_partition_may_lie_below_a_folder_that_all_share(leading, tmp_path):
    names = {"train/a.png": "train", "train/x/b.png": "train", "val/x/c.png": "validation", "test/d.png": "test"}
    names = {leading + name: split for name, split in names.items()}
    fill_with(tmp_path / "cats", *names, "README.txt")
    for path in (tmp_path / "cats", make_zip(tmp_path / "cats.zip", names), make_tar(tmp_path / "cats.tar", names)):
        assert opened(path).splits == names


@pytest.mark.parametrize("leading", ["", "mydata/"])
@pytest.mark.parametrize("outside", [["logo.png"], ["more/c.png", "more/d.png"]])
def test_pictures_outside_of_a_partition_are_refused(outside, leading, tmp_path):
    names = [leading + name for name in ["Train/a.png", "test/b.png", *outside]]
    message = user_error(opened, make_zip(tmp_path / "cats.zip", names))
    assert (
        f"cats.zip: {len(outside)} of {len(names)} pictures lie outside of the folders Train, test, such as" in message
    )
    assert f" {leading}{outside[0]}; expected all in them: move or remove the others, or rename the folders" in message


def _archive(kind, tmp_path):
    if kind == "folder":
        fill_with(tmp_path / "cats", *NAMES)
        return tmp_path / "cats"
    if kind == "zip":
        return make_zip(tmp_path / "cats.zip", NAMES)
    return make_tar(tmp_path / "cats.tar", NAMES, {"tar": "w", "tar.gz": "w:gz"}[kind])


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_a_source_reads_the_same_after_pickling(kind, tmp_path):
    source = opened(_archive(kind, tmp_path))
    labels = {"attributes": Table(["a.jpg"], {"x": np.array([5]), "y": np.array(["u"], object)})}
    source = dataclasses.replace(source, labels=labels, group=folder_of)
    source.read("a.jpg")  # the file is open
    copy = pickle.loads(pickle.dumps(source))
    assert_holds(copy, NAMES)
    assert [copy.split(name) for name in NAMES] == [source.split(name) for name in NAMES]
    assert copy.labels["attributes"].row("a.jpg") == {"x": 5, "y": "u"}
