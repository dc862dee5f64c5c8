"""Opens the pictures at a path, or at several: in folders, zips or tars."""

from __future__ import annotations

import dataclasses
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rvae_jax.data.prepare.sources import folders, kinds, parts, tars, zips
from rvae_jax.data.prepare.sources.source import Source, hash_of
from rvae_jax.errors import UserError

_SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def open_path(path: Path, scratch: Path) -> Source:
    """The pictures in a folder, a zip or a tar; where a folder has none, those in the zips and tars in it.

    Where all of them lie in folders ``train``, ``val`` (``valid``, ``validation``) and ``test``, these are the
    partition; these may lie in another folder that all pictures share.

    Args:
      path: the folder or file.
      scratch: folder into which a compressed tar is unpacked.

    Raises:
      UserError: there is no such path, it cannot be read, it has no pictures, or only some of them lie in such folders.
    """
    return _with_partition(str(path), _open(path, scratch))


def open_paths(paths: Sequence[Path], scratch: Path) -> Source:
    """The pictures in several folders, zips or tars, as one source; otherwise as ``open_path``.

    Raises:
      UserError: one of them cannot be read, they are not distinct, or as ``open_path``.
    """
    title = f"{len(paths)} parts from {paths[0].name} to {paths[-1].name}"
    return _with_partition(title, _open_parts(title, paths, scratch))


def _open_parts(title: str, paths: Sequence[Path], scratch: Path) -> Source:
    names = parts.part_names(paths)
    # A folder for each: two compressed tars may have one name.
    opened = {name: _open(path, scratch / str(number)) for number, (name, path) in enumerate(names.items())}
    return parts.combined(title, opened)


def _open(path: Path, scratch: Path) -> Source:
    if path.is_dir():
        source = folders.open_folder(path)
        archives = [] if source.files else folders.archives_below(path)
        if not archives:
            return source
        print(f"{path} has no pictures of its own: those in its zips and tars are read, {len(archives)} in all")
        return _open_parts(f"the {len(archives)} archives in {path.resolve().name}", archives, scratch)
    if not path.exists():
        raise UserError(f"{path}: no such folder or file; expected a folder of pictures, a zip or a tar")
    if zipfile.is_zipfile(path):
        return zips.open_zip(path, _modified(path))
    if tars.is_tar(path):
        return tars.open_tar(path, scratch, _modified(path))
    raise UserError(f"{path}: expected a folder of pictures, or a complete zip or tar")


def _with_partition(what: str, source: Source) -> Source:
    """The source with the partition by its folders, if they are one; raises a UserError if it has no pictures."""
    if not source.files:
        found = ", ".join(f"{count:,} {kind}" for kind, count in source.ignored.items()) or "nothing at all"
        expected = kinds.left_out(source.ignored) or f"expected files {' '.join(kinds.SUFFIXES)}"
        raise UserError(f"{what}: no picture there, but {found}; {expected}")
    return dataclasses.replace(source, splits=_partition(what, source.files))


def _modified(archive: Path) -> str:
    status = archive.stat()
    return hash_of(f"{status.st_size} {status.st_mtime_ns}").hex()


def _partition(what: str, files: Mapping[str, int]) -> dict[str, str | None] | None:
    """The partition by the first folder that not all pictures share, if such folders are named as splits are."""
    parents = [name.split("/")[:-1] for name in files]
    ends = zip(min(parents), max(parents), strict=False)  # what these two share, all share
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    first = {name: name.split("/")[shared] for name in files}
    splits = {name: _SPLIT_FOLDERS.get(folder.lower()) for name, folder in first.items()}
    there = set(splits.values()) - {None}
    if "train" not in there or len(there) < 2:
        return None
    outside = [name for name, split in splits.items() if split is None]
    if outside:
        found = ", ".join(sorted({folder for name, folder in first.items() if splits[name]}))
        raise UserError(
            f"{what}: {len(outside):,} of {len(files):,} pictures lie outside of the folders {found}, such as"
            f" {outside[0]}; expected all in them: move or remove the others, or rename the folders"
        )
    if len(there) == 2:
        return {name: "train" if split == "train" else None for name, split in splits.items()}
    return splits
