import dataclasses
import fcntl
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from making import (
    SMALL_SHARDS,
    Interruption,
    encode,
    fill,
    interrupted_at,
    make_pixels,
    open_pictures,
    prepare,
    prepare_error,
    published,
    read_images,
    read_tree,
)

from rvae_jax.data.prepare import preparation
from rvae_jax.errors import UserError


def test_an_empty_split_is_refused(tmp_path, data_dir):
    fill(tmp_path / "few", 2)
    message = prepare_error(tmp_path / "few", data_dir)
    assert re.search(r"2 pictures, of which .*\b0 (train|validation|test)", message)
    assert read_tree(data_dir) == {}


def test_a_prepared_set_is_left_alone(pictures, data_dir, capsys):
    prepare(pictures, data_dir)
    before = {path: path.stat().st_mtime_ns for path in (data_dir / "cats/16").rglob("*")}
    capsys.readouterr()
    (folder,) = prepare(pictures, data_dir)
    assert f"Already prepared: {folder}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (data_dir / "cats/16").rglob("*")} == before


def test_another_shape_is_added(pictures, data_dir):
    prepare(pictures, data_dir)
    before = read_tree(data_dir)
    prepare(pictures, data_dir, (16, 16, 3), (12, 12, 1))
    assert published(data_dir) == ["12_grey", "16"]
    assert before.items() <= read_tree(data_dir).items()


def test_a_set_of_other_settings_is_refused_or_replaced(pictures, tmp_path, data_dir):
    prepare(pictures, data_dir)
    before = read_tree(data_dir)
    message = prepare_error(pictures, data_dir, crop=(20, 20))
    assert "made from the folder cats, of other pictures or with other settings" in message
    assert "--replace" in message
    assert read_tree(data_dir) == before
    prepare(pictures, data_dir, crop=(20, 20), options={"replace": True})
    prepare(pictures, tmp_path / "fresh", crop=(20, 20))
    assert read_tree(data_dir) == read_tree(tmp_path / "fresh") != before


def test_all_sizes_of_a_name_are_of_the_same_pictures(pictures, tmp_path, data_dir, capsys):
    other = fill(tmp_path / "dogs", first=40)
    prepare(pictures, data_dir, (16, 16, 3), (12, 12, 3))
    before = read_tree(data_dir)
    message = prepare_error(other, data_dir, (20, 20, 3))
    assert "12/1.0.0 is there, made from the folder cats" in message
    assert read_tree(data_dir) == before
    (data_dir / "cats/12/2.0.0").mkdir()
    prepare(other, data_dir, (20, 20, 3), (16, 16, 3), options={"replace": True})
    assert published(data_dir) == ["16", "20"]
    assert "040.png" in {name.decode() for name in read_images(data_dir)}
    assert f"Removed {data_dir / 'cats/12'}" in capsys.readouterr().out
    assert [path.name for path in (data_dir / "cats/12").iterdir()] == ["2.0.0"]
    assert not (data_dir / "cats" / "incomplete").exists()


def _repaint(folder):
    """Other pixels in files of the same names and sizes."""
    for i, path in enumerate(sorted(folder.iterdir())):
        size = path.stat().st_size
        path.write_bytes(encode(make_pixels(100 + i), "BMP"))
        assert path.stat().st_size == size


def test_pictures_that_changed_in_place_are_noticed(tmp_path, data_dir, capsys):
    folder = tmp_path / "bmp"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:03d}.bmp").write_bytes(encode(make_pixels(i), "BMP"))
    with pytest.raises(Interruption):
        prepare(interrupted_at(open_pictures(folder), 17), data_dir, options=SMALL_SHARDS)
    _repaint(folder)
    prepare(folder, data_dir, options=SMALL_SHARDS)
    assert "begins anew" in capsys.readouterr().out
    expected = {f"{i:03d}.bmp": np.float64(make_pixels(100 + i).mean()) for i in range(40)}
    for name, image in read_images(data_dir).items():
        assert abs(image.mean() - expected[name.decode()]) < 20

    prepare(folder, data_dir)
    assert "Warning" not in capsys.readouterr().out
    before = read_tree(data_dir)
    _repaint(folder)
    prepare(folder, data_dir)
    said = capsys.readouterr().out
    assert "Warning: since" in said
    assert "Already prepared" in said
    assert read_tree(data_dir) == before
    prepare(folder, data_dir, options={"replace": True})
    assert "Prepared" in capsys.readouterr().out


def test_what_is_prepared_can_be_asked_for_where_nothing_may_be_written(pictures, data_dir, monkeypatch):
    made = prepare(pictures, data_dir)
    monkeypatch.setattr(Path, "mkdir", lambda *args, **kwargs: pytest.fail("made a folder"))
    monkeypatch.setattr(preparation, "_locked", lambda *args: pytest.fail("made a lock"))
    assert prepare(pictures, data_dir) == made


@pytest.mark.parametrize("content", [None, "", '{"no": "fingerprint"}', '{"fingerprint": "a", "modified": "b"}'])
def test_a_folder_that_this_program_did_not_make_is_refused(pictures, data_dir, content):
    folder = data_dir / "cats/16/1.0.0"
    folder.mkdir(parents=True)
    (folder / "precious").write_text("x")
    if content is not None:
        (folder / "preparation.json").write_text(content)
    before = read_tree(data_dir)
    assert "not made by this command" in prepare_error(pictures, data_dir)
    assert read_tree(data_dir) == before


def test_other_labels_are_another_set(pictures, tmp_path, data_dir):
    """The same values, for other pictures."""
    for name, numbers in (("a", range(40)), ("b", range(39, -1, -1))):
        rows = "".join(f"{i:03d}.png,{value}\n" for i, value in zip(numbers, range(40), strict=True))
        (tmp_path / f"{name}.csv").write_text(f"name,value\n{rows}")
    prepare(pictures, data_dir, labels=tmp_path / "a.csv")
    assert "of other pictures or with other settings" in prepare_error(pictures, data_dir, labels=tmp_path / "b.csv")


@pytest.mark.parametrize("name", ["", "Cats", "1cats", "my cats", "cats/64", "..", "incomplete", "cäts"])
def test_a_name_that_tfds_cannot_have_is_refused(name):
    with pytest.raises(UserError, match="expected small letters, digits and _"):
        preparation.check_name(name)


def test_a_full_disk_is_told_before_anything_is_done(pictures, data_dir, monkeypatch):
    usage = shutil.disk_usage(data_dir)
    needed = 40 * 16 * 16 * 3

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))

    leave(needed - 1)
    message = prepare_error(pictures, data_dir)
    assert "0.0 MB free" in message
    assert "--data_dir" in message
    assert read_tree(data_dir) == {}
    leave(needed)
    prepare(pictures, data_dir)


def test_a_wrong_option_is_told_before_any_process_starts(pictures, tmp_path, data_dir):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("name,x,y,w,h\n000.png,1,2,3,4\n")
    message = prepare_error(
        pictures, data_dir, boxes=boxes, options=SMALL_SHARDS | {"processes": 2, "worth_processes": 1}
    )
    assert "expected name, left, top, width, height" in message


def test_a_second_process_waits_for_the_first(pictures, data_dir, capsys):
    (data_dir / "cats").mkdir()
    failed = []

    def second():
        try:
            prepare(pictures, data_dir)
        except BaseException as error:
            failed.append(error)

    with (data_dir / "cats/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        for _ in range(100):
            time.sleep(0.02)
            if said := capsys.readouterr().out:
                break
        assert said == "Waits for another process that prepares cats\n"
        time.sleep(0.2)
        assert sorted(path.name for path in (data_dir / "cats").iterdir()) == [".lock"]
        fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join(20)
    assert not failed
    assert published(data_dir) == ["16"]


def test_two_at_once_do_the_work_once(pictures, tmp_path, data_dir, capsys):
    source = open_pictures(pictures)
    read, first_reads = [], threading.Event()

    def slow(name):
        read.append(name)
        first_reads.set()
        time.sleep(0.005)
        return source.read(name)

    slow_source = dataclasses.replace(source, read=slow)
    thread = threading.Thread(target=prepare, args=(slow_source, data_dir))
    thread.start()
    assert first_reads.wait(20)
    prepare(slow_source, data_dir)
    thread.join(20)
    assert sorted(read) == sorted(source.files)
    assert "Already prepared" in capsys.readouterr().out
    prepare(pictures, tmp_path / "alone")
    assert read_tree(data_dir) == read_tree(tmp_path / "alone")
