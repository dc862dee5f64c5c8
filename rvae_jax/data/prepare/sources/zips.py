"""The pictures in a zip."""

from __future__ import annotations

import dataclasses
import functools
import lzma
import zipfile
import zlib
from pathlib import Path

from rvae_jax.data.prepare.sources.source import MOST_BYTES, Source, UnusableError, pictures_among
from rvae_jax.errors import UserError, one_line


def open_zip(path: Path, modified: str) -> Source:
    """The pictures in a zip; ``modified`` is the source's.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {name: info.file_size for name, info in _members(archive).items()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # of names that are no text, too
        raise UserError(
            f"{path}: the zip cannot be read ({one_line(error)}); expected a complete zip of a usual kind"
        ) from None
    files, ignored = pictures_among(sizes, most_bytes=MOST_BYTES)
    return Source(f"the archive {path.name}", files, _ZipReader(path), ignored, modified=modified)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files by name. Some programs on Windows, whose system number is 0, write names with backslashes."""
    names = (
        (info.filename.replace("\\", "/") if info.create_system == 0 else info.filename, info)
        for info in archive.infolist()
    )
    return {name: info for name, info in names if not name.endswith("/")}


@functools.lru_cache(maxsize=128)  # zips of a data set in parts, which are read in turns
def _open_zip_file(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Opened once in each process: that takes time in proportion to the number of files."""
    archive = zipfile.ZipFile(path)
    return archive, _members(archive)


@dataclasses.dataclass(frozen=True)
class _ZipReader:
    path: Path

    def __call__(self, name: str) -> bytes:
        archive, members = _open_zip_file(self.path)
        if members[name].flag_bits & 1:
            raise UnusableError("encrypted")
        try:
            return archive.read(members[name])
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UnusableError(f"cannot be unpacked: {one_line(error)}") from None
