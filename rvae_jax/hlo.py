"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import dataclasses
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_OPERATION = re.compile(rf" = (?P<result>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<type>[a-z]+[0-9]*)\[(?P<shape>[0-9,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices.

    Attributes:
      kind: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all`` or ``collective-permute``.
      bytes: size of its result on one device; for ``reduce-scatter`` that is a part of what goes in.
    """

    kind: str
    bytes: int


def collectives(text: str) -> list[Collective]:
    """The collectives in a program's optimized HLO (``compiled.as_text()``); one within a loop counts once."""
    found = []
    for match in map(_OPERATION.search, text.splitlines()):
        if match is None:
            continue
        sizes = [
            _BYTES[array["type"]] * math.prod(int(size) for size in array["shape"].split(",") if size)
            for array in _ARRAY.finditer(match["result"])
        ]
        # The start of an asynchronous gather or permute returns what went in, too; that of an all-reduce does not.
        largest_only = match["start"] is not None and match["kind"] != "all-reduce"
        found.append(Collective(match["kind"], max(sizes) if largest_only else sum(sizes)))
    return found
