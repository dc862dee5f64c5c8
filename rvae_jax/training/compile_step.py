"""Compiles a run's training steps, and refuses a batch for which a device has no room."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import jax
import numpy as np

from rvae_jax.distributed import processes
from rvae_jax.hardware import memory
from rvae_jax.hardware.cost import cost_of
from rvae_jax.system.units import format_bytes, format_duration
from rvae_jax.training.run import Run
from rvae_jax.training.state import TrainState
from rvae_jax.training.step import TrainStep


def compile_steps(run: Run, state: TrainState) -> Callable[[int], jax.stages.Compiled]:
    """Compiles what ``state`` is still to be trained with.

    Returns a function from a step, counted from 1, to its program for this run's batches,
    ``(state, batch, *run.constants) -> (state, metrics)``. It donates its state.

    Raises:
      UserError: as ``_compile_step``.
    """
    program, texture_start = run.program, int(run.config.loss.texture_start)
    complete = _compile_step(run, state, program.train_step, "the step")
    if program.first_train_step is None or int(state.step) >= texture_start:
        return lambda _: complete
    first = _compile_step(run, state, program.first_train_step, f"the first {texture_start} steps")
    return lambda step: first if step <= texture_start else complete


def _compile_step(run: Run, state: TrainState, train_step: TrainStep, name: str) -> jax.stages.Compiled:
    """The compiled ``train_step``, after a line about it, in which it has a name.

    Raises:
      UserError: there is no room for it; the message names a batch size that fits.
    """
    config, layout = run.config, run.layout

    def compile_for(batch_size: int) -> tuple[jax.stages.Compiled | None, str]:
        part = np.zeros((batch_size // jax.process_count(), *config.model.image_shape), np.uint8)
        (batch,) = layout.to_devices([part])
        lowered = layout.lower(train_step, state, batch, *run.constants)
        return memory.compile_if_it_fits(lowered, layout.compiler_options)

    def bytes_of(compiled: jax.stages.Compiled | None) -> float:
        # Of all processes, since they compile together and so must come to the same decisions.
        return max(processes.exchange(math.inf if compiled is None else cost_of(compiled).memory))

    print(f"Compiling {name}: from seconds to some minutes", flush=True)
    began = time.monotonic()
    compiled, refusal = compile_for(config.batch_size)
    seconds = time.monotonic() - began
    if compiled is None:
        print(f"The compiler found no room: {refusal}")
    devices, needed, limit = layout.mesh.size, bytes_of(compiled), min(processes.exchange(memory.limit()))
    with processes.together():
        memory.require_room(config, devices, needed, limit, lambda size: bytes_of(compile_for(size)[0]))
    cost = cost_of(compiled, loop_steps=config.accumulate_steps)
    work = "" if cost.flops is None else f"{cost.flops * devices / config.batch_size / 1e9:.2f} GFLOP an image; "
    print(
        f"Compiled {name} in {format_duration(seconds)}: {work}{format_bytes(cost.memory)} a device, of which"
        f" {format_bytes(cost.temporary)} temporary",
        flush=True,
    )
    return compiled
