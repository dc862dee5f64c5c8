"""The pictures in a folder."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rvae_jax.data.prepare.sources.parts import is_archive
from rvae_jax.data.prepare.sources.source import Source, UnusableError, hash_of, is_hidden, pictures_among
from rvae_jax.errors import UserError


def open_folder(path: Path) -> Source:
    """The pictures in a folder and in the folders below it; data sets of TFDS are left out.

    Raises:
      UserError: a folder cannot be read.
    """
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    others = []
    for file in _walk(path, others):
        name = file.relative_to(path).as_posix()
        try:
            status = file.stat()
            sizes[name], times[name] = status.st_size, status.st_mtime_ns
        except OSError:
            sizes[name] = times[name] = -1
    files, ignored = pictures_among(sizes, others)
    modified = hash_of("\0".join(f"{name}\0{times[name]}" for name in files)).hex()
    return Source(f"the folder {path.resolve().name}", files, _FolderReader(path), ignored, modified=modified)


def archives_below(path: Path) -> list[Path]:
    """The zips and tars in a folder and in the folders below it, by their names, without hidden ones.

    Raises:
      UserError: a folder cannot be read.
    """
    found = (file for file in _walk(path, []) if is_archive(file.name))
    return sorted(file for file in found if not is_hidden(file.relative_to(path).as_posix()))


def _walk(path: Path, others: list[str]) -> Iterator[Path]:
    """The files in a folder and below it; appends to ``others`` for each data set of TFDS, which is left out."""
    seen = set()
    for folder, folders, entries in os.walk(path, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder that was seen already, or that this one is in
            folders.clear()
            continue
        seen.add(real)
        if {"dataset_info.json", "features.json"} <= set(entries):  # its summary.png is not a picture to prepare
            others.append("prepared data set")
            folders.clear()
            continue
        folders.sort()
        for entry in entries:
            yield Path(folder, entry)


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}; expected a folder that may be read")


@dataclasses.dataclass(frozen=True)
class _FolderReader:
    path: Path

    def __call__(self, name: str) -> bytes:
        path = os.path.join(self.path, name)  # noqa: PTH118 - twice as fast as pathlib, and called for each picture
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - reading from a pipe would wait for ever
            raise UnusableError("not a regular file")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
            return file.readall()
