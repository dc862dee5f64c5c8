import os

import pytest
from archives import IGNORED, NAMES, OTHERS, assert_holds, content_of, fill_with, opened
from making import user_error

from rvae_jax.data.prepare.sources.source import SPLITS, UnusableError, order_key


def test_a_folder_has_its_pictures_and_counts_the_other_files(tmp_path):
    fill_with(tmp_path / "cats", *NAMES, *OTHERS)
    source = opened(tmp_path / "cats")
    assert_holds(source, NAMES)
    assert source.ignored == IGNORED
    assert source.splits is None
    assert source.title == "the folder cats"


def test_a_picture_is_recognised_by_its_suffix(tmp_path):
    names = ["1.jpg", "2.jpeg", "3.jpe", "4.jfif", "5.png", "6.webp", "7.bmp", "8.dib", "9.tif", "a.tiff"]
    names += ["f.heic", "g.heif", "h.hif", "i.avif"]
    fill_with(tmp_path / "cats", *names, "b.gif", "c.jpg.txt", "jpg", "d.psd", "e.jpg~")
    assert_holds(opened(tmp_path / "cats"), names)


def test_prepared_data_sets_are_left_out_and_counted(tmp_path):
    for size in ("made/64/", "made/128/"):
        fill_with(tmp_path / "cats" / size, "dataset_info.json", "features.json", "summary.png", "x/y.png")
    fill_with(tmp_path / "cats", "a.png")
    source = opened(tmp_path / "cats")
    assert_holds(source, ["a.png"])
    assert source.ignored == {"prepared data set": 2}
    assert "no picture there, but 1 prepared data set; expected" in user_error(
        opened, tmp_path / "cats" / "made" / "64"
    )


def test_a_data_set_of_others_is_read(tmp_path):
    fill_with(tmp_path / "cats", "dataset_info.json", "a.png", "b/dataset_info.json", "b/c.png", "d/features.json")
    source = opened(tmp_path / "cats")
    assert_holds(source, ["a.png", "b/c.png"])
    assert source.ignored == {".json": 3}


def test_a_folder_may_lie_in_a_hidden_folder(tmp_path):
    fill_with(tmp_path / ".cache" / "cats", *NAMES)
    assert_holds(opened(tmp_path / ".cache" / "cats"), NAMES)


def test_a_name_may_be_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    fill_with(tmp_path / "cats", name, "b.png")
    source = opened(tmp_path / "cats")
    assert_holds(source, ["b.png", name])
    assert source.split(name) in SPLITS
    assert order_key(name) != order_key("caf.png")


def test_links_to_files_and_folders_are_followed(tmp_path):
    fill_with(tmp_path / "cats", "a.png")
    fill_with(tmp_path / "elsewhere", "b.png", "c/d.png")
    (tmp_path / "cats" / "link.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "cats" / "folder").symlink_to(tmp_path / "elsewhere")
    source = opened(tmp_path / "cats")
    assert list(source.files) == ["a.png", "folder/b.png", "folder/c/d.png", "link.png"]
    assert source.read("link.png") == source.read("folder/b.png") == content_of("b.png")
    assert source.read("folder/c/d.png") == content_of("c/d.png")


def test_a_folder_may_be_a_link(tmp_path):
    fill_with(tmp_path / "cats", *NAMES)
    (tmp_path / "link").symlink_to("cats")
    assert_holds(opened(tmp_path / "link"), NAMES)


def test_links_in_a_circle_are_followed_once(tmp_path):
    fill_with(tmp_path / "cats", "a.png", "b/c.png")
    (tmp_path / "cats" / "b" / "up").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "b" / "here").symlink_to(".")
    (tmp_path / "cats" / "twice").symlink_to("b")
    (tmp_path / "cats" / "itself").symlink_to("itself")
    assert_holds(opened(tmp_path / "cats"), ["a.png", "b/c.png"])


def test_what_cannot_be_read_is_listed_and_raises_when_it_is_read(tmp_path):
    fill_with(tmp_path / "cats", "a.png")
    (tmp_path / "cats" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "cats" / "itself.png").symlink_to("itself.png")
    (tmp_path / "cats" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "cats" / "pipe.png")
    source = opened(tmp_path / "cats")
    assert list(source.files) == ["a.png", "gone.png", "itself.png", "pipe.png"]
    assert source.files["gone.png"] == source.files["itself.png"] == -1
    for name in ("gone.png", "itself.png"):
        with pytest.raises(OSError):
            source.read(name)
    with pytest.raises(UnusableError, match="not a regular file"):
        source.read("pipe.png")


def test_modified_changes_with_the_names_and_times_of_pictures_alone(tmp_path):
    fill_with(tmp_path / "cats", "a.png", "b/c.png", "notes.txt")
    (tmp_path / "cats" / "gone.png").symlink_to("nowhere.png")
    before = opened(tmp_path / "cats").modified
    assert len(before) == 32
    fill_with(tmp_path / "cats", "more.txt")
    os.utime(tmp_path / "cats" / "notes.txt", ns=(0, 0))
    assert opened(tmp_path / "cats").modified == before
    status = (tmp_path / "cats" / "b/c.png").stat()
    os.utime(tmp_path / "cats" / "b/c.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    after = opened(tmp_path / "cats").modified
    assert after != before
    (tmp_path / "cats" / "b/c.png").rename(tmp_path / "cats" / "b/d.png")
    assert opened(tmp_path / "cats").modified not in (before, after)


def test_a_file_that_vanished_raises(tmp_path):
    fill_with(tmp_path / "cats", "a.png")
    source = opened(tmp_path / "cats")
    (tmp_path / "cats" / "a.png").unlink()
    with pytest.raises(FileNotFoundError):
        source.read("a.png")
