"""The reference arrays; README.md says what they are."""

import json
from pathlib import Path

import numpy as np

from rvae_jax.config import ModelConfig


def _load(name):
    with np.load(Path(__file__).with_name(name)) as file:
        return {key: file[key] for key in file.files}


FIXTURE = _load("fixture_a.npz")
LOSSES = _load("losses_a.npz")
CONFIG = json.loads(str(FIXTURE["config_json"]))
MODEL = ModelConfig(
    image_shape=tuple(CONFIG["input_dim"]),
    latent_dim=CONFIG["latent_dim"],
    encoder_filters=tuple(CONFIG["enc"]),
    decoder_filters=tuple(CONFIG["dec"]),
    discriminator_filters=tuple(CONFIG["dis"]),
    discriminator_strides=tuple(CONFIG["dis_strides"]),
)


def under(arrays, prefix):
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def nested(arrays):
    tree = {}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = array
    return tree


def flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: leaf for key, node in tree.items() for name, leaf in flat(node, f"{prefix}{key}/").items()}


def variables(prefix=""):
    """What ``apply`` takes, of the network (or part of one) whose weights' names begin with ``prefix``."""
    weights = under(FIXTURE, f"w/{prefix}")
    moving = {name: array for name, array in weights.items() if "/moving_" in name}
    params = {name: array for name, array in weights.items() if name not in moving}
    return {"params": nested(params), "batch_stats": nested(moving)}


def relative_error(ours, theirs):
    """Largest difference relative to the largest entry of ``theirs``."""
    ours, theirs = (np.asarray(array, np.float64) for array in (ours, theirs))
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    difference, scale = np.max(np.abs(ours - theirs), initial=0.0), np.max(np.abs(theirs), initial=0.0)
    return float(difference if scale == 0 else difference / scale)
