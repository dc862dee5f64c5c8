"""The weights of a model's networks: how they are named, and which of them a configuration has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from rvae_jax.config import Config
from rvae_jax.errors import UserError, printable
from rvae_jax.models import init_variables, make_models

Shape = tuple[int, ...]


def expected_weights(config: Config) -> dict[str, Any]:
    """Shapes and types of a run's weights, as ``training.state.TrainState.weights`` has them."""
    networks = make_models(config.model, adversarial=config.loss.adversarial != "none")
    weights = jax.eval_shape(lambda key: init_variables(*networks, key), jax.random.key(0))
    return weights if config.optimizer.ema_decay is None else weights | {"ema_params": weights["vae"]["params"]}


def evaluation_variables(weights: dict[str, Any]) -> dict[str, Any]:
    """The VAE's variables for evaluation: the averaged weights where there are any."""
    return {**weights["vae"], "params": weights["ema_params"]} if "ema_params" in weights else weights["vae"]


def flatten(weights: dict[str, Any]) -> dict[str, Any]:
    """The leaves of ``weights``, by names such as ``vae/params/sampler/z_mean/kernel``."""
    return traverse_util.flatten_dict(weights, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes ``flatten``."""
    weights = traverse_util.unflatten_dict(dict(leaves), sep="/")
    for network in weights.keys() - {"ema_params"}:
        weights[network].setdefault("batch_stats", {})
    return weights


def shapes(weights: dict[str, Any]) -> dict[str, Shape]:
    """Shapes of the leaves, by name."""
    return {name: tuple(leaf.shape) for name, leaf in flatten(weights).items()}


def require_finite(arrays: Mapping[str, Any], source: str) -> None:
    """Raises unless all values are finite.

    Args:
      arrays: by name.
      source: what was read.

    Raises:
      UserError: naming the first array with a value that is not.
    """
    for name, array in arrays.items():
        if not np.isfinite(np.asarray(array)).all():
            raise UserError(f"{source}: {name} has values that are not finite; expected a model that was trained")


def require_same_shapes(there: Mapping[str, Shape], expected: Mapping[str, Shape], source: str, remedy: str) -> None:
    """Raises unless a stored model has exactly the weights that its configuration asks for.

    Args:
      there: shapes, by name.
      expected: what they should be.
      source: what is read, and what it is compared with.
      remedy: what to do.

    Raises:
      UserError: naming the first weight that is missing, left over or of another shape.
    """

    def describe(shape: Shape | None) -> str:
        return "missing" if shape is None else f"of shape {shape}"

    for name in sorted(there.keys() | expected.keys()):
        if there.get(name) != expected.get(name):
            found, wanted = (describe(each.get(name)) for each in (there, expected))
            raise UserError(f"{source}: {printable(name)} is {found} there and {wanted} by the configuration; {remedy}")
