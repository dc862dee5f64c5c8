"""The discriminators that a configuration can have: on pixels, on a frozen network's features, or on both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig
from rvae_jax.models.discriminator import Discriminator
from rvae_jax.models.feature_discriminator import FeatureDiscriminator
from rvae_jax.models.features import CHANNELS, FeatureWeights, Maps, features


class JointDiscriminator(nn.Module):
    """A PatchGAN and a discriminator on feature maps, which judge the same images.

    Attributes:
      patch: of images.
      features: of their feature maps.
    """

    patch: Discriminator
    features: FeatureDiscriminator

    def __call__(self, seen: tuple[jax.Array, Maps], train: bool = False) -> tuple[jax.Array, ...]:
        """Images and their maps to maps of logits: the PatchGAN's, then one a stage."""
        images, maps = seen
        return self.patch(images, train), *self.features(maps, train)


AnyDiscriminator = Discriminator | FeatureDiscriminator | JointDiscriminator


def make_discriminator(config: ModelConfig, axis_name: str | None) -> AnyDiscriminator:
    """Builds the discriminator of a configuration."""
    if feature_network(config) is None:
        return Discriminator(config, axis_name)
    of_features = FeatureDiscriminator(config.discriminator_head_width)
    return JointDiscriminator(Discriminator(config, axis_name), of_features) if _sees_pixels(config) else of_features


def feature_network(config: ModelConfig) -> str | None:
    """The frozen network whose features the discriminator sees, or None."""
    network = config.discriminator.removeprefix("patch+")
    return None if network == "patch" else network


def seen_by_discriminator(
    config: ModelConfig, frozen: Mapping[str, FeatureWeights] | None, images: jax.Array, windows: jax.Array
) -> Any:
    """What the discriminator takes: the images, their feature maps, or both; differentiable in the images.

    Args:
      config: of the networks.
      frozen: weights by network, of at least as many stages as the discriminator sees; None if it sees pixels alone.
      images: ``[b, H, W, C]`` in [-1, 1].
      windows: what the frozen network sees of them, ``[b, h, w, C]``: the images themselves, or a part of each.
    """
    network = feature_network(config)
    if network is None:
        return images
    maps = features(frozen[network], windows)[: config.discriminator_stages]
    return (images, maps) if _sees_pixels(config) else maps


def example_for_discriminator(config: ModelConfig) -> Any:
    """Zeros in place of what the discriminator sees, for its first weights; the maps' size does not matter to these."""
    images, network = jnp.zeros((1, *config.image_shape)), feature_network(config)
    if network is None:
        return images
    maps = tuple(jnp.zeros((1, 3, 3, channels)) for channels in CHANNELS[network][: config.discriminator_stages])
    return (images, maps) if _sees_pixels(config) else maps


def _sees_pixels(config: ModelConfig) -> bool:
    return config.discriminator.startswith("patch")
