import pickle
import zipfile

import pytest
from archives import IGNORED, NAMES, OTHERS, assert_holds, content_of, make_zip, opened
from making import user_error

from rvae_jax.data.prepare.sources import zips
from rvae_jax.data.prepare.sources.source import UnusableError


@pytest.mark.parametrize("kind", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_zip_of_each_compression_is_read(kind, tmp_path):
    source = opened(make_zip(tmp_path / "cats.zip", NAMES + OTHERS, getattr(zipfile, kind)))
    assert_holds(source, NAMES)
    assert source.ignored == IGNORED
    assert source.title == "the archive cats.zip"


def test_an_encrypted_picture_in_a_zip_is_unusable(tmp_path):
    path = make_zip(tmp_path / "cats.zip", ["a.png", "b.png"])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4) + 8] |= 1  # of the second, in the directory
    path.write_bytes(data)
    source = opened(path)
    with pytest.raises(UnusableError, match=r"^encrypted$"):
        source.read("b.png")
    assert source.read("a.png") == content_of("a.png")


@pytest.mark.parametrize("kind", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_damaged_picture_in_a_zip_is_unusable(kind, tmp_path):
    names = [f"{i}.png" for i in range(8)]
    path = make_zip(tmp_path / "cats.zip", names, getattr(zipfile, kind))
    with zipfile.ZipFile(path) as archive:
        places = [(info.header_offset + 55, info.header_offset + 35 + info.compress_size) for info in archive.filelist]
    data = bytearray(path.read_bytes())
    for number, (start, end) in enumerate(places[1:7]):
        data[start + (end - start - 1) * number // 6] ^= 0x55
    path.write_bytes(data)
    source = opened(path)
    for name in names[1:7]:
        with pytest.raises((UnusableError, OSError)):
            source.read(name)
    assert source.read("0.png") == content_of("0.png")
    assert source.read("7.png") == content_of("7.png")


def _zip_of(system, path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.create_system = system
            archive.writestr(info, content_of(name.replace("\\", "/") if system == 0 else name))
    return path


def test_backslashes_in_a_zip_of_windows_are_slashes(tmp_path):
    source = opened(_zip_of(0, tmp_path / "windows.zip", "train\\x\\a.png", "test\\b.png", "c.png\\", "test\\.d.png"))
    assert_holds(source, ["train/x/a.png", "test/b.png"])
    assert source.splits == {"train/x/a.png": "train", "test/b.png": None}
    assert source.ignored == {"hidden": 1}
    assert_holds(pickle.loads(pickle.dumps(source)), ["train/x/a.png", "test/b.png"])
    assert_holds(opened(_zip_of(3, tmp_path / "unix.zip", "train\\a.png", "b/c.png")), ["train\\a.png", "b/c.png"])


def test_a_member_that_claims_to_be_huge_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MOST_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", content_of("a.png"))
        archive.writestr("bomb.png", bytes(100_001))
    found = opened(tmp_path / "bomb.zip")
    assert list(found.files) == ["a.png"] and found.ignored == {"larger than 0.1 MB": 1}


def test_a_wrong_checksum_in_a_zip_makes_a_picture_unusable(tmp_path):
    path = make_zip(tmp_path / "cats.zip", ["a.png"])
    data = bytearray(path.read_bytes())
    data[data.index(content_of("a.png")) + 99] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnusableError, match="cannot be unpacked: Bad CRC-32"):
        opened(path).read("a.png")


def test_a_truncated_zip_is_refused(tmp_path):
    path = make_zip(tmp_path / "cats.zip", NAMES)
    data = path.read_bytes()
    for length in (1, 3, 30, len(data) // 2, len(data) - 200, len(data) - 1):
        path.write_bytes(data[:length])
        assert "expected a folder of pictures, or a complete zip or tar" in user_error(opened, path)


def test_a_zip_of_an_unknown_version_is_refused(tmp_path):
    path = make_zip(tmp_path / "cats.zip", NAMES)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 99
    path.write_bytes(data)
    assert "9.9" in user_error(opened, path)


def test_names_in_a_zip_that_are_no_text_are_refused(tmp_path):
    path = make_zip(tmp_path / "cats.zip", ["ü.png", "a.png"])
    whole, name = path.read_bytes(), "ü".encode()
    path.write_bytes(whole.replace(name, b"\xff\xff"))
    assert "cats.zip: the zip cannot be read ('utf-8' codec" in user_error(opened, path)
    path.write_bytes(whole.replace(name, b"\xff\xff", 1))  # beside the picture alone, and not in the directory
    source = opened(path)
    assert source.read("a.png") == content_of("a.png")
    with pytest.raises(UnusableError, match="cannot be unpacked: 'utf-8' codec"):
        source.read("ü.png")
