"""Data sets in several archives."""

import pickle

import pytest
from archives import assert_holds, content_of, fill_with, make_tar, make_zip, opened
from making import user_error

from rvae_jax.data.prepare.sources.opening import open_paths
from rvae_jax.data.prepare.sources.zips import _open_zip_file


def _holds(source, expected):
    """``expected``: full name to the name within its archive."""
    assert list(source.files) == sorted(expected)
    for full, name in expected.items():
        assert source.files[full] == 2000
        assert source.read(full) == content_of(name)


def _parts(folder):
    folder.mkdir()
    make_zip(folder / "part1.zip", ["a.jpg", "x/b.png"])
    make_tar(folder / "part2.tar.gz", ["a.jpg", "c.jpg"], "w:gz")
    fill_with(folder, "sub/README", "._part1.zip", ".hidden.zip")
    make_tar(folder / "sub/part2.tar", ["d.jpg", "notes.txt"])


EXPECTED = {
    "part1/a.jpg": "a.jpg",
    "part1/x/b.png": "x/b.png",
    "part2/a.jpg": "a.jpg",
    "part2/c.jpg": "c.jpg",
    "sub/part2/d.jpg": "d.jpg",
}


def test_a_folder_of_archives_alone_is_one_source(tmp_path, capsys):
    _parts(tmp_path / "cats")
    source = opened(tmp_path / "cats")
    _holds(source, EXPECTED)
    _holds(pickle.loads(pickle.dumps(source)), EXPECTED)
    assert source.title == "the 3 archives in cats"
    assert source.ignored == {".txt": 1}
    assert "no pictures of its own: those in its zips and tars are read, 3 in all" in capsys.readouterr().out


def test_archives_beside_pictures_are_only_counted(tmp_path):
    _parts(tmp_path / "cats")
    fill_with(tmp_path / "cats", "own.jpg")
    source = opened(tmp_path / "cats")
    assert_holds(source, ["own.jpg"])
    assert source.ignored[".zip"] == 1


def test_several_archives_and_folders_are_one_source(tmp_path):
    _parts(tmp_path / "cats")
    fill_with(tmp_path / "more", "e.jpg")
    paths = [tmp_path / name for name in ("cats/part2.tar.gz", "cats/part1.zip", "cats/sub", "more")]
    source = open_paths(paths, tmp_path / "scratch")
    _holds(source, {f"cats/{full}": name for full, name in EXPECTED.items()} | {"more/e.jpg": "e.jpg"})
    assert source.title == "4 parts from part2.tar.gz to more"


def test_archives_that_differ_in_their_suffix_keep_it(tmp_path):
    paths = [make_zip(tmp_path / "a.zip", ["b.jpg"]), make_tar(tmp_path / "a.tar", ["b.jpg"])]
    _holds(open_paths(paths, tmp_path), {"a.zip/b.jpg": "b.jpg", "a.tar/b.jpg": "b.jpg"})


def test_archives_named_as_splits_are_the_partition(tmp_path):
    (tmp_path / "cats").mkdir()
    for name in ("train", "val", "test"):
        make_zip(tmp_path / f"cats/{name}.zip", [f"{name}{i}.jpg" for i in range(5)])
    source = opened(tmp_path / "cats")
    assert source.split("train/train3.jpg") == "train"
    assert source.split("val/val3.jpg") == "validation"
    assert source.split("test/test0.jpg") == "test"


def test_modified_changes_with_a_part(tmp_path):
    _parts(tmp_path / "cats")
    before = opened(tmp_path / "cats").modified
    assert opened(tmp_path / "cats").modified == before
    make_zip(tmp_path / "cats/part1.zip", ["a.jpg", "x/b.png", "z.png"])
    assert opened(tmp_path / "cats").modified != before


def test_zips_read_in_turns_are_opened_once(tmp_path):
    for i in range(20):
        make_zip(tmp_path / f"{i}.zip", ["a.jpg", "b.jpg"])
    source = open_paths(sorted(tmp_path.glob("*.zip")), tmp_path)
    before = _open_zip_file.cache_info().misses
    for name in sorted(source.files, key=lambda name: name[::-1]):
        source.read(name)
    assert _open_zip_file.cache_info().misses == before + 20


def test_what_is_wrong_with_parts_is_told(tmp_path):
    _parts(tmp_path / "cats")
    part = tmp_path / "cats/part1.zip"
    assert "is given twice" in user_error(open_paths, [part, tmp_path / "cats/../cats/part1.zip"], tmp_path)
    assert "nowhere: no such folder or file" in user_error(open_paths, [part, tmp_path / "nowhere"], tmp_path)
    (tmp_path / "cats/broken.zip").write_bytes(part.read_bytes()[:3000])
    assert "broken.zip: expected a folder of pictures, or a complete zip or tar" in user_error(
        opened, tmp_path / "cats"
    )
    (tmp_path / "words").mkdir()
    make_zip(tmp_path / "words/a.zip", ["a.txt"])
    assert "words: no picture there, but 1 .txt" in user_error(opened, tmp_path / "words")


def test_two_pictures_of_one_name_are_refused(tmp_path):
    make_zip(tmp_path / "a.zip", ["b/x.png"])
    (tmp_path / "a").mkdir()
    make_zip(tmp_path / "a/b.zip", ["x.png"])
    message = user_error(opened, tmp_path)
    assert "have a picture a/b/x.png; rename one part" in message


@pytest.mark.parametrize("name", ["x.zip", "x.ZIP", "x.tar", "x.tgz", "x.tar.gz", "x.tar.bz2", "x.txz"])
def test_the_suffix_of_an_archive_is_left_out_of_names(tmp_path, name):
    make_zip(tmp_path / name, ["a.jpg"])
    assert list(opened(tmp_path).files) == ["x/a.jpg"]
