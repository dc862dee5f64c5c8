"""Folders and archives of files that are not pictures: what is read is not looked into here."""

import io
import tarfile
import zipfile

import numpy as np

from rvae_jax.data.prepare.sources.opening import open_path


def content_of(name, size=2000):
    """Not a picture; what is read is not looked into here."""
    seed = list(name.encode("utf-8", "surrogateescape"))
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def fill_with(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content_of(name))


def opened(path):
    return open_path(path, path.parent / "scratch")


def assert_holds(source, names):
    assert list(source.files) == sorted(names)
    for name in names:
        assert source.files[name] == 2000
        assert source.read(name) == content_of(name)


NAMES = ["a.jpg", "b/c.PNG", "b/d e.JpEg", "b/ü/ñ.webp", "b/ü/x.tif", "z/y/x/w.bmp", "写真/一.tiff"]


OTHERS = ["README", "notes.txt", "b/more.TXT", ".hidden.png", "b/.trash/a.png", "__MACOSX/c.png", "b/.DS_Store"]


IGNORED = {"without a suffix": 1, ".txt": 2, "hidden": 4}


def make_zip(path, names, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(name, content_of(name))
        archive.mkdir("folder.png")
    return path


def make_tar(path, names, mode="w", before="", format=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=format) as archive:
        for name in names:
            member = tarfile.TarInfo(before + name)
            member.size = 2000
            archive.addfile(member, io.BytesIO(content_of(name)))
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return path
