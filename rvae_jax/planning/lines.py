"""The lines that the preflight prints."""

from __future__ import annotations

from collections.abc import Iterator

from rvae_jax.config import Config
from rvae_jax.hardware import accelerators, memory, speed
from rvae_jax.hardware.accelerators import Accelerator
from rvae_jax.planning.compilation import CompiledStep
from rvae_jax.planning.target import GROUP, Target
from rvae_jax.system.units import format_bytes


def report(
    config: Config, target: Target, first: CompiledStep, small: CompiledStep, large: CompiledStep
) -> Iterator[str]:
    """The lines of a preflight.

    Args:
      config: the configuration.
      target: what it was compiled for.
      first: the step with the configuration's batch.
      small: the step with the least batch from there on that suits the devices; often ``first``.
      large: the step with twice the batch of ``small``.
    """
    limit = target.accelerator.memory if target.accelerator else first.memory_limit
    yield _title(config, target, first)
    if target.reference != target.topology:
        yield f"computed   from the program for {target.reference}, which is the same on each chip"
    yield _memory(target, first, limit)
    yield from _largest(first, small, large, target.usable * limit)
    if not first.fits:
        return
    yield _work(first)
    sent = ", ".join(f"{count} {kind} of {format_bytes(size)}" for kind, (count, size) in first.collectives.items())
    yield f"exchange   {sent or 'nothing between devices'} per step"
    if first.step_seconds is not None:
        yield from _measured_speed(first)
    elif first.flops is not None:
        yield from _predicted_speed(config.model.dtype, target.accelerator, first)
    if small.images != first.images and small.fits:
        yield (
            f"advice     {first.images} images per device is no multiple of {GROUP}: {small.images} images take"
            f" {format_bytes(small.memory)}, and {format_bytes(small.bytes_accessed)} of memory traffic"
        )


def _title(config: Config, target: Target, first: CompiledStep) -> str:
    accelerator = target.accelerator or accelerators.of_kind(first.device_kind)
    name = accelerator.name if accelerator else first.device_kind
    topology = f" ({target.topology})" if target.topology else ""
    return (
        f"{first.devices} x {name}{topology}, a batch of {config.batch_size}:"
        f" {first.images} images per device, {config.model.dtype}"
    )


def _memory(target: Target, first: CompiledStep, limit: float) -> str:
    if not first.fits:
        return f"memory     does not fit: {first.reason}"
    share = ""
    if target.accelerator and target.accelerator.gpu:
        share = f", of which JAX takes {target.usable:.0%} unless XLA_PYTHON_CLIENT_MEM_FRACTION is set"
    fits = "fits" if first.memory <= target.usable * limit else "does not fit"
    return f"memory     {format_bytes(first.memory)} of {format_bytes(limit)}{share}: {fits}"


def _largest(first: CompiledStep, small: CompiledStep, large: CompiledStep, available: float) -> Iterator[str]:
    """The largest number of images that should fit, on the line through two compilations."""
    if small.fits and large.fits:
        most = memory.on_line((small.images, small.memory), (large.images, large.memory), available)
        if most is not None:
            group = min(small.images, GROUP)
            images = max(0, most // group * group)
            yield (
                f"largest    {images:,} images per device should fit, a batch of {images * first.devices:,}:"
                f" extrapolated from {format_bytes(small.memory)} at {small.images} and {format_bytes(large.memory)} at"
                f" {large.images}, not tried"
            )
    elif first.fits:
        failed = large if small.fits else small
        yield f"largest    unknown, since {failed.images} images per device gave: {failed.reason}"


def _work(first: CompiledStep) -> str:
    if first.flops is None:
        return "work       unknown: this compiler does not count it"
    return (
        f"work       {first.flops / 1e9:,.1f} GFLOP and {format_bytes(first.bytes_accessed)} of memory traffic"
        f" per device and step; {first.flops / first.images / 1e9:,.1f} GFLOP per image"
    )


def _measured_speed(first: CompiledStep) -> Iterator[str]:
    measured = first.images * first.devices / first.step_seconds
    yield f"speed      {_rate(measured)} images/s, measured, without input"
    if first.devices == 1 and first.flops is not None:
        predicted = speed.predict(first.work, 1, flops=first.peak_flops, bandwidth=first.peak_bandwidth)
        yield (
            f"back-test  {_rate(predicted[0])} to {_rate(predicted[1])} would have been predicted from"
            f" {first.peak_flops / 1e9:,.0f} GFLOP/s of a matrix product and {format_bytes(first.peak_bandwidth)}/s of"
            f" a copy: off by a factor of {speed.factor_off(predicted, measured):.1f}"
        )


def _predicted_speed(dtype: str, accelerator: Accelerator, first: CompiledStep) -> Iterator[str]:
    peaks = {"flops": accelerator.flops[dtype], "bandwidth": accelerator.bandwidth, "link": accelerator.link}
    low, high = speed.predict(first.work, first.devices, **peaks)
    yield f"speed      {_rate(low)} to {_rate(high)} images/s predicted, without input"
    yield (
        "           from work, memory traffic and exchange one after the other at half their peaks, to all at once at"
        f" their peaks: {peaks['flops'] / 1e12:,.0f} TFLOP/s, memory at {peaks['bandwidth'] / 1e9:,.0f} GB/s, links at"
        f" {peaks['link'] / 1e9:,.0f} GB/s ({accelerator.source})"
    )
    if first.devices > 1:
        efficiency = speed.efficiency(first.work, first.devices, **peaks)
        yield (
            f"efficiency at least {efficiency:.1%} of {first.devices} single chips: with the work at its peak, and the"
            " exchange after all of it"
        )
    for each in speed.MEASURED:
        low, high = each.predicted
        yield (
            f"back-test  {each.machine}, {each.step}: {_rate(low)} to {_rate(high)} predicted,"
            f" {_rate(each.images_per_second)} measured, off by a factor of"
            f" {speed.factor_off(each.predicted, each.images_per_second):.1f}"
        )


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
