"""Compiles a run's training step, and refuses a batch for which a device has no room."""

from __future__ import annotations

import math
import time

import jax
import numpy as np

from rvae_jax.distributed import processes
from rvae_jax.hardware import memory
from rvae_jax.hardware.cost import cost_of
from rvae_jax.system.units import format_bytes, format_duration
from rvae_jax.training.run import Run
from rvae_jax.training.state import TrainState


def compile_step(run: Run, state: TrainState) -> jax.stages.Compiled:
    """The step ``(state, batch, key, *frozen) -> (state, metrics)`` for this run's batches; it donates its state.

    Raises:
      UserError: there is no room for it; the message names a batch size that fits.
    """
    config, layout = run.config, run.layout

    def compile_for(batch_size: int) -> tuple[jax.stages.Compiled | None, str]:
        part = np.zeros((batch_size // jax.process_count(), *config.model.image_shape), np.uint8)
        (batch,) = layout.to_devices([part])
        lowered = layout.lower(run.program.train_step, state, batch, run.step_key, *run.frozen)
        return memory.compile_if_it_fits(lowered, layout.compiler_options)

    def bytes_of(compiled: jax.stages.Compiled | None) -> float:
        # Of all processes, since they compile together and so must come to the same decisions.
        return max(processes.exchange(math.inf if compiled is None else cost_of(compiled).memory))

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
        f"Compiled the step in {format_duration(seconds)}: {work}{format_bytes(cost.memory)} a device, of which"
        f" {format_bytes(cost.temporary)} temporary",
        flush=True,
    )
    return compiled
