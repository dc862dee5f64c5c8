"""What a configuration needs of hardware that may not be here; ``rvae_jax.preflight`` is the command."""

from __future__ import annotations

import dataclasses

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.hardware import accelerators
from rvae_jax.planning import compilation, isolated, lines, target
from rvae_jax.planning.compilation import CompiledStep, Runner
from rvae_jax.planning.target import Target


def preflight(
    config: Config, topology: str | None = None, time_limit_s: float = 1200.0, run: Runner = isolated.run
) -> str:
    """Compiles the training step with the given batch and a larger one, and reports what the compiler found.

    Args:
      config: the configuration.
      topology: a TPU slice such as ``v5e:4x4``, GPUs of one machine such as ``h200:8``, or None for the local devices.
      time_limit_s: seconds that one compilation may take.
      run: how to call a function in another process; as ``isolated.run``.

    Raises:
      UserError: the configuration or topology is wrong, the compiler is not installed, or it takes too long.
    """
    if topology is None:
        chosen = Target(compilation.count_local_devices(time_limit_s, run))
    else:
        chosen = target.of_topology(topology, shard_optimizer=config.shard_optimizer)
        target.require_compiler(chosen.accelerator)
        if config.parallel != "jit":
            raise UserError(f"--config.parallel={config.parallel}: expected jit with --topology; the work is the same")
    config_lib.validate(config, chosen.devices)
    images = config.batch_size // chosen.devices
    small = -(-images // target.GROUP) * target.GROUP if chosen.is_tpu else images
    found = {images: _compile_with(config, chosen, images, time_limit_s, run, measure=True)}
    for each in sorted({small, 2 * small} - {images}):
        try:
            found[each] = _compile_with(config, chosen, each, time_limit_s, run, measure=False)
        except isolated.NotCompiledError as error:
            found[each] = CompiledStep(chosen.devices, "", each, fits=False, reason=str(error))
    return "\n".join(lines.report(config, chosen, found[images], found[small], found[2 * small]))


def _compile_with(
    config: Config, chosen: Target, images: int, time_limit_s: float, run: Runner, *, measure: bool
) -> CompiledStep:
    """Compiles with this number of images per device."""
    if chosen.reference is None:
        config = dataclasses.replace(config, batch_size=images * chosen.devices)
        return compilation.compile_locally(config, chosen.devices, measure=measure, time_limit_s=time_limit_s, run=run)
    _, chips = accelerators.of_topology(chosen.reference)
    config = dataclasses.replace(config, batch_size=images * chips)
    step = compilation.compile_for_topology(config, chosen.reference, chips, time_limit_s=time_limit_s, run=run)
    return dataclasses.replace(step, devices=chosen.devices)
