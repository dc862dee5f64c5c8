"""The weights of a model's networks: how they are named, and which of them a configuration has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import traverse_util

from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.models import make_models
from rvae_jax.training.state import TrainState, create_train_state

Shape = tuple[int, ...]


def weights_of(state: TrainState) -> dict[str, Any]:
    """Variables of the networks, by player, and the averaged weights of the VAE if there are any."""
    weights = {"vae": state.vae.variables}
    if state.discriminator is not None:
        weights["discriminator"] = state.discriminator.variables
    if state.ema_params is not None:
        weights["ema_params"] = state.ema_params
    return weights


def with_weights(state: TrainState, weights: dict[str, Any]) -> TrainState:
    """``state`` with these weights, all that ``weights_of`` has of it; its optimizers and its step stay as they are."""
    players = {
        name: getattr(state, name).replace(**weights[name]) for name in ("vae", "discriminator") if name in weights
    }
    return state.replace(ema_params=weights.get("ema_params"), **players)


def expected(config: Config) -> dict[str, Any]:
    """Shapes and types of ``weights_of`` a run of the configuration."""
    vae, discriminator = make_models(config.model, adversarial=config.loss.adversarial != "none")
    ema = config.optimizer.ema_decay is not None
    return jax.eval_shape(
        lambda key: weights_of(create_train_state(vae, discriminator, optax.identity(), key, ema=ema)),
        jax.random.key(0),
    )


def evaluated(weights: dict[str, Any]) -> dict[str, Any]:
    """The VAE's variables that evaluation uses: the averaged weights where there are any."""
    return {**weights["vae"], "params": weights["ema_params"]} if "ema_params" in weights else weights["vae"]


def by_name(weights: Any) -> dict[str, Any]:
    """The leaves of ``weights``, by names such as ``vae/params/sampler/z_mean/kernel``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(weights)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def from_names(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes ``by_name``."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def shapes(weights: Any) -> dict[str, Shape]:
    """Shapes of the leaves, by name."""
    return {name: tuple(leaf.shape) for name, leaf in by_name(weights).items()}


def require_same_shapes(there: Mapping[str, Shape], expected: Mapping[str, Shape], source: str, remedy: str) -> None:
    """Finds that a stored model has the weights that its configuration asks for, and no other.

    Args:
      there: shapes, by name.
      expected: what they should be.
      source: what is read, and what it is compared with.
      remedy: what to do.

    Raises:
      UserError: naming the first weight that is missing, left over or of another shape.
    """
    for name in sorted(there.keys() | expected.keys()):
        if there.get(name) != expected.get(name):
            found, wanted = (_described(each.get(name)) for each in (there, expected))
            raise UserError(f"{source}: {name} is {found} there and {wanted} by the configuration; {remedy}")


def _described(shape: Shape | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"
