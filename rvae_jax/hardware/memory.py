"""Whether a compiled step fits in a device's memory, and which batch fits.

JAX is imported where it is used: the preflight's own process must not start it.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rvae_jax.config import Config
from rvae_jax.errors import UserError, one_line
from rvae_jax.system.units import format_bytes

if TYPE_CHECKING:
    import jax

# The share of a device's memory that a step may rely on. The runtime needs some, the next batches wait there, and
# another compilation may come to a few percent more.
USABLE = 0.9

# Six halvings lead to a 64th of a batch; the other tries are for closing in.
_TRIES = 10
# The search ends within 3 % of the largest batch, since each try is a compilation.
_CLOSE = 1.03


def limit() -> int:
    """Bytes that a local device has for this program.

    GPUs and TPUs report how much of their memory JAX may use. For a CPU the limit is the machine's memory, divided by
    the number of devices that JAX makes of it. It includes memory that other programs use at the moment: a step above
    the limit cannot fit, and one below it may still not fit.
    """
    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return statistics.get("bytes_limit", machine // jax.local_device_count())


def compile_if_it_fits(
    lowered: jax.stages.Lowered, compiler_options: dict[str, str | float]
) -> tuple[jax.stages.Compiled | None, str]:
    """Compiles a program.

    Returns:
      The compiled program and an empty string; or, if the compiler finds no room, None and the compiler's message.
    """
    import jax

    try:
        return lowered.compile(compiler_options=compiler_options), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, one_line(error)


def require_room(
    config: Config, devices: int, needed: float, available: float, bytes_of: Callable[[int], float]
) -> None:
    """Refuses a batch that does not fit, and names the largest one that does; warns if it only just fits.

    Args:
      config: the configuration.
      devices: number of devices that share a batch.
      needed: bytes that the step needs on each device, or infinity if the compiler finds no room.
      available: bytes that each device has.
      bytes_of: the bytes that the step needs with another batch size; it compiles.

    Raises:
      UserError: ``needed`` is more than ``available``.
    """
    shortage = f"--config.batch_size={config.batch_size}: a step needs {_shortage(needed, available)}"
    if needed > available:
        print(f"{shortage}. Compiling smaller batches to find one that fits", flush=True)
        raise UserError(f"{shortage}; {_advice(config, devices, needed, available, bytes_of)}")
    if needed > USABLE * available:
        print(f"Warning: {shortage}; it may not fit")


def _shortage(needed: float, available: float) -> str:
    if math.isfinite(needed):
        return f"{format_bytes(needed)} per device, which has {format_bytes(available)}"
    return f"more than the {format_bytes(available)} that each device has"


def _advice(config: Config, devices: int, needed: float, available: float, bytes_of: Callable[[int], float]) -> str:
    """The largest batch that fits, and what makes the given one fit."""
    group = devices * config.accumulate_steps
    found = largest(lambda number: bytes_of(number * group), USABLE * available, {config.batch_size // group: needed})
    fits = 0 if found is None else found[0] * group
    if fits < 2:
        advice = "no smaller batch fits either"
    else:
        advice = f"expected at most {fits}, which needs {format_bytes(found[1])}"
    options = " or ".join(_options(config, devices, fits))
    return f"{advice}. Or keep the batch and try {options}" if options else advice


def _options(config: Config, devices: int, fits: int) -> list[str]:
    """Flags that save memory with the same batch, if ``fits`` images fit without them."""
    import jax

    options = []
    # On CPUs rematerialisation saves nothing: XLA computes the activations again long before the gradient needs them.
    if not config.remat_stages and jax.default_backend() != "cpu":
        options.append(f"--config.remat_stages={min(2, config.model.resolutions)}")
    if config.model.norm == "frozen":
        images = config.batch_size // devices
        part = fits // config.accumulate_steps
        parts = (k for k in range(2, images + 1) if images % k == 0 and config.batch_size <= k * part)
        options += [f"--config.accumulate_steps={k}" for k in itertools.islice(parts, 1)]
    return options


def on_line(one: tuple[int, float], other: tuple[int, float], available: float) -> int | None:
    """The largest number that fits, on the line through two points (number, bytes); None unless the line rises."""
    (fewer, less), (more, most) = sorted((one, other))
    if fewer == more or most <= less:
        return None
    return math.floor(fewer + (available - less) / ((most - less) / (more - fewer)))


def largest(bytes_of: Callable[[int], float], available: float, known: Mapping[int, float]) -> tuple[int, float] | None:
    """Finds the largest number of images (or groups of images) that fits, to 3 %, with few compilations.

    Bytes grow almost linearly with the number, so the next number to try is where the line through two known points
    meets ``available``.

    Args:
      bytes_of: the bytes of a number, or infinity if the compiler finds no room; it compiles.
      available: bytes that may be used.
      known: bytes of at least one number.

    Returns:
      The number and its bytes, or None if not even 1 fits.
    """
    found = dict(known)
    for _ in range(_TRIES):
        fitting = max((number for number, size in found.items() if size <= available), default=0)
        too_many = min((number for number, size in found.items() if size > available), default=math.inf)
        number = min(_next(found, fitting, too_many, available), too_many - 1)
        if number <= _CLOSE * fitting:
            break
        found[int(number)] = bytes_of(int(number))
    fitting = [number for number, size in found.items() if size <= available]
    return (max(fitting), found[max(fitting)]) if fitting else None


def _next(found: Mapping[int, float], fitting: int, too_many: float, available: float) -> float:
    """The number to try next, between the largest that fits (or 0) and the smallest that does not (or infinity)."""
    measured = sorted((number, size) for number, size in found.items() if math.isfinite(size))
    below, above = ([each for each in measured if (each[1] <= available) == fits] for fits in (True, False))
    nearest = (below[-1:] + above[:1]) if below and above else (below[-2:] or above[:2])
    line = on_line(*nearest, available) if len(nearest) == 2 else None
    if line is not None:
        return line
    return 2 * fitting if too_many == math.inf else (fitting + too_many) // 2
