"""The frozen networks that an objective looks through; their weights are an argument of the step, not of its state."""

from __future__ import annotations

from rvae_jax.config import Config
from rvae_jax.models.features import FeatureWeights
from rvae_jax.storage.feature_weights import load_feature_weights

NETWORKS = {"vgg": "vgg16", "alexnet": "alexnet"}


def load_frozen(config: Config) -> dict[str, FeatureWeights]:
    """Weights, in NumPy, of what the configuration's objective needs, by the configuration's name of the network.

    Raises:
      MissingError: the package that contains the weights is not installed.
    """
    name = config.loss.perceptual
    if name == "none":
        return {}
    return {name: load_feature_weights(NETWORKS[name], config.loss.perceptual_stages)}
