"""Where pictures come from: a folder, a zip or a tar, by name and bytes, with what is known of each picture."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from rvae_jax.data.prepare.decode import UnusableError
from rvae_jax.data.prepare.tables import Table, normalized
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
_LONGEST_END = 1 << 20  # bytes of zeros after a tar

Labels = Mapping[str, Table]  # a name such as "attributes" to the table under it


@dataclasses.dataclass(frozen=True)
class Source:
    """Pictures to prepare.

    Attributes:
      title: what they are, in a few words.
      files: name to size in bytes, -1 where it cannot be told. A name is a path with ``/`` within the source.
      read: gives the bytes of a picture, in any process, by one thread. Raises OSError or UnusableError.
      ignored: what else is there and is not taken for a picture, by suffix or another reason, with counts.
      splits: name to ``train``, ``validation`` or ``test``, where the source has such a partition; to None for what is
        held out and serves as either of the two.
      labels: what is known of the pictures.
      group: from a name, what is never split up: the name itself, or its folder where that is one person.
      terms: under which the pictures may be used.
      citation: BibTeX.
      homepage: of the data set.
      modified: a hash that changes when a picture may have been changed in place: of the names and times of all
        pictures in a folder, of the size and time of an archive.
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
    modified: str = ""

    @property
    def split_rule(self) -> str:
        """How ``split`` decides, in words."""
        if self.splits is not None:
            return "by the source's own partition"
        return f"80, 10 and 10 % by a hash of each picture's {'folder' if self.group is folder_of else 'name'}"

    def split(self, name: str) -> str:
        """By the source's own partition, else 80, 10, 10 % by a hash of the group, whatever else is there."""
        share = int.from_bytes(order_key(self.group(name))[:8], "big") / 2**64
        if self.splits is None:
            return "train" if share < 0.8 else "validation" if share < 0.9 else "test"
        return self.splits[name] or ("validation" if share < 0.5 else "test")


def order_key(name: str) -> bytes:
    """A hash of a name, by which pictures are ordered and split: of any two orders of names none is favoured."""
    return _hash(normalized(name))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def folder_of(name: str) -> str:
    """The folder of a name, as a ``group``."""
    return str(PurePosixPath(name).parent)


def open_source(path: Path, scratch: Path) -> Source:
    """The pictures in a folder, a zip or a tar.

    Where all lie in folders ``train``, ``val`` (``valid``, ``validation``) and ``test``, these are the partition; they
    may lie in another folder, which all pictures share.

    Args:
      path: the folder or file.
      scratch: folder into which a compressed tar is unpacked, since it can only be read from its beginning.

    Raises:
      UserError: there is no such thing, it cannot be read, there is no picture in it, or some lie in such folders, some
        elsewhere.
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
    return dataclasses.replace(source, splits=_partition(path, source.files))


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


def _pictures(names: Mapping[str, int], others: Iterable[str] = ()) -> tuple[dict[str, int], dict[str, int]]:
    """The pictures, and the rest counted by kind, with ``others``, which are kinds."""
    files = {name: size for name, size in sorted(names.items()) if is_picture(name)}
    ignored = Counter(_kind(name) for name in names if name not in files)
    ignored.update(others)
    return files, dict(sorted(ignored.items()))


def _partition(path: Path, files: Mapping[str, int]) -> dict[str, str | None] | None:
    """By the first folder in which not all pictures lie, if it is a split's."""
    folders = [name.split("/")[:-1] for name in files]
    ends = zip(min(folders), max(folders), strict=False)  # what these two share, all do
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
            f"{path}: {len(outside):,} of {len(files):,} pictures lie outside of the folders {found}, such as"
            f" {outside[0]}; expected all in them: move or remove the others, or rename the folders"
        )
    if len(there) == 2:
        return {name: "train" if split == "train" else None for name, split in splits.items()}
    return splits


def _open_folder(path: Path) -> Source:
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    others = []
    seen = set()
    for folder, folders, entries in os.walk(path, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to what was there already, or to a folder above
            folders.clear()
            continue
        seen.add(real)
        if {"dataset_info.json", "features.json"} <= set(entries):  # by TFDS, and its picture is of pictures
            others.append("prepared data set")
            folders.clear()
            continue
        folders.sort()
        for entry in entries:
            file = Path(folder, entry)
            name = file.relative_to(path).as_posix()
            try:
                status = file.stat()
                sizes[name], times[name] = status.st_size, status.st_mtime_ns
            except OSError:
                sizes[name] = times[name] = -1

    files, ignored = _pictures(sizes, others)
    modified = _hash("\0".join(f"{name}\0{times[name]}" for name in files)).hex()
    return Source(f"the folder {path.resolve().name}", files, _FolderReader(path), ignored, modified=modified)


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


def _archive_modified(path: Path) -> str:
    status = path.stat()
    return _hash(f"{status.st_size} {status.st_mtime_ns}").hex()


def _open_zip(path: Path) -> Source:
    modified = _archive_modified(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {name: info.file_size for name, info in _members(archive).items()}
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: not a zip to be read ({error}); expected all of it, in a usual form") from None
    files, ignored = _pictures(sizes)
    return Source(f"the archive {path.name}", files, _ZipReader(path), ignored, modified=modified)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What is no folder, by name; some programs write it with backslashes on Windows, whose number is 0."""
    names = (
        (info.filename.replace("\\", "/") if info.create_system == 0 else info.filename, info)
        for info in archive.infolist()
    )
    return {name: info for name, info in names if not name.endswith("/")}


@functools.lru_cache(maxsize=1)
def _open_zip_file(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Opened once in each process that reads, since that takes time in proportion to what is in it."""
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
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UnusableError(f"cannot be unpacked: {error}") from None


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, lzma.LZMAError):  # a compressed one that is damaged
        return True


def _open_tar(path: Path, scratch: Path) -> Source:
    modified = _archive_modified(path)
    plain = path
    with path.open("rb") as file:
        try:
            tarfile.open(fileobj=file, mode="r:").close()
        except tarfile.ReadError:
            plain = _unpacked(path, scratch)
    members: dict[str, tarfile.TarInfo | None] = {}
    try:
        with tarfile.open(plain, "r:") as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                # A hard link is to what was there before it, perhaps to itself: a file that was added twice.
                members[name] = members.get(posixpath.normpath(member.linkname)) if member.islnk() else member
            # tarfile takes anything that is no header for the end, which is zeros, at least a block, and not many.
            archive.fileobj.seek(archive.offset)
            end = archive.fileobj.read(_LONGEST_END + 1)
            if not tarfile.BLOCKSIZE <= len(end) <= _LONGEST_END or any(end):
                raise tarfile.ReadError(
                    f"it is damaged or ends at byte {archive.offset:,}, or is several archives in one file"
                )
    except tarfile.ReadError as error:
        raise UserError(f"{path}: not a whole tar ({error}); expected all of it, as one archive") from None
    found, others = {}, []
    for name in members:
        member = _followed(name, members)
        if member is None:
            others.append("broken link")
        elif member.issparse():  # in pieces
            others.append("sparse file")
        elif member.isfile():
            found[name] = member
    files, ignored = _pictures({name: member.size for name, member in found.items()}, others)
    places = {name: (found[name].offset_data, size) for name, size in files.items()}
    return Source(f"the archive {path.name}", files, _TarReader(plain, places), ignored, modified=modified)


def _followed(name: str, members: Mapping[str, tarfile.TarInfo | None]) -> tarfile.TarInfo | None:
    """The member to which symbolic links lead from a name; None if there is none, or they lead in a circle."""
    for _ in range(40):  # as many as Linux follows
        member = members.get(name)
        if member is None or not member.issym():
            return member
        name = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
    return None


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
            part.replace(target)
        except (EOFError, OSError, tarfile.ReadError, zlib.error, lzma.LZMAError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: cannot be unpacked ({reason}); expected a whole archive, and room for it"
            ) from None
        finally:
            part.unlink(missing_ok=True)
    return target
