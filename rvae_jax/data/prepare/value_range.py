"""The range of values that pictures of more than 8 bits use: found in a sample, before the work."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq

import numpy as np

from rvae_jax.data.prepare.decode import deep_values
from rvae_jax.data.prepare.deep import Range
from rvae_jax.data.prepare.sources.source import Source, UnusableError, order_key
from rvae_jax.errors import UserError, command, printable

_SAMPLE = 128  # pictures
_VALUES = 1 << 14  # of each, at most
_BEYOND = 1e-4  # share of the values that may lie below, and above: a sensor's dead points would decide else
_NARROW = 0.26  # share of the type's values; 14 bits of 16 are a quarter


@dataclasses.dataclass(frozen=True)
class Look:
    """What a sample of pictures uses.

    Attributes:
      pictures: how many have more than 8 bits.
      of: how many were looked at.
      example: the name of one that has more than 8 bits.
      low: nearly all values are at least this.
      high: and at most this.
      most: the largest value that the files' type has room for; None for floating point.
    """

    pictures: int
    of: int
    example: str = ""
    low: float = 0
    high: float = 0
    most: int | None = None

    @property
    def narrow(self) -> bool:
        """Whether the pictures use so little of their type's range that 8 bits of all of it would show little."""
        return bool(self.pictures and self.most and self.high - self.low < _NARROW * self.most)

    def __str__(self) -> str:
        """As ``--range`` takes it."""
        return f"{self.low:.9g},{self.high:.9g}"


def look(source: Source) -> Look:
    """Looks at a sample of the pictures: the same ones each time, while the source's files are the same."""
    if source.seconds:  # generated
        return Look(0, 0)
    names = heapq.nsmallest(_SAMPLE, source.files, key=lambda name: (order_key(name), name))
    values, most, floating, example = [], 0, False, ""
    for name in names:
        with contextlib.suppress(UnusableError, OSError):  # told when it is prepared
            deep = deep_values(source.read(name))
            if deep is None:
                continue
            example = example or name
            flat = deep.values.reshape(-1)
            stride = -(-flat.size // _VALUES) | 1  # odd, or of most pictures a few columns alone would be taken
            part = flat[::stride].astype(np.float64)
            values.append(part[np.isfinite(part)])
            most, floating = max(most, deep.most or 0), floating or deep.most is None
    if not sum(map(len, values)):
        return Look(0, len(names))
    low, high = np.quantile(np.concatenate(values), [_BEYOND, 1 - _BEYOND], method="nearest")
    return Look(len(values), len(names), example, float(low), float(high), None if floating else most)


def warn_if_narrow(source: Source, found: Look) -> None:
    """Warns in one line of pictures that will become nearly black, white or grey."""
    if found.narrow:
        print(
            f"Warning: {source.title}: of {found.of} pictures looked at, {found.pictures} have more than 8 bits (as has"
            f" {printable(found.example)}) and use {found.low:.9g} to {found.high:.9g} of 0 to {found.most}: they"
            f" become dark or flat. To stretch them, {command('prepare')} takes --range=auto, or --range={found}"
        )


def choose(source: Source, given: Range | str | None) -> Range | None:
    """The range for all pictures: the one that is given, or ``auto``'s. Says what it is, or warns.

    Raises:
      UserError: ``auto``, and no picture looked at has more than 8 bits, or all values are the same.
    """
    found = look(source)
    if given is None:
        warn_if_narrow(source, found)
        return None
    if given == "auto":
        if not found.low < found.high:
            what = f"all values are {found.low:.9g}" if found.pictures else "none has more than 8 bits"
            raise UserError(
                f"--range=auto: {source.title}: of {found.of} pictures looked at, {what}; expected a range: leave"
                " --range away, or give LOW,HIGH"
            )
        given = found.low, found.high
        print(f"--range=auto is --range={found}, of the values of {found.pictures} pictures")
    elif found.of and not found.pictures:
        print(f"Warning: --range: none of {found.of} pictures looked at has more than 8 bits, to which it applies")
    return given
