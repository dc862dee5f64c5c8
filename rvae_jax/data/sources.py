"""Where pictures come from: a folder, a zip or a tar, by name and bytes, with what is known of each picture."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from rvae_jax.data.decode import UnusableError
from rvae_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff")
SPLITS = ("train", "validation", "test")
_SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

Labels = Mapping[str, "Table"]  # a name such as "attributes" to the table under it


class Table:
    """Columns of values by name of the picture; all values of a column have one type.

    Attributes:
      columns: name to ``[n]``, bool, int64, float32 or str.
    """

    def __init__(self, names: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        self._row = {name: i for i, name in enumerate(names)}
        self.columns = dict(columns)

    def __contains__(self, name: str) -> bool:
        return name in self._row

    def row(self, name: str) -> dict[str, bool | int | float | str]:
        """The values of one picture."""
        index = self._row[name]
        values = {column: values[index] for column, values in self.columns.items()}
        return {column: value.item() if isinstance(value, np.generic) else value for column, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Source:
    """Pictures to prepare.

    Attributes:
      title: what they are, in a few words.
      files: name to size in bytes, -1 where it cannot be told. A name is a path with ``/`` within the source.
      read: gives the bytes of a picture, in any process, by one thread. Raises OSError or UnusableError.
      ignored: what else is there and is not taken for a picture, by suffix, with counts.
      splits: name to ``train``, ``validation`` or ``test``, where the source has such a partition; to None for what is
        held out and serves as either of the two.
      labels: what is known of the pictures.
      group: from a name, what is never split up: the name itself, or its folder where that is one person.
      terms: under which the pictures may be used.
      citation: BibTeX.
      homepage: of the data set.
    """

    title: str
    files: Mapping[str, int]
    read: Callable[[str], bytes]
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, str | None] | None = None
    labels: Labels = dataclasses.field(default_factory=dict)
    group: Callable[[str], str] = str
    terms: str = ""
    citation: str = ""
    homepage: str = ""

    def split(self, name: str) -> str:
        """By the source's own partition, else 80, 10, 10 % by a hash of the group, whatever else is there."""
        share = int.from_bytes(order_key(self.group(name))[:8], "big") / 2**64
        if self.splits is None:
            return "train" if share < 0.8 else "validation" if share < 0.9 else "test"
        return self.splits[name] or ("validation" if share < 0.5 else "test")


def order_key(name: str) -> bytes:
    """A hash of a name, by which pictures are ordered and split: of any two orders of names none is favoured."""
    return hashlib.blake2b(_normalized(name).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def folder_of(name: str) -> str:
    """The folder of a name, as a ``group``."""
    return str(PurePosixPath(name).parent)


def open_source(path: Path, scratch: Path) -> Source:
    """The pictures in a folder, a zip or a tar.

    Where all lie in folders ``train``, ``val`` (``valid``, ``validation``) and ``test``, these are the partition.

    Args:
      path: the folder or file.
      scratch: folder into which a compressed tar is unpacked, since it can only be read from its beginning.

    Raises:
      UserError: there is no such thing, it cannot be read, or there is no picture in it.
    """
    if path.is_dir():
        source = _open_folder(path)
    elif not path.exists():
        raise UserError(f"{path}: no such folder or file; expected a folder of pictures, a zip or a tar")
    elif zipfile.is_zipfile(path):
        source = _open_zip(path)
    elif _is_tar(path):
        source = _open_tar(path, scratch)
    else:
        raise UserError(f"{path}: expected a folder of pictures, a zip or a tar (whole, if it is one)")
    if not source.files:
        found = ", ".join(f"{count:,} {kind}" for kind, count in source.ignored.items()) or "nothing at all"
        raise UserError(f"{path}: no picture there, but {found}; expected files {' '.join(SUFFIXES)}")
    return dataclasses.replace(source, splits=_partition(source.files))


def is_picture(name: str) -> bool:
    """Whether a name is a picture's: by its suffix, and by no part of it being hidden."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts) or "__MACOSX" in parts
    return not hidden and name.lower().endswith(SUFFIXES)


def _kind(name: str) -> str:
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts) or "__MACOSX" in path.parts:
        return "hidden"
    return path.suffix.lower() or "without a suffix"


def _pictures(names: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """The pictures, and the rest counted by kind."""
    files = {name: size for name, size in sorted(names.items()) if is_picture(name)}
    ignored = Counter(_kind(name) for name in names if name not in files)
    return files, dict(sorted(ignored.items()))


def _partition(files: Mapping[str, int]) -> dict[str, str | None] | None:
    folders = {name: _SPLIT_FOLDERS.get(name.partition("/")[0].lower()) for name in files}
    there = set(folders.values())
    if None in there or "train" not in there or len(there) < 2:
        return None
    if len(there) == 2:
        return {name: "train" if split == "train" else None for name, split in folders.items()}
    return folders


def _open_folder(path: Path) -> Source:
    names: dict[str, int] = {}
    seen = set()
    for folder, folders, entries in os.walk(path, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to what was there already, or to a folder above
            folders.clear()
            continue
        seen.add(real)
        if "dataset_info.json" in entries:  # a prepared data set, whose picture is of pictures
            folders.clear()
            continue
        folders.sort()
        for entry in entries:
            file = Path(folder, entry)
            try:
                size = file.stat().st_size
            except OSError:
                size = -1
            names[file.relative_to(path).as_posix()] = size

    files, ignored = _pictures(names)
    return Source(f"the folder {path.resolve().name}", files, _FolderReader(path), ignored)


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}; expected a folder that may be read")


@dataclasses.dataclass(frozen=True)
class _FolderReader:
    path: Path

    def __call__(self, name: str) -> bytes:
        path = os.path.join(self.path, name)  # noqa: PTH118 - half the time of pathlib's, for each of all pictures
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - reading from a pipe would wait for ever
            raise UnusableError("not a regular file")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall()


def _open_zip(path: Path) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: not a zip to be read ({error}); expected all of it, in a usual form") from None
    files, ignored = _pictures(sizes)
    return Source(f"the archive {path.name}", files, _ZipReader(path), ignored)


@functools.lru_cache(maxsize=1)
def _open_zip_file(path: Path) -> zipfile.ZipFile:
    """Opened once in each process that reads, since that takes time in proportion to what is in it."""
    return zipfile.ZipFile(path)


@dataclasses.dataclass(frozen=True)
class _ZipReader:
    path: Path

    def __call__(self, name: str) -> bytes:
        archive = _open_zip_file(self.path)
        if archive.getinfo(name).flag_bits & 1:
            raise UnusableError("encrypted")
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UnusableError(f"cannot be unpacked: {error}") from None


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, lzma.LZMAError):  # a compressed one that is damaged
        return True


def _open_tar(path: Path, scratch: Path) -> Source:
    plain = path
    with path.open("rb") as file:
        try:
            tarfile.open(fileobj=file, mode="r:").close()
        except tarfile.ReadError:
            plain = _unpacked(path, scratch)
    try:
        with tarfile.open(plain, "r:") as archive:
            members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
            # tarfile takes anything that is no header for the end, which is a block of zeros, and not many of them.
            archive.fileobj.seek(archive.offset)
            is_end = archive.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
            if not is_end or plain.stat().st_size - archive.offset > 1 << 20:
                raise tarfile.ReadError(f"it is damaged or ends at byte {archive.offset:,}")
    except tarfile.ReadError as error:
        raise UserError(f"{path}: not a whole tar ({error}); expected all of it") from None
    files, ignored = _pictures({name: member.size for name, member in members.items()})
    places = {name: (members[name].offset_data, size) for name, size in files.items()}
    return Source(f"the archive {path.name}", files, _TarReader(plain, places), ignored)


@dataclasses.dataclass(frozen=True)
class _TarReader:
    path: Path
    places: Mapping[str, tuple[int, int]]  # name to offset and size

    def __call__(self, name: str) -> bytes:
        offset, size = self.places[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise UnusableError("the archive ends before it does")
        return data


def _unpacked(path: Path, scratch: Path) -> Path:
    """The tar inside a compressed one, unpacked once."""
    scratch.mkdir(parents=True, exist_ok=True)
    target = scratch / f"{path.name}.tar"
    if not target.exists():
        print(f"Unpacking {path}", flush=True)
        part = target.with_suffix(".part")
        try:
            with tarfile.open(path) as archive, part.open("wb") as file:
                archive.fileobj.seek(0)
                shutil.copyfileobj(archive.fileobj, file, 1 << 20)
        except (EOFError, OSError, tarfile.ReadError, zlib.error, lzma.LZMAError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: cannot be unpacked ({reason}); expected a whole archive, and room for it"
            ) from None
        part.replace(target)
    return target


def read_table(path: Path, files: Mapping[str, int]) -> Table:
    """Reads labels from a CSV with a header, whose first column has the pictures' names.

    A name is a path within the source, or just the file's name where no other has the same. A column is bool where all
    its values are true and false, 0 and 1, or -1 and 1; else int64, float32 or text, whichever the values allow.

    Raises:
      UserError: the file is missing, has no header or another number of columns in some row, or no row is a picture's.
    """
    header, names, columns = _read_columns(path, files)
    return Table(names, {column: _typed(values) for column, values in zip(header, columns, strict=True)})


def read_boxes(path: Path, files: Mapping[str, int]) -> Table:
    """Reads a CSV with the header ``name,left,top,width,height``, in pixels of the upright picture.

    Raises:
      UserError: as ``read_table``, or the columns are others.
    """
    header, names, columns = _read_columns(path, files)
    expected = ["left", "top", "width", "height"]
    found = ", ".join(header)
    if header == expected:
        try:
            return Table(names, {side: np.array(values, float) for side, values in zip(header, columns, strict=True)})
        except ValueError as error:
            found += f" with {error}"
    raise UserError(f"{path}: has the columns name, {found}; expected name, {', '.join(expected)}, in pixels")


def _read_columns(path: Path, files: Mapping[str, int]) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Names of the columns, of the pictures, and the values by column, of the rows that name a picture."""
    rows, header = _read_csv(path)
    full_names = _full_names(files)
    known = {}
    for row in rows:
        for name in full_names.get(_normalized(row[0].strip().removeprefix("./")), ()):
            known[name] = row[1:]
    if not known:
        raise UserError(
            f"{path}: none of its {len(rows)} rows names a picture; expected names such as {next(iter(files))}"
        )
    return header[1:], list(known), list(zip(*known.values(), strict=True))


def _read_csv(path: Path) -> tuple[list[list[str]], list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}; expected a CSV file with a header") from None
    header = rows[0][1] if rows else []
    if len(rows) < 2 or len(header) < 2:
        raise UserError(f"{path}: expected a CSV file with a header, the names of pictures in the first column")
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}: line {line} has {len(row)} columns, expected {len(header)} as in the header")
    return [row for _, row in rows[1:]], header


def _full_names(files: Mapping[str, int]) -> dict[str, list[str]]:
    """Names by which a CSV may call a picture: all of its path, or its last part where that is unique."""
    last_parts: dict[str, list[str]] = {}
    for name in files:
        last_parts.setdefault(_normalized(PurePosixPath(name).name), []).append(name)
    unique = {last: names for last, names in last_parts.items() if len(names) == 1}
    return unique | {_normalized(name): [name] for name in files}


def _normalized(name: str) -> str:
    """The same name looks different on macOS."""
    return unicodedata.normalize("NFC", name)


def _typed(values: Sequence[str]) -> np.ndarray:
    texts = {value.strip().lower() for value in values}
    for false, true in (("false", "true"), ("0", "1"), ("-1", "1")):
        if texts <= {false, true}:
            return np.array([value.strip().lower() == true for value in values])
    for dtype in (np.int64, np.float32):
        try:
            return np.array([dtype(value) for value in values], dtype)
        except (ValueError, OverflowError):
            pass
    return np.array(values, dtype=object)
