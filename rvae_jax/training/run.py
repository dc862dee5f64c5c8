"""What a run consists of, the same from its first step to its last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
from etils import epath

from rvae_jax.config import Config
from rvae_jax.data.records import Images
from rvae_jax.distributed.sharding import DataParallel, data_parallel
from rvae_jax.training.frozen import Frozen, load_frozen
from rvae_jax.training.program import Program, make_program


@dataclasses.dataclass(frozen=True)
class Run:
    """One process's part of a run.

    Attributes:
      config: the configuration.
      workdir: the run's folder.
      sources: the images, by ``train``, ``selection`` and ``validation``.
      layout: how the batch and the state lie on the devices.
      program: what the configuration computes.
      init_key: random key of the first state.
      step_key: random key of the steps.
      picture_key: random key of the samples that pictures show.
      frozen: the step's further arguments, see ``frozen.load_frozen``, on the devices.
    """

    config: Config
    workdir: epath.Path
    sources: dict[str, Images]
    layout: DataParallel
    program: Program
    init_key: jax.Array
    step_key: jax.Array
    picture_key: jax.Array
    frozen: tuple[Frozen, ...]


def make_run(
    config: Config, workdir: epath.Path, sources: dict[str, Images], devices: Sequence[jax.Device] | None = None
) -> Run:
    """Makes a run on ``devices``, those of all processes; by default on all that there are."""
    layout = data_parallel(config.parallel, shard_optimizer=config.shard_optimizer, devices=devices)
    program = make_program(config, layout.axis_name)
    make_keys = jax.jit(
        lambda key: tuple(jax.random.fold_in(key, i) for i in range(3)), out_shardings=(layout.replicated,) * 3
    )
    keys = make_keys(jax.random.key(config.seed))
    return Run(config, workdir, sources, layout, program, *keys, layout.replicate(load_frozen(config)))
