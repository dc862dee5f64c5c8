"""One attempt to use something damaged, in a process of its own, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from rvae_jax.errors import MissingError, UserError

HANG_S = 60.0

# What may come of it, the good ones first.
WHOLE = "whole"  # the same as without the damage
REFUSED = "refused in one line"
WRONG = "wrong, without a word"
LOST = "rows or checkpoints lost"
TRACEBACK = "traceback"
HANG = "hang"
GOOD = (WHOLE, REFUSED)
ALL = (*GOOD, WRONG, LOST, TRACEBACK, HANG)

_REFUSED, _FAILED = 1, 70  # status of the process


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What a process made of something damaged.

    Attributes:
      status: of the process; None if it did not end.
      result: what it read, of JSON types; None unless the status is 0.
      said: all that it printed.
      peak: bytes of memory at most.
    """

    status: int | None
    result: Any
    said: str
    peak: int

    def outcome(self, expected: Any, compare: Callable[[Any, Any], str]) -> str:
        """One of ``ALL``; ``expected`` is read without damage."""
        if self.status is None:
            return HANG
        if self.status == 0:
            return compare(self.result, expected)
        return REFUSED if self.status == _REFUSED else TRACEBACK


def compare(found: Any, expected: Any) -> str:
    """The outcome of a reading that did not fail."""
    return WHOLE if found == expected else WRONG


def attempt(read: Callable[[pathlib.Path], Any], folder: pathlib.Path, limit_s: float = HANG_S) -> Attempt:
    """Calls ``read(folder)`` in a fork of this process, which must not have used JAX's devices."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as result:
        if (child := os.fork()) == 0:
            os._exit(_in_child(read, folder, said.fileno(), result.fileno()))
        end = time.monotonic() + limit_s
        while True:
            pid, status, usage = os.wait4(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                _, _, usage = os.wait4(child, 0)
                code = None
                break
            time.sleep(0.01)
        said.seek(0)
        result.seek(0)
        found = json.loads(result.read()) if code == 0 else None
        return Attempt(code, found, said.read(), usage.ru_maxrss * 1024)


def _in_child(read: Callable[[pathlib.Path], Any], folder: pathlib.Path, said: int, result: int) -> int:
    for stream in (1, 2):
        os.dup2(said, stream)
    try:
        found = read(folder)
    except (UserError, MissingError) as error:
        print(error, flush=True)
        return _REFUSED if "\n" not in str(error) else _FAILED
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
        return _FAILED
    os.write(result, json.dumps(found).encode())
    return 0
