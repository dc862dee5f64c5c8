"""Six ways to damage a file."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np

_PAGE = 4096  # bytes


def _cut(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content)) if content else 0])


def _zero(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    start = int(rng.integers(max(1, len(content)))) // _PAGE * _PAGE
    content[start : start + _PAGE] = bytes(len(content[start : start + _PAGE]))
    path.write_bytes(content)


def _flip(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def _replace(path: pathlib.Path, _: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


WAYS: dict[str, Callable[[pathlib.Path, np.random.Generator], None]] = {
    "emptied": lambda path, _: path.write_bytes(b""),
    "cut off": _cut,
    "deleted": lambda path, _: path.unlink(),
    "a page of zeros": _zero,
    "a flipped bit": _flip,
    "a folder in its place": _replace,
}
