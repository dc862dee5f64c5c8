"""Starting from another run's weights: fine-tuning on other data, or at another resolution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rvae_jax.storage.weights import evaluation_variables, flatten, unflatten


def take_over(target: dict[str, Any], source: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Takes over every weight that has the same name and shape; if the source has averaged weights, those of the VAE.

    Args:
      target: the weights of a fresh run, as ``training.state.TrainState.weights`` has them.
      source: the other run's.

    Returns:
      The fresh run's weights with those of the other, and a line for each weight of either that was not taken over.
    """
    source = {**source, "vae": evaluation_variables(source)}
    source.pop("ema_params", None)
    fresh, there = flatten({name: target[name] for name in target if name != "ema_params"}), flatten(source)
    left_out = [f"{name} {np.shape(there[name])}: there only" for name in there if name not in fresh]
    for name, leaf in fresh.items():
        if name not in there:
            left_out.append(f"{name} {leaf.shape}: here only, starts fresh")
        elif there[name].shape != leaf.shape:
            left_out.append(f"{name}: {there[name].shape} there, {leaf.shape} here, starts fresh")
        else:
            fresh[name] = there[name]
    taken = unflatten(fresh)
    if "ema_params" in target:
        # A copy: one buffer under two names cannot be donated.
        taken["ema_params"] = jax.tree.map(jnp.copy, taken["vae"]["params"])
    return taken, left_out
