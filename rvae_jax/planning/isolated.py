"""Runs a function that compiles in a process of its own.

The process can be ended when it takes too long, a crash of the compiler ends it alone, and it returns all its memory.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rvae_jax.errors import UserError, one_line
from rvae_jax.system.units import format_bytes, format_duration

_REPORT_EVERY_S = 20.0


class NotCompiledError(UserError):
    """The compiler crashed or took too long, so that nothing is known of its program."""


def run(function: Callable[..., Any], *arguments: Any, what: str, time_limit_s: float) -> Any:
    """Calls a function in a new process, and reports its time and memory on standard error while it runs.

    Args:
      function: a function of a module's top level.
      *arguments: its arguments; they and the result are pickled.
      what: what is compiled, for messages.
      time_limit_s: seconds after which the process is ended.

    Returns:
      What the function returns.

    Raises:
      NotCompiledError: the process crashed, or did not end within the time limit.
      UserError: the function raised an exception.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        _wait(ours, process.pid, what, time_limit_s)
        result, problem = ours.recv()
    except EOFError:
        process.join()
        raise NotCompiledError(
            f"{what}: the compiler ended with status {process.exitcode}; it may need more memory"
        ) from None
    finally:
        process.kill()
        process.join()
    if problem is not None:
        raise UserError(problem)
    return result


def _serve(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((function(*arguments), None))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {one_line(error, limit=600)}"))


def _wait(pipe: Connection, pid: int, what: str, time_limit_s: float) -> None:
    """Returns when the function has answered or its process has ended."""
    began = time.monotonic()
    elapsed = 0.0
    while not pipe.poll(min(_REPORT_EVERY_S, time_limit_s - elapsed)):
        elapsed = time.monotonic() - began
        if elapsed >= time_limit_s:
            raise NotCompiledError(
                f"{what}: not compiled within {format_duration(time_limit_s)}; raise --time_limit_s, or first try a"
                " variant with fewer layers, such as --config=FILE:tiny"
            )
        print(f"compiling, {what}: {format_duration(elapsed)}, {_memory_of(pid)}", file=sys.stderr)


def _memory_of(pid: int) -> str:
    status = Path(f"/proc/{pid}/statm")
    pages = int(status.read_text().split()[1]) if status.exists() else 0
    return f"{format_bytes(pages * os.sysconf('SC_PAGE_SIZE'))} of memory"
