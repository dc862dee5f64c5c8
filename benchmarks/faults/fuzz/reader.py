"""What is fuzzed: a reader, the valid files to begin with, and which of its ends are expected."""

from __future__ import annotations

import contextlib
import importlib
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rvae_jax.errors import MissingError, UserError

_MODULES = ("data", "models")  # with READERS; the first needs no JAX, which takes time to import


class Reader(NamedTuple):
    """A reader of files that others have made.

    Attributes:
      seeds: makes the contents of small valid files, in an empty folder.
      read: reads a file. It may raise a UserError or MissingError of one line.
      file: the name that the file needs.
      mutate: makes other contents of one, by a number; None for libFuzzer's own ways.
      complete: makes the file's content from the fuzzer's bytes, such as with right checksums.
    """

    seeds: Callable[[pathlib.Path], Iterable[bytes]]
    read: Callable[[pathlib.Path], object]
    file: str = "file"
    mutate: Callable[[bytes, int], bytes] | None = None
    complete: Callable[[bytes], bytes] = bytes


def names() -> list[str]:
    """The names of all readers."""
    return [name for module in _MODULES for name in _readers(module)]


def find(name: str) -> Reader:
    """The reader of a name; imports no more than it needs."""
    return next(readers[name] for module in _MODULES if name in (readers := _readers(module)))


def begin(reader: Reader, folder: pathlib.Path) -> list[bytes]:
    """Makes the seeds, in an empty folder; raises what is not expected of them."""
    (folder / "seeds").mkdir(parents=True)
    seeds = [*reader.seeds(folder / "seeds")]
    for content in seeds:
        attempt(reader, content, folder)
    return seeds


def attempt(reader: Reader, data: bytes, folder: pathlib.Path) -> None:
    """Reads a file with these bytes, in ``folder``; raises whatever is not expected."""
    path = folder / reader.file
    path.write_bytes(reader.complete(data))
    with contextlib.suppress(MissingError):
        try:
            reader.read(path)
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError(f"a message of several lines: {str(error)!r}") from error


def _readers(module: str) -> dict[str, Reader]:
    return importlib.import_module(f"benchmarks.faults.fuzz.{module}").READERS
