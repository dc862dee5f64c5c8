"""Compiles the training step of a configuration for devices that may not be here, and counts what it needs.

Each compilation runs in a process of its own; this process never starts JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.hardware import accelerators, memory
from rvae_jax.hardware.speed import Work
from rvae_jax.planning import isolated
from rvae_jax.system.files import cache_folder, read_json, write_atomically

if TYPE_CHECKING:
    import jax

    from rvae_jax.distributed.sharding import DataParallel
    from rvae_jax.training.program import Program

# Full effort takes many times as long, for about the same FLOPs and a memory that differs by at most a tenth.
_TPU_OPTIONS = {"exec_time_optimization_effort": -1.0}
# Fields that change the compiled step.
_DECISIVE = ("model", "loss", "optimizer", "batch_size", "accumulate_steps", "remat_stages", "shard_optimizer")

# Calls a function in another process; as ``isolated.run``.
Runner = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler reports of a training step.

    Attributes:
      devices: number of devices, of all hosts.
      device_kind: JAX's name of them.
      images: images per device.
      fits: whether the compiler found room; if not, the fields below are empty, but for ``reason``.
      memory: bytes that a device needs.
      memory_limit: bytes that a device has; local devices only.
      flops: FLOPs per device and step; None if the compiler does not count them, as for GPUs.
      bytes_accessed: bytes of memory traffic per device and step; None if the compiler does not count them.
      collectives: the exchange per device and step: kind to number and bytes.
      step_seconds: measured seconds of a step; local devices only.
      peak_flops: measured FLOP/s of a large matrix product; local devices only.
      peak_bandwidth: measured bytes per second of a copy; local devices only.
      reason: why it does not fit.
    """

    devices: int
    device_kind: str
    images: int
    fits: bool = True
    memory: int = 0
    memory_limit: int = 0
    flops: float | None = 0.0
    bytes_accessed: float | None = 0.0
    collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    step_seconds: float | None = None
    peak_flops: float | None = None
    peak_bandwidth: float | None = None
    reason: str = ""

    @property
    def work(self) -> Work:
        """What a device does in a step."""
        reduced = sum(size for _, size in self.collectives.values())
        return Work(self.images, self.flops, self.bytes_accessed, reduced)


def count_local_devices(time_limit_s: float, run: Runner = isolated.run) -> int:
    """The number of devices that JAX finds here; asked in another process, since the one that asks keeps them."""
    return run(_count_devices, what="counting the local devices", time_limit_s=time_limit_s)


def compile_locally(
    config: Config, devices: int, *, measure: bool, time_limit_s: float, run: Runner = isolated.run
) -> CompiledStep:
    """Compiles for the local devices.

    Args:
      config: a valid configuration.
      devices: number of local devices.
      measure: whether to time some steps, and the devices' peaks.
      time_limit_s: seconds that this may take.
      run: how to call a function in another process; as ``isolated.run``.

    Raises:
      NotCompiledError: the compiler crashed or took too long.
      UserError: anything else went wrong.
    """
    fields = config_lib.to_dict(config)
    return run(_compile_locally, fields, measure, what=_share(config, devices), time_limit_s=time_limit_s)


def compile_for_topology(
    config: Config, topology: str, devices: int, *, time_limit_s: float, run: Runner = isolated.run
) -> CompiledStep:
    """Compiles for a topology such as ``v5e:4x4`` or ``h200``; results are cached.

    Args:
      config: a valid configuration.
      topology: as ``accelerators.of_topology`` takes it.
      devices: its number of chips.
      time_limit_s: seconds that this may take.
      run: how to call a function in another process; as ``isolated.run``.

    Raises:
      NotCompiledError: the compiler crashed or took too long.
      UserError: anything else went wrong.
    """
    fields = config_lib.to_dict(config)
    cache = _cache_file(fields, topology)
    with contextlib.suppress(OSError, UserError, ValueError, TypeError):  # missing or damaged: it is made anew
        return CompiledStep(**read_json(cache))
    with _unlimited_stack():
        step = run(_compile_for_topology, fields, topology, what=_share(config, devices), time_limit_s=time_limit_s)
    write_atomically(cache, json.dumps(dataclasses.asdict(step)).encode())
    return step


def _share(config: Config, devices: int) -> str:
    return f"{config.batch_size // devices} images per device"


def _cache_file(fields: dict[str, Any], topology: str) -> Path:
    from rvae_jax.distributed import processes

    decisive = {name: fields[name] for name in _DECISIVE} | {"topology": topology, "versions": processes.versions()}
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder("preflight") / f"{key}.json"


@contextlib.contextmanager
def _unlimited_stack() -> Iterator[None]:
    """Gives processes that are started in this context the largest stack that the system allows."""
    # Otherwise libtpu 0.0.42 crashed in some compilations for v6e, for an unknown reason.
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)


# The functions below run in the other process.


def _count_devices() -> int:
    import jax

    return jax.device_count()


def _compile_for_topology(fields: dict[str, Any], topology: str) -> CompiledStep:
    # JAX neither looks for a TPU or GPU nor claims one, so any number of these processes may run side by side.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hides the compiler's warnings that there is no such device
    from jax.experimental import topologies

    from rvae_jax.distributed import sharding

    config = config_lib.from_dict(fields)
    accelerator, count = accelerators.of_topology(topology)
    if accelerator.gpu is None:
        description, options = topologies.get_topology_desc(topology, platform="tpu"), _TPU_OPTIONS
    else:
        one_machine = {"topology": f"1x1x{count}", "target_config": accelerator.target_config}
        description, options = topologies.get_topology_desc(accelerator.kind, platform="cuda", **one_machine), {}
    layout = sharding.data_parallel(shard_optimizer=config.shard_optimizer, devices=description.devices)
    return _compile(config, layout, options)[0]


def _compile_locally(fields: dict[str, Any], measure: bool) -> CompiledStep:
    from rvae_jax.distributed import sharding
    from rvae_jax.planning import measurement

    config = config_lib.from_dict(fields)
    layout = sharding.data_parallel(config.parallel, shard_optimizer=config.shard_optimizer)
    step, compiled, program = _compile(config, layout, {})
    step = dataclasses.replace(step, memory_limit=memory.limit())
    if compiled is None or not measure:
        return step
    seconds = measurement.measure_step(config, layout, compiled, program)
    flops, bandwidth = measurement.measure_peaks(config.model.dtype)
    return dataclasses.replace(step, step_seconds=seconds, peak_flops=flops, peak_bandwidth=bandwidth)


def _compile(
    config: Config, layout: DataParallel, options: dict[str, Any]
) -> tuple[CompiledStep, jax.stages.Compiled | None, Program]:
    import jax

    from rvae_jax.hardware.cost import cost_of
    from rvae_jax.training.program import batch_shape, make_program

    program = make_program(config, layout.axis_name)
    devices = list(layout.mesh.devices)
    images = config.batch_size // len(devices)
    state = layout.with_shardings(program.state_shapes())
    batch = batch_shape(config)
    if layout.style == "pmap":
        batch = jax.ShapeDtypeStruct((len(devices), images, *batch.shape[1:]), batch.dtype)
    constants = program.constants(jax.eval_shape(lambda: jax.random.key(0)))
    lowered = layout.lower(program.train_step, state, batch, *constants)
    compiled, reason = memory.compile_if_it_fits(lowered, layout.compiler_options | options)
    step = CompiledStep(len(devices), devices[0].device_kind, images, fits=compiled is not None, reason=reason)
    if compiled is None:
        return step, None, program
    cost = cost_of(compiled, loop_steps=config.accumulate_steps)
    step = dataclasses.replace(
        step,
        memory=cost.memory,
        flops=cost.flops,
        bytes_accessed=cost.bytes_accessed,
        collectives=_exchange(compiled.as_text(), config.accumulate_steps),
    )
    return step, compiled, program


def _exchange(text: str, accumulate_steps: int) -> dict[str, tuple[int, int]]:
    """Number and bytes of a program's collectives, by kind."""
    from rvae_jax.hardware.cost import collectives

    found: dict[str, tuple[int, int]] = {}
    for each in collectives(text):
        times = accumulate_steps if each.in_loop else 1
        count, size = found.get(each.kind, (0, 0))
        found[each.kind] = count + times, size + times * each.bytes
    return found
