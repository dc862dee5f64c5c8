"""What a run consists of, the same from its first step to its last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from rvae_jax.config import Config, in_steps
from rvae_jax.data.records import Images
from rvae_jax.distributed.sharding import DataParallel, data_parallel
from rvae_jax.training.program import Program, make_program


@dataclasses.dataclass(frozen=True)
class Run:
    """One process's part of a run.

    Attributes:
      config: the configuration, with its schedules in steps.
      workdir: the run's folder.
      sources: the images, by ``train``, ``selection`` and ``validation``.
      layout: how the batch and the state lie on the devices.
      program: what the configuration computes.
      init_key: random key of the first state.
      constants: what the step takes besides the state and a batch; see ``Program.constants``.
      picture_key: random key of the samples that pictures show.
    """

    config: Config
    workdir: epath.Path
    sources: dict[str, Images]
    layout: DataParallel
    program: Program
    init_key: jax.Array
    constants: tuple[Any, ...]
    picture_key: jax.Array


def make_run(
    config: Config, workdir: epath.Path, sources: dict[str, Images], devices: Sequence[jax.Device] | None = None
) -> Run:
    """Makes a run on ``devices``, those of all processes; by default on all that there are."""
    config = in_steps(config)
    layout = data_parallel(config.parallel, shard_optimizer=config.shard_optimizer, devices=devices)
    program = make_program(config, layout.axis_name)
    make_keys = jax.jit(
        lambda key: tuple(jax.random.fold_in(key, i) for i in range(3)), out_shardings=(layout.replicated,) * 3
    )
    init_key, step_key, picture_key = make_keys(jax.random.key(config.seed))
    constants = jax.device_put(program.constants(step_key), layout.replicated)
    return Run(config, workdir, sources, layout, program, init_key, constants, picture_key)
