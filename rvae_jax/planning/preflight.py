"""What a configuration needs of hardware that may not be here; ``rvae_jax.preflight`` is the command."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import math

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.hardware import accelerators, memory
from rvae_jax.planning import compilation
from rvae_jax.planning.compilation import Compiled
from rvae_jax.system.units import format_bytes

# TPUs lay out a batch in groups of 8; one that 8 does not divide takes more time and memory than the next that it does.
_GROUP = 8
# The slices of 16 chips that stand for larger ones, by how many "x" there are in their shape.
_REFERENCE = {1: "4x4", 2: "2x2x4"}


def preflight(config: Config, topology: str | None = None, time_limit_s: float = 1200.0) -> str:
    """Compiles a configuration's step at two sizes of the batch, and says what they tell.

    Args:
      config: the configuration.
      topology: a TPU slice, ``v5e:4x4``, GPUs of one machine, ``h200:8``, or None for the local devices.
      time_limit_s: of one compilation.

    Raises:
      UserError: the configuration or the topology is wrong, what is needed is not installed, or it takes too long.
    """
    if topology is None:
        devices = compilation.count_local_devices(time_limit_s)
    else:
        accelerator, devices = accelerators.of_topology(topology)
        require_compiler(accelerator)
        if config.parallel != "jit":
            raise UserError(f"--config.parallel={config.parallel}: expected jit with --topology; the work is the same")
    config_lib.validate(config, devices)
    images = config.batch_size // devices
    small = images if topology is None or accelerator.gpu else -(-images // _GROUP) * _GROUP
    found = {}
    for each in dict.fromkeys((images, small, 2 * small)):
        try:
            found[each] = _compiled(config, topology, each, devices, measure=each == images, time_limit_s=time_limit_s)
        except compilation.NotCompiledError as error:
            if each == images:
                raise
            found[each] = Compiled(devices, "", each, fits=False, reason=str(error))
    return "\n".join(_report(config, topology, found[images], found[small], found[2 * small]))


def require_compiler(accelerator: accelerators.Accelerator) -> None:
    """Finds the compiler of a device that is not here.

    Raises:
      UserError: it is not installed.
    """
    if accelerator.gpu is None:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("--topology: needs the TPU's compiler, also without a TPU; pip install 'rvae_jax[tpu]'")
    elif not any("cuda" in plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")):
        raise UserError("--topology: needs JAX's CUDA plugin, also without a GPU; pip install 'rvae_jax[cuda]'")


def _stand_in(config: Config, topology: str) -> str:
    """The slice that is compiled for: each chip's program is the same on it."""
    generation, _, shape = topology.partition(":")
    # Not if the optimizer's state is split over the chips.
    is_large = accelerators.of_topology(topology)[1] > 16 and not config.shard_optimizer
    return f"{generation}:{_REFERENCE[shape.count('x')]}" if is_large else topology


def _compiled(
    config: Config, topology: str | None, images: int, devices: int, *, measure: bool, time_limit_s: float
) -> Compiled:
    if topology is None:
        config = dataclasses.replace(config, batch_size=images * devices)
        return compilation.compile_locally(config, devices, measure=measure, time_limit_s=time_limit_s)
    stand_in = _stand_in(config, topology)
    _, chips = accelerators.of_topology(stand_in)
    config = dataclasses.replace(config, batch_size=images * chips)
    found = compilation.compile_for_topology(config, stand_in, chips, time_limit_s=time_limit_s)
    return dataclasses.replace(found, devices=devices)


def _report(config: Config, topology: str | None, first: Compiled, small: Compiled, large: Compiled) -> list[str]:
    if topology is None:
        accelerator = accelerators.of_kind(first.device_kind)
        limit, usable = first.memory_limit, memory.USABLE
    else:
        accelerator, _ = accelerators.of_topology(topology)
        limit, usable = accelerator.memory, accelerator.usable
    name = accelerator.name if accelerator else first.device_kind
    lines = [
        f"{first.devices} x {name}{f' ({topology})' if topology else ''}, a batch of {config.batch_size}:"
        f" {first.images} images on each, {config.model.dtype}"
    ]
    if topology and _stand_in(config, topology) != topology:
        lines.append(f"computed   from the program for {_stand_in(config, topology)}, which is the same on each chip")
    if not first.fits:
        lines.append(f"memory     does not fit: {first.reason}")
    else:
        fits = "fits" if first.memory <= usable * limit else "does not fit"
        share = ""
        if topology and accelerator.gpu:
            share = f", of which JAX takes {usable:.0%} unless XLA_PYTHON_CLIENT_MEM_FRACTION is set"
        lines.append(f"memory     {format_bytes(first.memory)} of {format_bytes(limit)}{share}: {fits}")
    largest = _largest(small, large, usable * limit)
    if largest is not None:
        lines.append(
            f"largest    {largest:,} images on each should fit, a batch of {largest * first.devices:,}: not tried, but"
            f" by a line through {format_bytes(small.memory)} at {small.images} and {format_bytes(large.memory)} at"
            f" {large.images}"
        )
    elif first.fits and not (small.fits and large.fits):
        failed = large if small.fits else small
        lines.append(f"largest    not known, since {failed.images} images on each gave: {failed.reason}")
    if not first.fits:
        return lines
    if first.flops is not None:
        lines.append(
            f"work       {first.flops / 1e9:,.1f} GFLOP and {format_bytes(first.bytes_accessed)} of memory traffic a"
            f" step on each; {first.flops / first.images / 1e9:,.1f} GFLOP an image"
        )
    sent = ", ".join(f"{count} {kind} of {format_bytes(size)}" for kind, (count, size) in first.collectives.items())
    lines.append(f"exchange   {sent or 'nothing between devices'} a step")
    if first.flops is None:
        lines.append("work       not known: this compiler does not count it")
    if first.flops is not None or first.step_seconds is not None:
        lines += _speed(config, accelerator, first)
    if small.images != first.images and small.fits:
        lines.append(
            f"advice     {first.images} images on each is no multiple of {_GROUP}: {small.images} take"
            f" {format_bytes(small.memory)} and {format_bytes(small.bytes_accessed)} of traffic"
        )
    return lines


def _largest(small: Compiled, large: Compiled, available: float) -> int | None:
    """The largest number of images that should fit, by a line through two compilations."""
    if not (small.fits and large.fits):
        return None
    most = memory.on_line((small.images, small.memory), (large.images, large.memory), available)
    group = min(small.images, _GROUP)
    return None if most is None else max(0, most // group * group)


def _speed(config: Config, accelerator: accelerators.Accelerator | None, first: Compiled) -> list[str]:
    lines = []
    if first.step_seconds is not None:
        measured = first.images * first.devices / first.step_seconds
        lines.append(f"speed      {_rate(measured)} images/s, measured, without input")
        if first.devices == 1 and first.flops is not None:
            figures = {"flops": first.peak_flops, "bandwidth": first.peak_bandwidth, "link": 1.0}
            low, high = accelerators.predict(first.work, 1, **figures)
            lines.append(
                f"back-test  {_rate(low)} to {_rate(high)} would have been predicted from {first.peak_flops / 1e9:,.0f}"
                f" GFLOP/s of a matrix product and {format_bytes(first.peak_bandwidth)}/s of a copy:"
                f" off by a factor of {accelerators.factor_off((low, high), measured):.1f}"
            )
        return lines
    peaks = {"flops": accelerator.flops[config.model.dtype], "bandwidth": accelerator.bandwidth}
    low, high = accelerators.predict(first.work, first.devices, link=accelerator.link, **peaks)
    tests = [(each, accelerators.factor_off(each.predicted, each.images_per_second)) for each in accelerators.MEASURED]
    worst = max((off for _, off in tests), default=math.inf)
    if worst <= 2:
        lines.append(f"speed      {_rate(low)} to {_rate(high)} images/s predicted, without input")
    else:
        lines.append(
            f"speed      unknown, at most {_rate(high)} images/s: where it could be tested, the prediction was off by"
            f" a factor of {worst:.1f}"
        )
    lines.append(
        f"           {'' if worst > 2 else 'one after the other at half of their peak, '}all at their peak at once:"
        f" {accelerator.flops[config.model.dtype] / 1e12:,.0f} TFLOP/s, memory at"
        f" {accelerator.bandwidth / 1e9:,.0f} GB/s, links of {accelerator.link / 1e9:,.0f} GB/s ({accelerator.source})"
    )
    if first.devices > 1:
        efficiency = accelerators.efficiency(first.work, first.devices, link=accelerator.link, **peaks)
        lines.append(
            f"efficiency at least {efficiency:.1%} of {first.devices} single chips, if work is at its peak and the"
            " exchange waits for all of it"
        )
    for each, off in tests:
        low, high = each.predicted
        lines.append(
            f"back-test  {each.machine}, {each.what}: {_rate(low)} to {_rate(high)} predicted,"
            f" {_rate(each.images_per_second)} measured, off by a factor of {off:.1f}"
        )
    return lines


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
