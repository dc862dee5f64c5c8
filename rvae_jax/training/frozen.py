"""The frozen networks that an objective looks through; their weights are an argument of the step, not of its state."""

from __future__ import annotations

from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.models.features import FeatureWeights, least_size
from rvae_jax.models.opponents import feature_network
from rvae_jax.storage.feature_weights import load_feature_weights

# Weights by network.
Frozen = dict[str, FeatureWeights]


def frozen_networks(config: Config) -> dict[str, int]:
    """How many stages of which network a step needs."""
    needed = {}
    if config.loss.perceptual != "none":
        needed[config.loss.perceptual] = config.loss.perceptual_stages
    network = feature_network(config.model) if config.loss.adversarial != "none" else None
    if network is not None:
        needed[network] = max(needed.get(network, 0), config.model.discriminator_stages)
    return needed


def load_frozen(config: Config) -> Frozen:
    """The weights, as NumPy arrays, of all that the configuration's objective needs.

    Raises:
      UserError: the images are too small for so many stages.
      MissingError: the package that contains the weights is not installed.
    """
    networks, size = frozen_networks(config), min(config.model.image_shape[:2])
    for network, stages in networks.items():
        least = least_size(network, stages)
        if size < least:
            raise UserError(
                f"--config.model.image_shape={config.model.image_shape}: expected at least {least} pixels along each"
                f" axis, for the first {stages} stages of {network}"
            )
    return {name: load_feature_weights(name, stages) for name, stages in networks.items()}
