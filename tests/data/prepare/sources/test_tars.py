import io
import os
import shutil
import subprocess
import tarfile

import pytest
from archives import IGNORED, NAMES, OTHERS, assert_holds, content_of, fill_with, make_tar, opened
from making import user_error

from rvae_jax.data.prepare.sources import tars
from rvae_jax.data.prepare.sources.source import UnusableError


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_of_each_compression_is_read(mode, tmp_path):
    source = opened(make_tar(tmp_path / "cats.tar", NAMES + OTHERS, mode))
    assert_holds(source, NAMES)
    assert source.ignored == IGNORED
    assert (tmp_path / "scratch").exists() == (mode != "w")


def test_a_leading_dot_in_a_tar_is_dropped(tmp_path):
    for format in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        assert_holds(opened(make_tar(tmp_path / f"{format}.tar", NAMES, before="./", format=format)), NAMES)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_truncated_compressed_tar_is_refused(mode, tmp_path):
    path = make_tar(tmp_path / "cats.tar.z", NAMES, mode)
    data = path.read_bytes()
    for length in (1, 3, 12, 30, 100, len(data) // 2, len(data) - 20, len(data) - 1):
        path.write_bytes(data[:length])
        assert "complete" in user_error(opened, path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_damaged_compressed_tar_is_refused(mode, tmp_path):
    path = make_tar(tmp_path / "cats.tar.z", NAMES, mode)
    data = path.read_bytes()
    for place in (len(data) // 3, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        assert "complete" in user_error(opened, path)
        assert not list(tmp_path.rglob("*.part"))
    path.write_bytes(data)
    assert_holds(opened(path), NAMES)


@pytest.mark.parametrize("place", ["in a picture", "in the last picture", "in a header", "between two pictures"])
def test_a_truncated_tar_is_refused(place, tmp_path):
    path = make_tar(tmp_path / "cats.tar", [f"{i}.png" for i in range(6)], format=tarfile.USTAR_FORMAT)
    data = path.read_bytes()
    header = data.index(b"3.png")
    length = {
        "in a picture": header + 1000,
        "in the last picture": data.index(b"5.png") + 600,
        "in a header": header + 100,
        "between two pictures": header,
    }[place]
    path.write_bytes(data[:length])
    assert "complete" in user_error(opened, path)


def test_a_damaged_header_in_a_tar_is_refused(tmp_path):
    path = make_tar(tmp_path / "cats.tar", [f"{i}.png" for i in range(6)], format=tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[data.index(b"3.png")] ^= 1
    path.write_bytes(data)
    assert "complete" in user_error(opened, path)


def test_a_tar_that_was_cut_since_raises_for_what_is_missing(tmp_path):
    path = make_tar(tmp_path / "cats.tar", ["a.png", "b.png"])
    source = opened(path)
    os.truncate(path, path.read_bytes().index(content_of("b.png")) + 10)
    assert source.read("a.png") == content_of("a.png")
    with pytest.raises(UnusableError, match="archive ends"):
        source.read("b.png")


def _tar_of(path, *entries):
    """Of names of files, and (type, name, link)."""
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            kind, name, link = (tarfile.REGTYPE, entry, "") if isinstance(entry, str) else entry
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 2000 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content_of(name)))
    return path


HARD, SYMBOLIC, FOLDER = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


def test_links_in_a_tar_are_followed(tmp_path):
    links = {
        "b/hard.png": (HARD, "./a.png"),
        "b/hard again.png": (HARD, "b/hard.png"),
        "b/up.png": (SYMBOLIC, "../a.png"),
        "b/beside.png": (SYMBOLIC, "./up.png"),
        "c/hard and up.png": (HARD, "b/up.png"),
        "before.png": (SYMBOLIC, "z"),
    }
    entries = [(kind, f"./{name}", link) for name, (kind, link) in links.items()]
    source = opened(_tar_of(tmp_path / "cats.tar", "a.png", (FOLDER, "b", ""), (SYMBOLIC, "d", "b"), *entries, "z"))
    assert list(source.files) == sorted(["a.png", *links])
    for name, size in source.files.items():
        assert size == 2000
        assert source.read(name) == content_of("z" if name == "before.png" else "a.png")
    assert source.ignored == {"without a suffix": 1}


def test_broken_links_in_a_tar_are_counted(tmp_path):
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
    source = opened(_tar_of(tmp_path / "cats.tar", "a.png", "notes.txt", *links))
    assert_holds(source, ["a.png"])
    assert source.ignored == {".txt": 1, "broken link": 8}


def test_a_file_that_is_twice_in_a_tar_is_read_once(tmp_path):
    """GNU tar makes the second a hard link to itself."""
    assert_holds(opened(_tar_of(tmp_path / "cats.tar", "a.png", (HARD, "./a.png", "a.png"))), ["a.png"])


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
@pytest.mark.parametrize("options", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", ""])
def test_a_sparse_file_in_a_tar_is_counted_and_left_out(options, tmp_path):
    fill_with(tmp_path / "cats", "a.png", "z.png")
    with (tmp_path / "cats" / "b.png").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
    if (tmp_path / "cats" / "b.png").stat().st_blocks * 512 > 1 << 20:
        pytest.skip("the file system has no sparse files")
    command = ["tar", "-S", *(options or "--format=posix").split(), "-cf", tmp_path / "cats.tar", "."]
    if subprocess.run(command, cwd=tmp_path / "cats").returncode:
        pytest.skip("another tar")
    source = opened(tmp_path / "cats.tar")
    assert_holds(source, ["a.png", "z.png"])
    assert source.ignored == {"sparse file": 1}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_several_tars_in_one_file_are_refused(mode, tmp_path):
    first, second = make_tar(tmp_path / "1.tar", ["a.png"], mode), make_tar(tmp_path / "2.tar", ["b.png"], mode)
    (tmp_path / "cats.tar").write_bytes(first.read_bytes() + second.read_bytes())
    message = user_error(opened, tmp_path / "cats.tar")
    assert "or is several archives in one file); expected one complete archive" in message


def test_a_tar_with_zeros_for_its_end_is_refused(tmp_path):
    path = tmp_path / "cats.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = 1 << 20
            archive.addfile(member, io.BytesIO(bytes(1 << 20)))
    whole = path.read_bytes()
    assert len(opened(path).files) == 2
    second = (1 << 20) + 512
    path.write_bytes(whole[:second] + bytes(len(whole) - second))
    assert "not a complete tar" in user_error(opened, path)


@pytest.mark.parametrize("size", [-512, -1024, -1])
def test_a_member_of_negative_size_is_refused(size, tmp_path):
    """CVE-2025-8194: Python 3.11's tarfile does not end."""
    path = tmp_path / "cats.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    member = tarfile.TarInfo("b.png")
    member.size = size
    path.write_bytes(path.read_bytes()[:512] + member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "cats.tar: not a complete tar" in user_error(opened, path)


NUMBERS = [
    *({"GNU.sparse.map": "a"}, {"GNU.sparse.map": "0,5", "GNU.sparse.size": "x"}),
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"},
    *({"size": str(10**30)}, {"size": str(2**63 - 1)}, {"size": str(2**62)}),
]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("numbers", NUMBERS, ids=repr)
def test_numbers_in_a_header_that_are_none_or_too_large_are_refused(numbers, is_first, tmp_path):
    path = tmp_path / "cats.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("b.png",) if is_first else ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = 5, numbers if name == "b.png" else {}
            archive.addfile(member, io.BytesIO(bytes(5)))
    assert "cats.tar: not a complete tar" in user_error(opened, path)


def test_a_tar_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "_MOST_RATIO", 20)
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 5_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert "it grows to more than 20 times its size" in user_error(opened, path)


def test_unpacking_leaves_room_on_the_disk(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "cats.tar.gz", NAMES, "w:gz")
    monkeypatch.setattr(tars, "_LEAST_FREE", 1 << 62)
    assert "cannot be unpacked" in user_error(opened, path) and "free in" in user_error(opened, path)
