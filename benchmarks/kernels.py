"""The time of each kernel of a compiled step, from JAX's profiler."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator

import jax
from jax.profiler import ProfileData

_INSTRUCTION = re.compile(r"^ *(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\S+) ")
_ORIGIN = re.compile(r'op_name="(?P<origin>[^"]*)"')


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction of the compiled program.

    Attributes:
      name: the compiler's name.
      ms: milliseconds per step.
      share: share of the time of all kernels.
      shape: type and shape of its result.
      origin: the operation in the source that it comes from, if the compiler kept it.
    """

    name: str
    ms: float
    share: float
    shape: str
    origin: str


def profile(take_steps: Callable[[], None], steps: int, compiled: jax.stages.Compiled, folder: str) -> list[Kernel]:
    """Traces steps, and ranks the kernels of their program by time.

    Args:
      take_steps: takes ``steps`` steps, and waits until they are done.
      steps: number of steps.
      compiled: the compiled step.
      folder: folder for the trace; xprof opens it, and ui.perfetto.dev opens the ``*.trace.json.gz`` in it.
    """
    with jax.profiler.trace(folder):
        take_steps()
    newest = max(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    return ranked(ProfileData.from_file(str(newest)), steps, compiled.as_text())


def ranked(trace: ProfileData, steps: int, text: str) -> list[Kernel]:
    """Ranks kernels by time.

    Args:
      trace: a trace of the steps.
      steps: number of steps.
      text: the optimized HLO of the step.
    """
    total: collections.Counter[str] = collections.Counter()
    for name, nanoseconds in _operations(trace):
        total[name] += nanoseconds
    matches = (_INSTRUCTION.match(line) for line in text.splitlines())
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


def _operations(trace: ProfileData) -> Iterator[tuple[str, float]]:
    """The name and the nanoseconds of each instruction that ran."""
    planes = list(trace.planes)
    on_device = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in on_device or planes:
        lines = list(plane.lines)
        # Besides the streams of kernels there may be a line with the same time by instruction.
        summaries = [line for line in lines if line.name == "XLA Ops"]
        for line in summaries or lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is None:
                    continue
                # GPU kernels that are launched together share one instruction, and have names of their own.
                yield event.name if str(operation).startswith("command_buffer") else str(operation), event.duration_ns


def _normalised(name: str) -> str:
    return name.replace(".", "_")
