"""Whether a compiled step has room on a device, and for which batch there is room.

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

# What a step may take of a device's memory if it is to be relied on. The runtime keeps some for itself, the next
# batches wait there, and another compilation may come to a few percent more.
USABLE = 0.9

# Halving six times goes from a batch to a 64th of it; the others are for closing in.
_TRIES = 10
_CLOSE = 1.03


def limit() -> int:
    """Bytes that a local device has for this program.

    What JAX may use of its memory, where a device says so, as GPUs and TPUs do. A CPU does not: for it this is the
    machine's memory, shared by the devices that JAX makes of it. It is all of it, not what others leave at the moment,
    since they may be gone in the next one; so what is above this limit cannot fit, and what is below it may not.
    """
    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return statistics.get("bytes_limit", machine // jax.local_device_count())


def compile_step(
    lowered: jax.stages.Lowered, compiler_options: dict[str, str | float]
) -> tuple[jax.stages.Compiled | None, str]:
    """Compiles; where the compiler itself finds no room, None and what it said, in one line."""
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
    """Refuses a batch for which a step has no room, and says which batch has; warns where it is close.

    Args:
      config: the configuration.
      devices: that share a batch.
      needed: bytes of each device that the step needs, or infinity where the compiler found no room.
      available: bytes that each has.
      bytes_of: what the step needs with another batch; it compiles.

    Raises:
      UserError: ``needed`` is more than ``available``.
    """
    field = f"--config.batch_size={config.batch_size}"
    if math.isfinite(needed):
        shortage = f"a step needs {format_bytes(needed)} of each device, and there are {format_bytes(available)}"
    else:
        shortage = f"a step needs more than the {format_bytes(available)} of each device"
    if needed <= available:
        if needed > USABLE * available:
            print(f"Warning: {field}: {shortage}; it may not fit")
        return
    print(f"{field}: {shortage}. Compiling smaller batches, to see which fit", flush=True)
    group = devices * config.accumulate_steps
    found = largest(lambda number: bytes_of(number * group), USABLE * available, {config.batch_size // group: needed})
    fits = 0 if found is None else found[0] * group
    if fits < 2:
        expected = "no smaller one fits either"
    else:
        expected = f"expected at most {fits}, which needs {format_bytes(found[1])}"
    instead = _instead(config, devices, fits)
    raise UserError(f"{field}: {shortage}; {expected}{f'. Or try it with {instead}' if instead else ''}")


def _instead(config: Config, devices: int, fits: int) -> str:
    """What needs less memory for the same batch, of which ``fits`` images fit as it is."""
    import jax

    options = []
    # XLA's CPU backend computes all of it again before the gradient needs it, which saves nothing.
    if not config.remat_stages and jax.default_backend() != "cpu":
        options.append(f"--config.remat_stages={min(2, len(config.model.encoder_filters) - 1)}")
    if config.model.norm == "frozen":
        images = config.batch_size // devices
        part = fits // config.accumulate_steps
        parts = (k for k in range(2, images + 1) if images % k == 0 and config.batch_size <= k * part)
        options += [f"--config.accumulate_steps={k}" for k in itertools.islice(parts, 1)]
    return " or ".join(options)


def on_line(one: tuple[int, float], other: tuple[int, float], available: float) -> int | None:
    """The largest number that fits by the line through two of them, each with its bytes; None if no line rises."""
    (fewer, less), (more, most) = sorted((one, other))
    if fewer == more or most <= less:
        return None
    return math.floor(fewer + (available - less) / ((most - less) / (more - fewer)))


def largest(bytes_of: Callable[[int], float], available: float, known: Mapping[int, float]) -> tuple[int, float] | None:
    """The largest number (of images, or of groups of them) that fits, by few calls of ``bytes_of``, which compiles.

    Bytes are close to a line, on which the next number to try lies. It ends when that line offers no more than 3 %
    above what was found to fit, which is not worth a compilation.

    Args:
      bytes_of: a number's bytes, or infinity where the compiler found no room.
      available: bytes that there are.
      known: numbers with their bytes, at least one.

    Returns:
      The number and its bytes, or None where none was found, down to 1.
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
    """The number to try between one that fits, or 0, and one that does not, or infinity."""
    measured = sorted((number, size) for number, size in found.items() if math.isfinite(size))
    below, above = ([each for each in measured if (each[1] <= available) == fits] for fits in (True, False))
    nearest = (below[-1:] + above[:1]) if below and above else (below[-2:] or above[:2])
    line = on_line(*nearest, available) if len(nearest) == 2 else None
    if line is not None:
        return line
    return 2 * fitting if too_many == math.inf else (fitting + too_many) // 2
