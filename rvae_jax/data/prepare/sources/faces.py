"""The face data sets that people train on: CelebA, CelebA-HQ and LFW, with their labels, partitions and terms."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from rvae_jax.data.prepare.sources.opening import open_path
from rvae_jax.data.prepare.sources.source import Source, folder_of
from rvae_jax.data.prepare.sources.tables import Table
from rvae_jax.errors import UserError, one_line
from rvae_jax.system.units import format_bytes

_CELEBA_TERMS = (
    "CelebA's pictures are of real people, who were not asked. They are for non-commercial research only, must not be"
    " passed on, and belong to their owners: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
)
_LFW_TERMS = (
    "LFW's pictures are of real people, taken from news on the web; its authors provide it for research, and warn of"
    " groups that it hardly contains: http://vis-www.cs.umass.edu/lfw"
)
_MASK_HQ_PICTURES = "CelebA-HQ-img"
_MASK_HQ_ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"
_MASK_HQ_MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
# Numbers of the first pictures of CelebA's partition, by its list_eval_partition.txt.
_CELEBA_VALIDATION, _CELEBA_TEST = 162_771, 182_638


@dataclasses.dataclass(frozen=True)
class FaceSet:
    """One of the known data sets.

    Attributes:
      crop: (height, width) of the usual centre crop, or None for the largest one of the wanted shape.
      open: makes the source of the user's file or folder (or None), the folder of data sets, a scratch folder, and the
        largest height wanted. Raises UserError.
    """

    crop: tuple[int, int] | None
    open: Callable[[Path | None, Path, Path, int], Source]


def open_celeba(path: Path | None, data_dir: Path, scratch: Path, height: int) -> Source:
    """CelebA's 202,599 aligned faces, with its partition, 40 attributes, landmarks and identities.

    Its five files are taken from ``path`` or ``data_dir/downloads/manual``, or downloaded by TFDS.

    Raises:
      UserError: a file is missing and cannot be downloaded, or is not the right one.
    """
    del scratch, height
    files = _fetch("celeb_a", path, data_dir)
    archive = open_path(files["img_align_celeba.zip"], Path())
    prefix = "img_align_celeba/"
    numbers = {"0": "train", "1": "validation", "2": "test"}
    partition = _read_words(files["list_eval_partition.txt"], prefix, header=False)[1]
    if set(partition) != set(archive.files):
        raise UserError(
            f"{files['img_align_celeba.zip']}: {len(archive.files):,} pictures, of which list_eval_partition.txt has"
            f" {len(set(partition) & set(archive.files)):,}; expected the same in both"
        )
    return dataclasses.replace(
        archive,
        title="CelebA, aligned",
        splits={name: numbers[words[0]] for name, words in partition.items()},
        labels={
            "attributes": _flags(*_read_words(files["list_attr_celeba.txt"], prefix)),
            "landmarks": _integers(*_read_words(files["list_landmarks_align_celeba.txt"], prefix)),
            "identity": _integers(["Identity_No"], _read_words(files["identity_CelebA.txt"], prefix, header=False)[1]),
        },
        terms=_CELEBA_TERMS,
        citation=_citation("celeb_a"),
        homepage="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    )


def open_celeba_hq(path: Path | None, data_dir: Path, scratch: Path, height: int) -> Source:
    """CelebA-HQ's 30,000 faces, from CelebAMask-HQ's folder, or from the archive of TFDS's ``celeb_a_hq``.

    Of the archives ``data{R}x{R}.tar`` in ``path`` or ``data_dir/downloads/manual``, the smallest that is large enough
    is taken. ``path`` may also be any other folder or archive of pictures.

    Raises:
      UserError: it is not there.
    """
    folder = path or data_dir / "downloads/manual"
    if (folder / _MASK_HQ_PICTURES).is_dir():
        return open_celebamask_hq(folder)
    archives = {2**k: folder / f"data{2**k}x{2**k}.tar" for k in range(11)}
    large_enough = [archive for size, archive in archives.items() if size >= height and archive.is_file()]
    if path is None and not large_enough:
        raise UserError(
            f"celeb_a_hq: {folder} has no data{{R}}x{{R}}.tar with R of at least {height}; CelebA-HQ cannot be"
            " downloaded directly. Make the archives by"
            " https://github.com/tkarras/progressive_growing_of_gans#preparing-datasets-for-training, or get"
            " CelebAMask-HQ from https://github.com/switchablenorms/CelebAMask-HQ, then name the file or folder with"
            f" --from. {_CELEBA_TERMS}"
        )
    source = open_path(large_enough[0] if large_enough else folder, scratch)
    return _celeba_hq(source)


def open_celebamask_hq(folder: Path) -> Source:
    """CelebAMask-HQ's folder: its pictures without the masks, with its 40 attributes.

    The partition is CelebA's own, by the file that maps these pictures to CelebA's: 24,183, 2,993 and 2,824 pictures.
    Without that file it is by hash.

    Raises:
      UserError: there are no pictures, or one has no attributes.
    """
    source = open_path(folder / _MASK_HQ_PICTURES, Path())
    labels, splits = {}, None
    if (folder / _MASK_HQ_ATTRIBUTES).is_file():
        with _well_formed(folder / _MASK_HQ_ATTRIBUTES):
            attributes = _flags(*_read_words(folder / _MASK_HQ_ATTRIBUTES, ""))
        missing = next((name for name in source.files if name not in attributes), None)
        if missing:
            raise UserError(f"{folder / _MASK_HQ_ATTRIBUTES}: no line for {missing}; expected a line for each picture")
        labels = {"attributes": attributes}
    if (folder / _MASK_HQ_MAPPING).is_file():
        with _well_formed(folder / _MASK_HQ_MAPPING):
            lines = (folder / _MASK_HQ_MAPPING).read_text().splitlines()[1:]
            numbers = {f"{words[0]}.jpg": int(words[1]) + 1 for words in map(str.split, lines) if words}
        if set(source.files) <= set(numbers):
            splits = {name: _celeba_split(numbers[name]) for name in source.files}
    return dataclasses.replace(_celeba_hq(source), title="CelebAMask-HQ", labels=labels, splits=splits)


def open_lfw(path: Path | None, data_dir: Path, scratch: Path, height: int) -> Source:
    """Labeled Faces in the Wild: 13,233 faces of 5,749 people; all of one person are in one split.

    Taken from ``path`` (``lfw.tgz`` or the folder inside it) or ``data_dir/downloads/manual``, or downloaded by TFDS.

    Raises:
      UserError: it cannot be downloaded, or is not the right file.
    """
    del height
    if path is None or (path.is_dir() and (path / "lfw.tgz").is_file()):
        path = _fetch("lfw", path, data_dir)["lfw.tgz"]
    source = open_path(path, scratch)
    names = [name for name in source.files if "/" in name]
    people = np.array([name.split("/")[-2] for name in names], dtype=object)
    return dataclasses.replace(
        source,
        title="Labeled Faces in the Wild",
        files={name: source.files[name] for name in names},
        labels={"attributes": Table(names, {"person": people})},
        group=folder_of,
        splits=None,
        terms=_LFW_TERMS,
        citation=_citation("lfw"),
        homepage="http://vis-www.cs.umass.edu/lfw",
    )


def _celeba_hq(source: Source) -> Source:
    if len(source.files) != 30_000:
        print(f"Warning: {source.title} has {len(source.files):,} pictures; CelebA-HQ has 30,000.")
    return dataclasses.replace(
        source,
        title=f"CelebA-HQ, {source.title}",
        terms=_CELEBA_TERMS,
        citation=_citation("celeb_a_hq"),
        homepage="https://github.com/tkarras/progressive_growing_of_gans",
    )


FACE_SETS = {  # by the names that TFDS has for them; see also ``prepared.FACE_SET_NAMES``
    "celeb_a": FaceSet((148, 148), open_celeba),
    "celeb_a_hq": FaceSet(None, open_celeba_hq),
    "lfw": FaceSet(None, open_lfw),
}


def is_celebamask_hq(path: Path) -> bool:
    """Whether a folder is CelebAMask-HQ's."""
    return (path / _MASK_HQ_PICTURES).is_dir()


def _fetch(name: str, path: Path | None, data_dir: Path) -> dict[str, Path]:
    """The files of a TFDS data set, by name: from the user's folder if all are there, else downloaded by TFDS.

    Raises:
      UserError: a file is not the one that TFDS knows, one is missing in ``path``, or the download fails.
    """
    folder = path or data_dir / "downloads/manual"
    infos = {info.filename: (url, info) for url, info in tfds.builder_cls(name).url_infos.items()}
    there = {file: folder / file for file in infos if (folder / file).is_file()}
    for file, found in there.items():
        info = infos[file][1]
        if found.stat().st_size != info.size:
            raise _not_fetched(name, folder, infos, f"{found} has {found.stat().st_size:,} bytes")
        if _sha256(found) != info.checksum:
            raise _not_fetched(name, folder, infos, f"{found} has another SHA-256")
    if len(there) == len(infos):
        return there
    if path is not None:
        missing = ", ".join(file for file in infos if file not in there)
        raise _not_fetched(name, folder, infos, f"{folder} has no {missing}")
    size = sum(infos[file][1].size for file in infos if file not in there)
    print(f"Downloading {name}: {format_bytes(size)}", flush=True)
    try:
        manager = tfds.download.DownloadManager(
            download_dir=data_dir / "downloads",
            manual_dir=folder,
            url_infos=dict(infos.values()),
            dataset_name=name,
        )
        paths = manager.download({file: url for file, (url, _) in infos.items()})
    except Exception as error:  # whatever the network or the server does
        reason = f"{type(error).__name__}: {one_line(error, limit=200)}"
        raise _not_fetched(name, folder, infos, f"TFDS cannot download them ({reason})") from None
    return {file: Path(path) for file, path in paths.items()}


def _not_fetched(name: str, folder: Path, infos: dict, reason: str) -> UserError:
    files = "".join(
        f"\n  {file}  {info.size:,} bytes, SHA-256 {info.checksum}, from {url}" for file, (url, info) in infos.items()
    )
    return UserError(
        f"{name}: {reason}. The host may refuse downloads for a day. With a browser, put these into {folder},"
        f" and run the same command again, which then needs no network:{files}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _citation(name: str) -> str:
    return tfds.builder_cls(name).get_metadata().citation or ""


def _read_words(path: Path, prefix: str, header: bool = True) -> tuple[list[str], dict[str, list[str]]]:
    """Reads one of CelebA's lists.

    A header, if there is one, has a count and the columns' names on two lines. Each further line has a name and values.
    """
    lines = path.read_text().splitlines()
    columns = lines[1].split() if header else []
    rows = (line.split() for line in lines[2 if header else 0 :])
    return columns, {prefix + words[0]: words[1:] for words in rows if words}


@contextlib.contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    """Turns what lines of another form lead to into a UserError."""
    try:
        yield
    except (IndexError, OverflowError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); expected the data set's own file") from None


def _integers(columns: Sequence[str], rows: dict[str, list[str]]) -> Table:
    values = np.array(list(rows.values())).astype(np.int64)
    return Table(list(rows), dict(zip(columns, values.T, strict=True)))


def _flags(columns: Sequence[str], rows: dict[str, list[str]]) -> Table:
    table = _integers(columns, rows)
    return Table(list(rows), {name: values > 0 for name, values in table.columns.items()})


def _celeba_split(number: int) -> str:
    return "train" if number < _CELEBA_VALIDATION else "validation" if number < _CELEBA_TEST else "test"
