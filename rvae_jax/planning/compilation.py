"""Compiles a configuration's training step for devices that may not be here, and says what the compiler found.

Each compilation has a process of its own, so that it can be ended, and takes its memory along when it goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.hardware import accelerators, memory
from rvae_jax.system.units import format_bytes, format_duration

# At full effort compiling takes many times as long, for about the same FLOPs and up to a tenth more or less memory.
_TPU_OPTIONS = {"exec_time_optimization_effort": -1.0}
_REPORT_EVERY_S = 20.0
_TIMED_SECONDS = 3.0


class NotCompiledError(UserError):
    """The compiler crashed, or took too long: of its program nothing is known."""


@dataclasses.dataclass
class Compiled:
    """One compilation.

    Attributes:
      devices: how many, of all hosts.
      device_kind: what JAX calls them.
      images: of the batch, on one device.
      fits: whether the compiler found room; all that follows is 0 if not.
      memory: bytes that a device needs.
      memory_limit: bytes that it has; of local devices.
      flops: of one device and step; None where the compiler does not count them, as for GPUs.
      bytes_accessed: of one device and step; None, too.
      collectives: of one device and step: kind to how many and how many bytes.
      step_seconds: measured, with local devices only.
      peak_flops: of a large matrix product, measured, with local devices only.
      peak_bandwidth: of a copy, measured, with local devices only.
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
    def work(self) -> accelerators.Work:
        """What a device does in a step."""
        reduced = sum(size for _, size in self.collectives.values())
        return accelerators.Work(self.images, self.flops, self.bytes_accessed, reduced)


def count_local_devices(time_limit_s: float) -> int:
    """How many devices JAX finds here; asked in another process, since one that has asked keeps them."""
    return _isolated(_count_devices, (), time_limit_s, "counting the local devices")


def compile_locally(config: Config, devices: int, *, measure: bool, time_limit_s: float) -> Compiled:
    """Compiles for the devices that are here; measures some steps, and the devices' peaks, if asked to.

    Raises:
      NotCompiledError: the compiler crashed, or took too long.
      UserError: anything else went wrong.
    """
    arguments = (config_lib.to_dict(config), measure)
    return _isolated(_compile_locally, arguments, time_limit_s, f"{config.batch_size // devices} images on each")


def compile_for_topology(config: Config, topology: str, devices: int, *, time_limit_s: float) -> Compiled:
    """Compiles for a topology such as ``v5e:4x4`` or ``h200``, or finds what it found the last time.

    Raises:
      NotCompiledError: the compiler crashed, or took too long.
      UserError: anything else went wrong.
    """
    fields = config_lib.to_dict(config)
    cache = _cache_file(fields, topology)
    if cache.exists():
        return Compiled(**json.loads(cache.read_text()))
    what = f"{config.batch_size // devices} images on each"
    with _unlimited_stack():
        result = _isolated(_compile_for_topology, (fields, topology), time_limit_s, what)
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(dataclasses.asdict(result)))
    part.replace(cache)
    return result


def _cache_file(fields: dict[str, Any], topology: str) -> pathlib.Path:
    from rvae_jax.distributed import processes

    names = ("model", "loss", "optimizer", "batch_size", "accumulate_steps", "remat_stages", "shard_optimizer")
    decisive = {name: fields[name] for name in names} | {"topology": topology, "versions": processes.versions()}
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:24]
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rvae_jax" / "preflight"
    return folder / f"{key}.json"


def _isolated(function: Any, arguments: tuple[Any, ...], time_limit_s: float, what: str) -> Any:
    """Calls a function in a fresh process, which may take its time, and its memory along when it goes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    began = time.monotonic()
    try:
        while not ours.poll(_REPORT_EVERY_S):
            elapsed = time.monotonic() - began
            if elapsed > time_limit_s:
                raise NotCompiledError(
                    f"{what}: not compiled within {format_duration(time_limit_s)}; give more by --time_limit_s, or try"
                    " a variant with fewer layers first, such as --config=FILE:tiny"
                )
            print(f"compiling, {what}: {format_duration(elapsed)}, {_memory_of(process.pid)}", file=sys.stderr)
        answer, problem = ours.recv()
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
    return answer


def _memory_of(pid: int) -> str:
    status = pathlib.Path(f"/proc/{pid}/statm")
    pages = int(status.read_text().split()[1]) if status.exists() else 0
    return f"{format_bytes(pages * os.sysconf('SC_PAGE_SIZE'))} of memory"


@contextlib.contextmanager
def _unlimited_stack() -> Iterator[None]:
    """For processes that start meanwhile, as far as the system allows."""
    # Without, libtpu 0.0.42 crashed in some compilations for v6e; why is not known.
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)


def _answer(pipe: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((function(*arguments), None))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"))


def _count_devices() -> int:
    import jax

    return jax.device_count()


def _compile_for_topology(fields: dict[str, Any], topology: str) -> Compiled:
    # No TPU or GPU is looked for, and none is claimed: any number of these may run side by side.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the compiler's warnings of the device that is not there
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


def _compile_locally(fields: dict[str, Any], measure: bool) -> Compiled:
    from rvae_jax.distributed import sharding

    config = config_lib.from_dict(fields)
    layout = sharding.data_parallel(config.parallel, shard_optimizer=config.shard_optimizer)
    found, compiled, program = _compile(config, layout, {})
    found.memory_limit = memory.limit()
    if compiled is not None and measure:
        found.step_seconds = _measure_step(config, layout, compiled, program)
        found.peak_flops, found.peak_bandwidth = measure_peaks(config.model.dtype)
    return found


def _compile(config: Config, layout: Any, options: dict[str, Any]) -> tuple[Compiled, Any, Any]:
    import jax

    from rvae_jax.hardware import cost
    from rvae_jax.training.program import batch_shape, make_program

    program = make_program(config, layout.axis_name)
    devices = list(layout.mesh.devices)
    found = Compiled(len(devices), devices[0].device_kind, config.batch_size // len(devices))
    state = layout.with_shardings(program.state_shapes())
    batch = batch_shape(config)
    if layout.style == "pmap":
        batch = jax.ShapeDtypeStruct((len(devices), found.images, *batch.shape[1:]), batch.dtype)
    lowered = layout.lower(program.train_step, state, batch, jax.eval_shape(lambda: jax.random.key(0)))
    compiled, found.reason = memory.compile_step(lowered, layout.compiler_options | options)
    if compiled is None:
        found.fits = False
        return found, None, program
    cost = cost.cost_of(compiled, loop_steps=config.accumulate_steps)
    found.memory, found.flops, found.bytes_accessed = cost.memory, cost.flops, cost.bytes_accessed
    for each in cost.collectives(compiled.as_text()):
        times = config.accumulate_steps if each.in_loop else 1
        count, size = found.collectives.get(each.kind, (0, 0))
        found.collectives[each.kind] = count + times, size + times * each.bytes
    return found, compiled, program


def _measure_step(config: Config, layout: Any, compiled: Any, program: Any) -> float:
    """Seconds of a step, the least of several."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = program.state_shapes()
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    # Weights of the right size stand in for the first ones, whose program takes as long to compile as the step's.
    for player in (state.vae, state.discriminator):
        for leaf in jax.tree.leaves(player and player.params):
            leaf[...] = rng.normal(0, 0.05, leaf.shape)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, layout.with_shardings(shapes))
    state = jax.tree.map(jax.device_put, state, shardings)
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=layout.replicated)()
    images = rng.integers(0, 256, (config.batch_size, *config.model.image_shape), np.uint8)
    (batch,) = layout.to_devices([images])
    seconds = []
    while len(seconds) < 3 or sum(seconds) < _TIMED_SECONDS:
        began = time.monotonic()
        state, _ = jax.block_until_ready(compiled(state, batch, key))
        seconds.append(time.monotonic() - began)
    return min(seconds[1:])


def measure_peaks(dtype: str) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes a second of a copy, on one device."""
    import jax
    import jax.numpy as jnp

    device = jax.local_devices()[0]
    size = 2048 if device.platform == "cpu" else 8192
    # Of random numbers: a GPU multiplies ones faster than data, by a fifth on an H200.
    matrix = jax.device_put(jax.random.normal(jax.random.key(0), (size, size), dtype), device)
    product = jax.jit(lambda matrix: jnp.matmul(matrix, matrix))
    vector = jax.device_put(jnp.ones(2**26, jnp.float32), device)
    # In place, since fresh memory would have to be found each time.
    copy = jax.jit(lambda vector: vector + 1, donate_argnums=0)
    return 2 * size**3 / _least_seconds(product, matrix), 2 * vector.nbytes / _least_seconds(copy, vector)


def _least_seconds(function: Any, array: Any) -> float:
    """Time of the quickest of ten calls; one that uses up its argument is given its last result."""
    import jax

    seconds = []
    for _ in range(11):
        began = time.monotonic()
        result = jax.block_until_ready(function(array))
        seconds.append(time.monotonic() - began)
        array = result if array.is_deleted() else array
    return min(seconds[1:])
