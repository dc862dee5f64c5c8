"""The pictures in a tar."""

from __future__ import annotations

import dataclasses
import errno
import lzma
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from rvae_jax.data.prepare.sources.source import MOST_BYTES, Source, UnusableError, pictures_among
from rvae_jax.errors import UserError, one_line, printable
from rvae_jax.system.units import format_bytes

_LONGEST_END = 1 << 20  # bytes of zeros after a tar
_MOST_RATIO = 1000  # of a tar to its compressed form; pictures are compressed already
_LEAST_FREE = 1_000_000_000  # bytes that unpacking leaves on the disk
_PART = 1 << 20  # bytes
# What tarfile and the decompressors raise; ValueError and OSError also of numbers in the headers.
_DAMAGE = (EOFError, OSError, OverflowError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError)


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, compressed or not, and perhaps damaged."""
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, OverflowError, ValueError, zlib.error, lzma.LZMAError):  # it is one, and damaged
        return True


def open_tar(path: Path, scratch: Path, modified: str) -> Source:
    """The pictures in a tar; ``modified`` is the source's. A compressed one is unpacked into ``scratch``.

    Raises:
      UserError: it cannot be read, or is incomplete.
    """
    try:
        plain = path if _is_plain(path) else _unpacked(path, scratch)
        members = _members(plain)
    except _DAMAGE as error:
        raise UserError(f"{path}: not a complete tar ({one_line(error)}); expected one complete archive") from None
    found, others = {}, []
    for name in members:
        member = _followed(name, members)
        if member is None:
            others.append("broken link")
        elif member.issparse():  # stored in pieces
            others.append("sparse file")
        elif member.isfile():
            found[name] = member
    files, ignored = pictures_among({name: member.size for name, member in found.items()}, others, MOST_BYTES)
    places = {name: (found[name].offset_data, size) for name, size in files.items()}
    return Source(f"the archive {path.name}", files, _TarReader(plain, places), ignored, modified=modified)


def _is_plain(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            tarfile.open(fileobj=file, mode="r:").close()
        except tarfile.ReadError:
            return False
    return True


def _members(path: Path) -> dict[str, tarfile.TarInfo | None]:
    """What a tar holds, by name; a hard link is what it leads to, None if nothing.

    Raises:
      tarfile.ReadError: it is damaged or incomplete.
    """
    members: dict[str, tarfile.TarInfo | None] = {}
    place = -1
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.size < 0 or archive.offset <= place:  # Python 3.11's tarfile would go round for ever
                raise tarfile.ReadError(f"{printable(member.name)} has a size of {member.size:,} bytes")
            place = archive.offset
            name = posixpath.normpath(member.name)
            # A hard link leads to an earlier member, perhaps of its own name: a file that was added twice.
            members[name] = members.get(posixpath.normpath(member.linkname)) if member.islnk() else member
        # tarfile takes whatever is not a header for the end. The end is zeros, at least a block and not many.
        archive.fileobj.seek(archive.offset)
        end = archive.fileobj.read(_LONGEST_END + 1)
        if not tarfile.BLOCKSIZE <= len(end) <= _LONGEST_END or any(end):
            raise tarfile.ReadError(
                f"it is damaged or ends at byte {archive.offset:,}, or is several archives in one file"
            )
    return members


def _followed(name: str, members: Mapping[str, tarfile.TarInfo | None]) -> tarfile.TarInfo | None:
    """The member to which symbolic links lead from a name; None if there is none, or they lead in a circle."""
    for _ in range(40):  # as many links as Linux follows
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
    """The tar inside a compressed one, in ``scratch``: a compressed file can be read from its beginning only."""
    scratch.mkdir(parents=True, exist_ok=True)
    plain = scratch / f"{path.name}.tar"
    print(f"Unpacking {path}", flush=True)
    try:
        with tarfile.open(path) as archive, plain.open("wb") as file:
            archive.fileobj.seek(0)
            most = _MOST_RATIO * path.stat().st_size
            while part := archive.fileobj.read(_PART):
                most -= len(part)
                if most < 0:
                    raise tarfile.ReadError(f"it grows to more than {_MOST_RATIO:,} times its size")
                if shutil.disk_usage(scratch).free < _LEAST_FREE:
                    raise OSError(errno.ENOSPC, f"less than {format_bytes(_LEAST_FREE)} free in {scratch}")
                file.write(part)
    except _DAMAGE as error:
        plain.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot be unpacked ({one_line(error)}); expected a complete archive, and room for it"
        ) from None
    return plain
