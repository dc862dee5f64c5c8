"""A discriminator on the feature maps of a frozen network, "projected" (Sauer et al., 2021)."""

from __future__ import annotations

import jax
from flax import linen as nn

from rvae_jax.models import convolutions
from rvae_jax.models.discriminator import LEAKY_RELU_SLOPE
from rvae_jax.models.features import Maps
from rvae_jax.models.layers import Conv, PointwiseConv


class FeatureHead(nn.Module):
    """Fixed random 1x1 projection, 3x3 convolution, LeakyReLU, 1x1: ``[b, h, w, c] -> [b, h, w, 1]``.

    The projection's entries are standard normal, so that each of its channels has a mean square of 1 over random
    pixels of unit length. It mixes the channels, and so keeps the discriminator from relying on a few of them.

    Attributes:
      channels: of the projection and of the convolution.
    """

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def draw() -> jax.Array:
            return jax.random.normal(self.make_rng("params"), (x.shape[-1], self.channels))

        # Beside the norms' statistics of the other networks: not trained, but in the checkpoint.
        projection = self.variable("batch_stats", "projection", draw).value
        x = convolutions.pointwise(x, projection)
        x = nn.leaky_relu(Conv(self.channels, name="conv")(x), LEAKY_RELU_SLOPE)
        return PointwiseConv(1, name="logit")(x)


class FeatureDiscriminator(nn.Module):
    """Maps of ``features`` to logits, float32: by stage ``[b, h_i, w_i, 1]``.

    A loss is to be the mean over the stages of its mean over patches, so that stages with few patches count as much.

    Attributes:
      channels: see ``FeatureHead``.
    """

    channels: int

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> tuple[jax.Array, ...]:
        return tuple(FeatureHead(self.channels, name=f"stage_{i}")(x) for i, x in enumerate(maps))
