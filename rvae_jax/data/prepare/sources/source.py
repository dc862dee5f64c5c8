"""A source of pictures: their names, how to read one, and what is known of each."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

from rvae_jax.data.prepare.sources import kinds
from rvae_jax.data.prepare.sources.tables import Table, normalized
from rvae_jax.system.units import format_bytes

MOST_BYTES = 1_000_000_000  # of a file in an archive, which may claim any number and is read into memory

SPLITS = ("train", "validation", "test")

Labels = Mapping[str, Table]  # a name such as "attributes" to the table under it


class UnusableError(Exception):
    """A picture that cannot be used. The message is the reason, for the report."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Pictures to prepare.

    Attributes:
      title: what they are, in a few words.
      files: name to size in bytes, -1 where the size is unknown. A name is a path with ``/`` within the source.
      read: returns the bytes of a picture. Called from any process, by one thread. Raises OSError or UnusableError.
      ignored: the files that are not pictures: by suffix, or by another reason, with counts.
      splits: name to ``train``, ``validation`` or ``test``, where the source has a partition of its own; to None where
        a picture is held out, and goes to either of the last two.
      labels: what is known of the pictures.
      group: maps a name to what must stay in one split: the name itself, or its folder where a folder is one person.
      terms: the terms of use.
      citation: BibTeX.
      homepage: of the data set.
      modified: a hash that changes when a picture may have been changed in place: of the names and times of all
        pictures in a folder, of the size and time of an archive.
      seconds: about how long a core takes to read a picture, where the pictures are generated; else 0.
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
    seconds: float = 0.0

    @property
    def split_rule(self) -> str:
        """How ``split`` decides, in words."""
        if self.splits is not None:
            return "by the source's own partition"
        return f"80, 10 and 10 % by a hash of each picture's {'folder' if self.group is folder_of else 'name'}"

    def split(self, name: str) -> str:
        """The split of a picture: by the source's own partition, else 80, 10 and 10 % by a hash of the group.

        It does not depend on which other pictures there are.
        """
        share = int.from_bytes(order_key(self.group(name))[:8], "big") / 2**64
        if self.splits is None:
            return "train" if share < 0.8 else "validation" if share < 0.9 else "test"
        return self.splits[name] or ("validation" if share < 0.5 else "test")


def order_key(name: str) -> bytes:
    """A hash of a name. Pictures are ordered and split by it, and so independently of their names' order."""
    return hash_of(normalized(name))


def hash_of(text: str) -> bytes:
    """16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def folder_of(name: str) -> str:
    """The folder of a name, as a ``group``."""
    return str(PurePosixPath(name).parent)


def is_picture(name: str) -> bool:
    """Whether a name is that of a picture: it has such a suffix, and no part of it is hidden."""
    return not is_hidden(name) and name.lower().endswith(kinds.SUFFIXES)


def pictures_among(
    sizes: Mapping[str, int], others: Iterable[str] = (), most_bytes: int | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """Tells pictures from other files.

    Args:
      sizes: name to size of all files.
      others: the kinds of what else is there.
      most_bytes: size beyond which a file is left out, or None.

    Returns:
      The pictures, sorted; and how many files of each other kind there are, ``others`` and those that are too large
      included.
    """
    pictures = {name: size for name, size in sorted(sizes.items()) if is_picture(name)}
    ignored = Counter(_kind(name) for name in sizes if name not in pictures)
    files = {name: size for name, size in pictures.items() if most_bytes is None or size <= most_bytes}
    if len(files) < len(pictures):
        ignored[f"larger than {format_bytes(most_bytes)}"] = len(pictures) - len(files)
    ignored.update(others)
    return files, dict(sorted(ignored.items()))


def is_hidden(name: str) -> bool:
    """Whether a name, or a folder in it, is hidden, or is what macOS adds to archives."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") for part in parts) or "__MACOSX" in parts


def _kind(name: str) -> str:
    return "hidden" if is_hidden(name) else PurePosixPath(name).suffix.lower() or "without a suffix"
