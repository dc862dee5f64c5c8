"""Several folders and archives as one source: a data set in parts."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rvae_jax.data.prepare.sources.source import Source, hash_of
from rvae_jax.errors import UserError

_SUFFIX = re.compile(r"\.(zip|tgz|tbz2?|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)


def is_archive(name: str) -> bool:
    """Whether a name is that of a zip or tar."""
    return _SUFFIX.search(name) is not None


def part_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Names for the parts: their paths below the folder that all share, without .zip or .tar.gz where that is unique.

    Raises:
      UserError: a path is given twice.
    """
    complete = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - a link stays one: its name is the user's
    if len(set(complete)) < len(complete):
        twice = next(path for path in complete if complete.count(path) > 1)
        raise UserError(f"{twice} is given twice; expected each folder or archive once")
    base = os.path.commonpath([path.parent for path in complete])
    full = [path.relative_to(base).as_posix() for path in complete]
    short = [_SUFFIX.sub("", name) for name in full]
    return dict(zip(short if len(set(short)) == len(short) else full, paths, strict=True))


def combined(title: str, parts: Mapping[str, Source]) -> Source:
    """One source of several; a picture's name begins with that of its part.

    Raises:
      UserError: two pictures would have one name.
    """
    sizes: dict[str, int] = {}
    places: dict[str, tuple[str, str]] = {}
    for part, source in parts.items():
        for name, size in source.files.items():
            full = f"{part}/{name}"
            if full in places:
                raise UserError(
                    f"{title}: two of its parts, {places[full][0]} and {part}, have a picture {full}; rename one part"
                )
            sizes[full], places[full] = size, (part, name)
    ignored = sum((Counter(source.ignored) for source in parts.values()), Counter())
    return Source(
        title,
        dict(sorted(sizes.items())),
        _PartsReader({part: source.read for part, source in parts.items()}, places),
        dict(sorted(ignored.items())),
        modified=hash_of("\0".join(f"{part}\0{source.modified}" for part, source in sorted(parts.items()))).hex(),
    )


@dataclasses.dataclass(frozen=True)
class _PartsReader:
    readers: Mapping[str, Callable[[str], bytes]]
    places: Mapping[str, tuple[str, str]]  # name to its part, and the name there

    def __call__(self, name: str) -> bytes:
        part, name = self.places[name]
        return self.readers[part](name)
