"""What a compiled step spends its time on, kernel by kernel, from JAX's profiler."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.profiler import ProfileData

_INSTRUCTION = re.compile(r"^ *(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\S+) ")
_ORIGIN = re.compile(r'op_name="(?P<origin>[^"]*)"')


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction of the compiled program.

    Attributes:
      name: the compiler's.
      ms: a step.
      share: of all kernels' time.
      shape: type and shape of its result.
      origin: where in the source it comes from, if the compiler kept that.
    """

    name: str
    ms: float
    share: float
    shape: str
    origin: str


def profile(take_steps: Callable[[], None], steps: int, compiled: jax.stages.Compiled, folder: str) -> list[Kernel]:
    """Traces some steps, and ranks the program's kernels by their time.

    Args:
      take_steps: takes so many steps, and waits for their end.
      steps: how many.
      compiled: their program.
      folder: where the trace is left, to be opened with xprof, or ``*.trace.json.gz`` in it with ui.perfetto.dev.
    """
    with jax.profiler.trace(folder):
        take_steps()
    newest = max(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    total: collections.Counter[str] = collections.Counter()
    for name, nanoseconds in _operations(ProfileData.from_file(str(newest))):
        total[name] += nanoseconds
    matches = (_INSTRUCTION.match(line) for line in compiled.as_text().splitlines())
    instructions = {_normalised(match["name"]): match for match in matches if match is not None}
    everything = sum(total.values())
    kernels = []
    for name, nanoseconds in total.most_common():
        match = instructions.get(_normalised(name))
        shape = match["shape"].partition("{")[0] if match else ""
        origin = _ORIGIN.search(match.string) if match else None
        kernels.append(
            Kernel(name, nanoseconds / steps / 1e6, nanoseconds / everything, shape, origin["origin"] if origin else "")
        )
    return kernels


def _operations(data: Any) -> Iterator[tuple[str, float]]:
    """Instructions and their nanoseconds, as often as they ran."""
    planes = list(data.planes)
    on_device = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in on_device or planes:
        lines = list(plane.lines)
        # Beside the streams of kernels there may be a line that has the same time by instruction.
        summaries = [line for line in lines if line.name == "XLA Ops"]
        for line in summaries or lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is None:
                    continue
                # A GPU's kernels that are launched together have one instruction, but names of their own.
                yield event.name if str(operation).startswith("command_buffer") else str(operation), event.duration_ns


def _normalised(name: str) -> str:
    return name.replace(".", "_")
