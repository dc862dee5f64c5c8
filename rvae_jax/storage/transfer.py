"""Starting a run from another run's weights: fine-tuning on other data, or at another resolution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rvae_jax.storage.weights import weights_of
from rvae_jax.training.state import TrainState


def start_from(state: TrainState, weights: dict[str, Any]) -> tuple[TrainState, list[str]]:
    """Takes over every weight that has the same name and shape; averaged weights, where there are any, for the VAE's.

    Args:
      state: a fresh state; its optimizers and its step stay as they are.
      weights: the other run's, see ``weights.weights_of``.

    Returns:
      The state, and a line for each weight of either side that was not taken over.
    """
    source = dict(weights)
    if (averaged := source.pop("ema_params", None)) is not None:
        source["vae"] = {**source["vae"], "params": averaged}
    target = weights_of(state)
    target.pop("ema_params", None)
    taken, left_out = _take_over(target, source)
    players = {name: getattr(state, name).replace(**variables) for name, variables in taken.items()}
    # A copy: the two would else be one buffer, which cannot be donated twice.
    ema_params = None if state.ema_params is None else jax.tree.map(jnp.copy, taken["vae"]["params"])
    return state.replace(ema_params=ema_params, **players), left_out


def _take_over(target: dict[str, Any], source: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    target, source = (traverse_util.flatten_dict(tree, sep="/") for tree in (target, source))
    left_out = [f"{name} {np.shape(source[name])}: there only" for name in source if name not in target]
    for name, fresh in target.items():
        if name not in source:
            left_out.append(f"{name} {fresh.shape}: here only, starts fresh")
        elif source[name].shape != fresh.shape:
            left_out.append(f"{name}: {source[name].shape} there, {fresh.shape} here, starts fresh")
        else:
            target[name] = source[name]
    return traverse_util.unflatten_dict(target, sep="/"), left_out
