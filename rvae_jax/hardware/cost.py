"""What a compiled program costs: memory, work, and exchange between devices."""

from __future__ import annotations

import dataclasses
import math
import re

import jax

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_OPERATION = re.compile(rf" = (?P<result>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_LOOP = re.compile(r" while\(.*\bbody=%?(?P<name>[\w.-]+)")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_ARRAY = re.compile(r"\b(?P<type>[a-z]+[0-9]*)\[(?P<shape>[0-9,]*)\]")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one call of a compiled program costs on one device, as the compiler counts it.

    Attributes:
      memory: bytes in all.
      temporary: bytes of them that are free between two calls.
      flops: FLOPs, 2 per multiply-add; None if the compiler does not count them, as for GPUs.
      bytes_accessed: bytes read from and written to memory; None if the compiler does not count them.
    """

    memory: int
    temporary: int
    flops: float | None
    bytes_accessed: float | None


def cost_of(compiled: jax.stages.Compiled, loop_steps: int = 1) -> Cost:
    """The cost of a program.

    Args:
      compiled: the program.
      loop_steps: iterations of the loop that does nearly all of the work, whose body compilers count once.
    """
    memory, work = compiled.memory_analysis(), compiled.cost_analysis()
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    total += memory.output_size_in_bytes - memory.alias_size_in_bytes
    # XLA does not count the work of cuDNN and cuBLAS, which is nearly all of it.
    if work is None or '"__cu' in compiled.as_text():
        return Cost(total, memory.temp_size_in_bytes, None, None)
    return Cost(total, memory.temp_size_in_bytes, loop_steps * work["flops"], loop_steps * work["bytes accessed"])


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all`` or ``collective-permute``.
      bytes: size of its result on one device; for ``reduce-scatter`` this is only a part of the input.
      in_loop: whether it is in the body of a loop.
    """

    kind: str
    bytes: int
    in_loop: bool = False


def collectives(text: str) -> list[Collective]:
    """The collectives in a program's optimized HLO (``compiled.as_text()``)."""
    loops = {match["name"] for match in _LOOP.finditer(text)}
    found, computation = [], ""
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            computation = begins["name"]
        match = _OPERATION.search(line)
        if match is None:
            continue
        sizes = [
            _BYTES[array["type"]] * math.prod(int(size) for size in array["shape"].split(",") if size)
            for array in _ARRAY.finditer(match["result"])
        ]
        # The start of an asynchronous gather or permute also returns its input; that of an all-reduce does not.
        largest_only = match["start"] is not None and match["kind"] != "all-reduce"
        size = max(sizes) if largest_only else sum(sizes)
        found.append(Collective(match["kind"], size, in_loop=computation in loops))
    return found
