import collections
import dataclasses
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest

from rvae_jax.data.prepare import sources
from rvae_jax.data.prepare.decode import UnusableError
from rvae_jax.data.prepare.sources import Source
from rvae_jax.data.prepare.tables import Table
from rvae_jax.errors import UserError


def _content(name, size=2000):
    """Not a picture; what is read is not looked into here."""
    seed = list(name.encode("utf-8", "surrogateescape"))
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def _fill(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_content(name))


def _open(path):
    return sources.open_source(path, path.parent / "scratch")


def _error(call, *args):
    with pytest.raises(UserError) as info:
        call(*args)
    message = str(info.value)
    assert message
    assert "\n" not in message
    return message


def _assert_holds(source, names):
    assert list(source.files) == sorted(names)
    for name in names:
        assert source.files[name] == 2000
        assert source.read(name) == _content(name)


NAMES = ["a.jpg", "b/c.PNG", "b/d e.JpEg", "b/ü/ñ.webp", "b/ü/x.tif", "z/y/x/w.bmp", "写真/一.tiff"]
OTHERS = ["README", "notes.txt", "b/more.TXT", ".hidden.png", "b/.trash/a.png", "__MACOSX/c.png", "b/.DS_Store"]
IGNORED = {"without a suffix": 1, ".txt": 2, "hidden": 4}


# Folders


def test_folder(tmp_path):
    _fill(tmp_path / "cats", *NAMES, *OTHERS)
    source = _open(tmp_path / "cats")
    _assert_holds(source, NAMES)
    assert source.ignored == IGNORED
    assert source.splits is None
    assert source.title == "the folder cats"


def test_every_suffix(tmp_path):
    names = ["1.jpg", "2.jpeg", "3.jpe", "4.jfif", "5.png", "6.webp", "7.bmp", "8.dib", "9.tif", "a.tiff"]
    _fill(tmp_path / "cats", *names, "b.gif", "c.jpg.txt", "jpg", "d.heic", "e.jpg~")
    _assert_holds(_open(tmp_path / "cats"), names)


def test_prepared_data_sets_are_left_out_and_counted(tmp_path):
    for size in ("made/64/", "made/128/"):
        _fill(tmp_path / "cats" / size, "dataset_info.json", "features.json", "summary.png", "x/y.png")
    _fill(tmp_path / "cats", "a.png")
    source = _open(tmp_path / "cats")
    _assert_holds(source, ["a.png"])
    assert source.ignored == {"prepared data set": 2}
    assert "no picture there, but 1 prepared data set; expected" in _error(_open, tmp_path / "cats" / "made" / "64")


def test_a_data_set_of_others_is_read(tmp_path):
    _fill(tmp_path / "cats", "dataset_info.json", "a.png", "b/dataset_info.json", "b/c.png", "d/features.json")
    source = _open(tmp_path / "cats")
    _assert_holds(source, ["a.png", "b/c.png"])
    assert source.ignored == {".json": 3}


def test_folder_within_a_hidden_folder(tmp_path):
    _fill(tmp_path / ".cache" / "cats", *NAMES)
    _assert_holds(_open(tmp_path / ".cache" / "cats"), NAMES)


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    _fill(tmp_path / "cats", name, "b.png")
    source = _open(tmp_path / "cats")
    _assert_holds(source, ["b.png", name])
    assert source.split(name) in sources.SPLITS
    assert sources.order_key(name) != sources.order_key("caf.png")


def test_linked_files_and_folders(tmp_path):
    _fill(tmp_path / "cats", "a.png")
    _fill(tmp_path / "elsewhere", "b.png", "c/d.png")
    (tmp_path / "cats" / "link.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "cats" / "folder").symlink_to(tmp_path / "elsewhere")
    source = _open(tmp_path / "cats")
    assert list(source.files) == ["a.png", "folder/b.png", "folder/c/d.png", "link.png"]
    assert source.read("link.png") == source.read("folder/b.png") == _content("b.png")
    assert source.read("folder/c/d.png") == _content("c/d.png")


def test_folder_that_is_a_link(tmp_path):
    _fill(tmp_path / "cats", *NAMES)
    (tmp_path / "link").symlink_to("cats")
    _assert_holds(_open(tmp_path / "link"), NAMES)


def test_links_in_a_circle(tmp_path):
    _fill(tmp_path / "cats", "a.png", "b/c.png")
    (tmp_path / "cats" / "b" / "up").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "b" / "here").symlink_to(".")
    (tmp_path / "cats" / "twice").symlink_to("b")
    (tmp_path / "cats" / "itself").symlink_to("itself")
    _assert_holds(_open(tmp_path / "cats"), ["a.png", "b/c.png"])


def test_what_cannot_be_read(tmp_path):
    _fill(tmp_path / "cats", "a.png")
    (tmp_path / "cats" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "cats" / "itself.png").symlink_to("itself.png")
    (tmp_path / "cats" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "cats" / "pipe.png")
    source = _open(tmp_path / "cats")
    assert list(source.files) == ["a.png", "gone.png", "itself.png", "pipe.png"]
    assert source.files["gone.png"] == source.files["itself.png"] == -1
    for name in ("gone.png", "itself.png"):
        with pytest.raises(OSError):
            source.read(name)
    with pytest.raises(UnusableError, match="not a regular file"):
        source.read("pipe.png")


def test_modified_folder(tmp_path):
    _fill(tmp_path / "cats", "a.png", "b/c.png", "notes.txt")
    (tmp_path / "cats" / "gone.png").symlink_to("nowhere.png")
    before = _open(tmp_path / "cats").modified
    assert len(before) == 32
    _fill(tmp_path / "cats", "more.txt")
    os.utime(tmp_path / "cats" / "notes.txt", ns=(0, 0))
    assert _open(tmp_path / "cats").modified == before
    status = (tmp_path / "cats" / "b/c.png").stat()
    os.utime(tmp_path / "cats" / "b/c.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    after = _open(tmp_path / "cats").modified
    assert after != before
    (tmp_path / "cats" / "b/c.png").rename(tmp_path / "cats" / "b/d.png")
    assert _open(tmp_path / "cats").modified not in (before, after)


def test_file_that_went_since(tmp_path):
    _fill(tmp_path / "cats", "a.png")
    source = _open(tmp_path / "cats")
    (tmp_path / "cats" / "a.png").unlink()
    with pytest.raises(FileNotFoundError):
        source.read("a.png")


# Archives


def _zip(path, names, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(name, _content(name))
        archive.mkdir("folder.png")
    return path


def _tar(path, names, mode="w", before="", format=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=format) as archive:
        for name in names:
            member = tarfile.TarInfo(before + name)
            member.size = 2000
            archive.addfile(member, io.BytesIO(_content(name)))
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return path


@pytest.mark.parametrize("kind", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_zip(kind, tmp_path):
    source = _open(_zip(tmp_path / "cats.zip", NAMES + OTHERS, getattr(zipfile, kind)))
    _assert_holds(source, NAMES)
    assert source.ignored == IGNORED
    assert source.title == "the archive cats.zip"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(mode, tmp_path):
    source = _open(_tar(tmp_path / "cats.tar", NAMES + OTHERS, mode))
    _assert_holds(source, NAMES)
    assert source.ignored == IGNORED
    assert (tmp_path / "scratch").exists() == (mode != "w")


def test_tar_of_a_dot(tmp_path):
    for format in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        _assert_holds(_open(_tar(tmp_path / f"{format}.tar", NAMES, before="./", format=format)), NAMES)


def test_kind_of_archive_does_not_depend_on_its_name(tmp_path):
    _assert_holds(_open(_zip(tmp_path / "cats.tar.gz", NAMES)), NAMES)
    _assert_holds(_open(_tar(tmp_path / "cats.zip", NAMES)), NAMES)
    _assert_holds(_open(_tar(tmp_path / "cats", NAMES, "w:xz")), NAMES)


def test_encrypted_picture_of_a_zip(tmp_path):
    path = _zip(tmp_path / "cats.zip", ["a.png", "b.png"])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4) + 8] |= 1  # of the second, in the directory
    path.write_bytes(data)
    source = _open(path)
    with pytest.raises(UnusableError, match=r"^encrypted$"):
        source.read("b.png")
    assert source.read("a.png") == _content("a.png")


@pytest.mark.parametrize("kind", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_damaged_picture_of_a_zip(kind, tmp_path):
    names = [f"{i}.png" for i in range(8)]
    path = _zip(tmp_path / "cats.zip", names, getattr(zipfile, kind))
    with zipfile.ZipFile(path) as archive:
        places = [(info.header_offset + 55, info.header_offset + 35 + info.compress_size) for info in archive.filelist]
    data = bytearray(path.read_bytes())
    for number, (start, end) in enumerate(places[1:7]):
        data[start + (end - start - 1) * number // 6] ^= 0x55
    path.write_bytes(data)
    source = _open(path)
    for name in names[1:7]:
        with pytest.raises((UnusableError, OSError)):
            source.read(name)
    assert source.read("0.png") == _content("0.png")
    assert source.read("7.png") == _content("7.png")


def _zip_of(system, path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.create_system = system
            archive.writestr(info, _content(name.replace("\\", "/") if system == 0 else name))
    return path


def test_backslashes_in_a_zip(tmp_path):
    source = _open(_zip_of(0, tmp_path / "windows.zip", "train\\x\\a.png", "test\\b.png", "c.png\\", "test\\.d.png"))
    _assert_holds(source, ["train/x/a.png", "test/b.png"])
    assert source.splits == {"train/x/a.png": "train", "test/b.png": None}
    assert source.ignored == {"hidden": 1}
    _assert_holds(pickle.loads(pickle.dumps(source)), ["train/x/a.png", "test/b.png"])
    _assert_holds(_open(_zip_of(3, tmp_path / "unix.zip", "train\\a.png", "b/c.png")), ["train\\a.png", "b/c.png"])


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_modified_archive(kind, tmp_path):
    path = _archive(kind, tmp_path)
    before = sources.open_source(path, tmp_path / "1").modified
    assert len(before) == 32
    assert sources.open_source(path, tmp_path / "2").modified == before
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    assert sources.open_source(path, tmp_path / "3").modified != before


def test_checksum_of_a_zip(tmp_path):
    path = _zip(tmp_path / "cats.zip", ["a.png"])
    data = bytearray(path.read_bytes())
    data[data.index(_content("a.png")) + 99] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnusableError, match="cannot be unpacked: Bad CRC-32"):
        _open(path).read("a.png")


def test_truncated_zip(tmp_path):
    path = _zip(tmp_path / "cats.zip", NAMES)
    data = path.read_bytes()
    for length in (1, 3, 30, len(data) // 2, len(data) - 200, len(data) - 1):
        path.write_bytes(data[:length])
        assert "expected a folder of pictures, a zip or a tar (whole, if it is one)" in _error(_open, path)


def test_zip_of_another_version(tmp_path):
    path = _zip(tmp_path / "cats.zip", NAMES)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 99
    path.write_bytes(data)
    assert "9.9" in _error(_open, path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_truncated_compressed_tar(mode, tmp_path):
    path = _tar(tmp_path / "cats.tar.z", NAMES, mode)
    data = path.read_bytes()
    for length in (1, 3, 12, 30, 100, len(data) // 2, len(data) - 20, len(data) - 1):
        path.write_bytes(data[:length])
        assert "whole" in _error(_open, path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_damaged_compressed_tar(mode, tmp_path):
    path = _tar(tmp_path / "cats.tar.z", NAMES, mode)
    data = path.read_bytes()
    for place in (len(data) // 3, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        assert "whole" in _error(_open, path)
        assert not list(tmp_path.rglob("*.part"))
    path.write_bytes(data)
    _assert_holds(_open(path), NAMES)


@pytest.mark.parametrize("place", ["in a picture", "in the last picture", "in a header", "between two pictures"])
def test_truncated_tar(place, tmp_path):
    path = _tar(tmp_path / "cats.tar", [f"{i}.png" for i in range(6)], format=tarfile.USTAR_FORMAT)
    data = path.read_bytes()
    header = data.index(b"3.png")
    length = {
        "in a picture": header + 1000,
        "in the last picture": data.index(b"5.png") + 600,
        "in a header": header + 100,
        "between two pictures": header,
    }[place]
    path.write_bytes(data[:length])
    assert "whole" in _error(_open, path)


def test_damaged_header_within_a_tar(tmp_path):
    path = _tar(tmp_path / "cats.tar", [f"{i}.png" for i in range(6)], format=tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[data.index(b"3.png")] ^= 1
    path.write_bytes(data)
    assert "whole" in _error(_open, path)


def test_tar_that_was_cut_since(tmp_path):
    path = _tar(tmp_path / "cats.tar", ["a.png", "b.png"])
    source = _open(path)
    os.truncate(path, path.read_bytes().index(_content("b.png")) + 10)
    assert source.read("a.png") == _content("a.png")
    with pytest.raises(UnusableError, match="archive ends"):
        source.read("b.png")


# What is no source


def test_no_such_path(tmp_path):
    assert "nowhere: no such folder or file" in _error(_open, tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"a picture?" * 100, bytes(2000), _content("x")])
def test_file_that_is_no_archive(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    assert f"{tmp_path / 'x'}: " in _error(_open, tmp_path / "x")


def test_empty_folder(tmp_path):
    (tmp_path / "cats").mkdir()
    assert "cats: no picture there, but nothing at all; expected files .jpg" in _error(_open, tmp_path / "cats")


def test_no_picture_names_what_is_there(tmp_path):
    _fill(tmp_path / "cats", *OTHERS, "a.gif", "b.GIF")
    expected = "no picture there, but 2 .gif, 2 .txt, 4 hidden, 1 without a suffix; expected"
    assert expected in _error(_open, tmp_path / "cats")
    assert expected in _error(_open, _zip(tmp_path / "cats.zip", [*OTHERS, "a.gif", "b.GIF"]))
    with tarfile.open(tmp_path / "cats.tar", "w") as archive:
        archive.add(tmp_path / "cats", "cats")
    assert expected in _error(_open, tmp_path / "cats.tar")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "nothing at all" in _error(_open, tmp_path / "empty.zip")


# Splits


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_partition_by_folders(validation, tmp_path):
    names = {"train/a.png": "train", f"{validation}/x/b.png": "validation", "test/c.png": "test"}
    _fill(tmp_path / "cats", *names, "README.txt")
    source = _open(tmp_path / "cats")
    assert source.splits == names
    assert {name: source.split(name) for name in names} == names
    assert _open(_zip(tmp_path / "cats.zip", list(names))).splits == names
    assert _open(_tar(tmp_path / "cats.tar", list(names))).splits == names
    with tarfile.open(tmp_path / "dot.tar", "w") as archive:
        archive.add(tmp_path / "cats", ".")
    assert _open(tmp_path / "dot.tar").splits == names


@pytest.mark.parametrize("second", ["val", "test"])
def test_what_is_not_trained_on_becomes_two_splits(second, tmp_path):
    names = [f"{folder}/{i}.png" for folder in ("train", second) for i in range(400)]
    source = sources.open_source(_zip(tmp_path / "cats.zip", names), tmp_path)
    counts = collections.Counter((name.partition("/")[0], source.split(name)) for name in names)
    assert counts.pop(("train", "train")) == 400
    assert counts.keys() == {(second, "validation"), (second, "test")}
    assert all(150 < count < 250 for count in counts.values())
    fewer = sources.open_source(_zip(tmp_path / "fewer.zip", names[::3]), tmp_path)
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
def test_no_partition(names, tmp_path):
    _fill(tmp_path / "cats", *names)
    assert _open(tmp_path / "cats").splits is None


@pytest.mark.parametrize("leading", ["mydata/", "a/b c/"])
def test_partition_below_a_folder_that_all_share(leading, tmp_path):
    names = {"train/a.png": "train", "train/x/b.png": "train", "val/x/c.png": "validation", "test/d.png": "test"}
    names = {leading + name: split for name, split in names.items()}
    _fill(tmp_path / "cats", *names, "README.txt")
    for path in (tmp_path / "cats", _zip(tmp_path / "cats.zip", names), _tar(tmp_path / "cats.tar", names)):
        assert _open(path).splits == names


@pytest.mark.parametrize("leading", ["", "mydata/"])
@pytest.mark.parametrize("outside", [["logo.png"], ["more/c.png", "more/d.png"]])
def test_pictures_outside_of_a_partition(outside, leading, tmp_path):
    names = [leading + name for name in ["Train/a.png", "test/b.png", *outside]]
    message = _error(_open, _zip(tmp_path / "cats.zip", names))
    assert (
        f"cats.zip: {len(outside)} of {len(names)} pictures lie outside of the folders Train, test, such as" in message
    )
    assert f" {leading}{outside[0]}; expected all in them: move or remove the others, or rename the folders" in message


def test_split_rule():
    source = _source(["a/b.png"])
    assert source.split_rule == "80, 10 and 10 % by a hash of each picture's name"
    by_folder = dataclasses.replace(source, group=sources.folder_of)
    assert pickle.loads(pickle.dumps(by_folder)).split_rule == "80, 10 and 10 % by a hash of each picture's folder"
    by_partition = dataclasses.replace(by_folder, splits={"a/b.png": "train"})
    assert by_partition.split_rule == "by the source's own partition"


def _source(names, **options):
    return Source("cats", dict.fromkeys(names, 1), str.encode, **options)


TEN_THOUSAND = [f"person {i % 500}/{i}.jpg" for i in range(10_000)]


def test_shares():
    counts = collections.Counter(map(_source(TEN_THOUSAND).split, TEN_THOUSAND))
    assert abs(counts["train"] - 8000) < 4 * np.sqrt(10_000 * 0.8 * 0.2)
    assert abs(counts["validation"] - 1000) < 4 * np.sqrt(10_000 * 0.1 * 0.9)
    assert abs(counts["test"] - 1000) < 4 * np.sqrt(10_000 * 0.1 * 0.9)


def test_split_is_of_the_name_alone():
    some, all_of_them = _source(TEN_THOUSAND[:100]), _source(TEN_THOUSAND)
    assert [some.split(name) for name in TEN_THOUSAND[:100]] == [all_of_them.split(name) for name in TEN_THOUSAND[:100]]
    # For ever: else what was trained on is tested on.
    forever = {"a/18.png": "train", "a/27.png": "validation", "a/29.png": "validation", "a/9.png": "test"}
    assert {name: all_of_them.split(name) for name in forever} == forever


def test_split_is_the_same_in_another_process():
    script = "import sys; from rvae_jax.data.sources import *; print(*(order_key(n).hex() for n in sys.argv[1:]))"
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    names = ["a.png", "b/ü.png"]
    found = subprocess.run([sys.executable, "-c", script, *names], env=environment, capture_output=True, check=True)
    assert found.stdout.decode().split() == [sources.order_key(name).hex() for name in names]


def test_name_in_either_form_of_unicode():
    for name in ("ü/é.png", "한국.png", "Å.png"):
        composed, decomposed = unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)
        assert composed != decomposed
        assert sources.order_key(composed) == sources.order_key(decomposed)
    assert sources.order_key("é.png") != sources.order_key("e.png")


def test_group_keeps_folders_together():
    source = _source(TEN_THOUSAND, group=sources.folder_of)
    splits = collections.defaultdict(set)
    for name in TEN_THOUSAND:
        splits[name.partition("/")[0]].add(source.split(name))
    assert len(splits) == 500
    assert all(len(of_folder) == 1 for of_folder in splits.values())
    counts = collections.Counter(split for of_folder in splits.values() for split in of_folder)
    assert abs(counts["train"] - 400) < 4 * np.sqrt(500 * 0.8 * 0.2)
    assert min(counts["validation"], counts["test"]) > 20


def test_folder_of():
    assert sources.folder_of("a/b/c.png") == "a/b"
    assert sources.folder_of("c.png") == "."


# Other processes


def _archive(kind, tmp_path):
    if kind == "folder":
        _fill(tmp_path / "cats", *NAMES)
        return tmp_path / "cats"
    if kind == "zip":
        return _zip(tmp_path / "cats.zip", NAMES)
    return _tar(tmp_path / "cats.tar", NAMES, {"tar": "w", "tar.gz": "w:gz"}[kind])


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_pickled(kind, tmp_path):
    source = _open(_archive(kind, tmp_path))
    labels = {"attributes": Table(["a.jpg"], {"x": np.array([5]), "y": np.array(["u"], object)})}
    source = dataclasses.replace(source, labels=labels, group=sources.folder_of)
    source.read("a.jpg")  # the file is open
    copy = pickle.loads(pickle.dumps(source))
    _assert_holds(copy, NAMES)
    assert [copy.split(name) for name in NAMES] == [source.split(name) for name in NAMES]
    assert copy.labels["attributes"].row("a.jpg") == {"x": 5, "y": "u"}


def test_held_out_folders_stay_together_where_asked(tmp_path):
    for split in ("train", "val"):
        for number in range(200):
            path = tmp_path / split / f"person {number // 10}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    source = dataclasses.replace(_open(tmp_path), group=sources.folder_of)
    splits = collections.defaultdict(set)
    for name in source.files:
        splits[sources.folder_of(name)].add(source.split(name))
    assert all(len(found) == 1 for found in splits.values())
    held_out = {folder: found.pop() for folder, found in splits.items() if folder.startswith("val")}
    assert set(held_out.values()) == {"validation", "test"}
    by_file = dataclasses.replace(source, group=str)
    assert {source.split(name) for name in source.files if name.startswith("train")} == {"train"}
    assert any(by_file.split(name) != source.split(name) for name in source.files)


def _tar_of(path, *entries):
    """Of names of files, and (type, name, link)."""
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            kind, name, link = (tarfile.REGTYPE, entry, "") if isinstance(entry, str) else entry
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 2000 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(_content(name)))
    return path


HARD, SYMBOLIC, FOLDER = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


def test_links_in_a_tar(tmp_path):
    links = {
        "b/hard.png": (HARD, "./a.png"),
        "b/hard again.png": (HARD, "b/hard.png"),
        "b/up.png": (SYMBOLIC, "../a.png"),
        "b/beside.png": (SYMBOLIC, "./up.png"),
        "c/hard and up.png": (HARD, "b/up.png"),
        "before.png": (SYMBOLIC, "z"),
    }
    entries = [(kind, f"./{name}", link) for name, (kind, link) in links.items()]
    source = _open(_tar_of(tmp_path / "cats.tar", "a.png", (FOLDER, "b", ""), (SYMBOLIC, "d", "b"), *entries, "z"))
    assert list(source.files) == sorted(["a.png", *links])
    for name, size in source.files.items():
        assert size == 2000
        assert source.read(name) == _content("z" if name == "before.png" else "a.png")
    assert source.ignored == {"without a suffix": 1}


def test_links_that_lead_nowhere_in_a_tar(tmp_path):
    links = [
        (HARD, "b.png", "nowhere.png"),
        (SYMBOLIC, "c.png", "/a.png"),
        (SYMBOLIC, "d.png", "../a.png"),
        (SYMBOLIC, "e/f.png", "a.png"),
        (SYMBOLIC, "itself.png", "itself.png"),
        (SYMBOLIC, "g.png", "h.png"),
        (SYMBOLIC, "h.png", "g.png"),
        (SYMBOLIC, "i.png", "g.png"),
    ]
    source = _open(_tar_of(tmp_path / "cats.tar", "a.png", "notes.txt", *links))
    _assert_holds(source, ["a.png"])
    assert source.ignored == {".txt": 1, "broken link": 8}


def test_file_that_is_twice_in_a_tar(tmp_path):
    """GNU tar makes the second a hard link to itself."""
    _assert_holds(_open(_tar_of(tmp_path / "cats.tar", "a.png", (HARD, "./a.png", "a.png"))), ["a.png"])


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
@pytest.mark.parametrize("options", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", ""])
def test_sparse_file_in_a_tar(options, tmp_path):
    _fill(tmp_path / "cats", "a.png", "z.png")
    with (tmp_path / "cats" / "b.png").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
    if (tmp_path / "cats" / "b.png").stat().st_blocks * 512 > 1 << 20:
        pytest.skip("the file system has no sparse files")
    command = ["tar", "-S", *(options or "--format=posix").split(), "-cf", tmp_path / "cats.tar", "."]
    if subprocess.run(command, cwd=tmp_path / "cats").returncode:
        pytest.skip("another tar")
    source = _open(tmp_path / "cats.tar")
    _assert_holds(source, ["a.png", "z.png"])
    assert source.ignored == {"sparse file": 1}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_several_tars_in_one_file(mode, tmp_path):
    first, second = _tar(tmp_path / "1.tar", ["a.png"], mode), _tar(tmp_path / "2.tar", ["b.png"], mode)
    (tmp_path / "cats.tar").write_bytes(first.read_bytes() + second.read_bytes())
    message = _error(_open, tmp_path / "cats.tar")
    assert "or is several archives in one file); expected all of it, as one archive" in message


def test_tar_with_zeros_for_its_end(tmp_path):
    path = tmp_path / "cats.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = 1 << 20
            archive.addfile(member, io.BytesIO(bytes(1 << 20)))
    whole = path.read_bytes()
    assert len(_open(path).files) == 2
    second = (1 << 20) + 512
    path.write_bytes(whole[:second] + bytes(len(whole) - second))
    assert "not a whole tar" in _error(_open, path)
