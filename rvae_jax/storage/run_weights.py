"""The weights of a run, from its checkpoints."""

from __future__ import annotations

from typing import Any

import jax
from etils import epath

from rvae_jax.config import Config
from rvae_jax.errors import UserError, first_line
from rvae_jax.storage import weights as weights_lib
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.checkpoints import Checkpoints, quiet_orbax

_MOST_ATTEMPTS = 10  # to read a checkpoint of a run that goes on


@quiet_orbax()
def load_weights(workdir: epath.Path, step: int | None = None) -> tuple[Config, dict[str, Any], int]:
    """Reads a run's configuration and the item ``weights`` of one of its checkpoints, to this process's first device.

    Args:
      workdir: the run's work directory.
      step: step of the checkpoint, or None for the best.

    Returns:
      Configuration, weights as ``training.state.TrainState.weights`` has them, and their step.

    Raises:
      UserError: there is no run, no checkpoint, none of that step, or it cannot be read.
    """
    config = workdir_lib.read_config(workdir)
    for _ in range(_MOST_ATTEMPTS):
        found = None
        with Checkpoints(workdir, read_only=True) as checkpoints:
            try:
                found = _chosen_step(checkpoints, step)
                return config, _read_weights(checkpoints, config, found), found
            except UserError:
                # A run in training deletes old checkpoints, and the best one when it finds a better.
                is_deleted = step is None and found is not None and not (checkpoints.folder / str(found)).exists()
                if not is_deleted:
                    raise
    raise UserError(f"{checkpoints.folder}: checkpoints were deleted while they were read; give a step that stays")


def _chosen_step(checkpoints: Checkpoints, step: int | None) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{checkpoints.folder} holds no checkpoint; train there first, or give another work directory")
    if step is None:
        return checkpoints.best_step()
    if step not in steps:
        raise UserError(f"{checkpoints.folder} holds no checkpoint of step {step}; there are {steps}")
    return step


def _read_weights(checkpoints: Checkpoints, config: Config, step: int) -> dict[str, Any]:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        weights_lib.expected_weights(config),
    )
    path = checkpoints.folder / str(step)
    checkpoints.require_config(step, config)
    try:
        # Orbax would report another shape from a thread, with a traceback.
        weights_lib.require_same_shapes(
            checkpoints.weight_shapes(step),
            weights_lib.shapes(like),
            f"checkpoint {path} is of another configuration than {path.parents[1] / workdir_lib.CONFIG_FILE}",
            f"put back the run's own {workdir_lib.CONFIG_FILE}",
        )
        found = checkpoints.restore_here(step, {"weights": like})["weights"]
        weights_lib.require_finite(weights_lib.flatten(found), f"checkpoint {path}")
        return found
    except UserError:
        raise
    except Exception as error:  # Orbax, TensorStore and JSON each raise their own.
        raise UserError(
            f"checkpoint {path} is unreadable ({first_line(error)}); give another step of {checkpoints.steps()}"
        ) from error
