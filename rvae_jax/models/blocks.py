"""The pre-activation residual blocks: identity, down (half the size) and up (twice the size).

TRI(x; s)   = conv_3[1x1, stride s] relu bn_3 conv_2[3x3] relu bn_2 conv_1[3x3] relu bn_1 (x)   (right to left)
Identity(x) = x + TRI(x; 1)
Down(x)     = TRI(x; 2) + conv_4[1x1, stride 2] relu bn_4 (x)
Up(x)       = convt_2[3x3, stride 2] relu bn_2 conv_1[1x1] relu bn_1 (x) + convt_3[3x3, stride 2] relu bn_3 (x)
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.models.layers import Conv, ConvTranspose, Norm, NormMode


class Block(nn.Module):
    """What the blocks share: their width and how they normalise.

    Attributes:
      filters: channels of the result.
      norm: see ``layers.Norm``.
      axis_name: see ``layers.Norm``.
      dtype: type of the result.
    """

    filters: int
    norm: NormMode
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def _norm_relu(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        return nn.relu(Norm(self.norm, self.axis_name, self.dtype, name=name)(x, train))

    def _tri(self, x: jax.Array, train: bool, strides: tuple[int, int] = (1, 1)) -> jax.Array:
        """``strides`` are those of conv_2 and conv_3."""
        stride_2, stride_3 = strides
        x = self._norm_relu(x, train, "bn_1")
        x = Conv(self.filters, (3, 3), dtype=self.dtype, name="conv_1")(x)
        x = self._norm_relu(x, train, "bn_2")
        # Centred on every stride-th pixel from the first, as the convolutions of stride 1 are.
        padding = ((1, 2 - stride_2), (1, 2 - stride_2))
        x = Conv(self.filters, (3, 3), (stride_2, stride_2), padding, dtype=self.dtype, name="conv_2")(x)
        x = self._norm_relu(x, train, "bn_3")
        return Conv(self.filters, (1, 1), (stride_3, stride_3), dtype=self.dtype, name="conv_3")(x)


class Identity(Block):
    """``[b, h, w, filters] -> [b, h, w, filters]``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return x + self._tri(x, train)


class Down(Block):
    """``[b, h, w, c] -> [b, h/2, w/2, filters]``.

    conv_3 and conv_4 keep every second pixel. Unless a norm before them takes its statistics over all the pixels, those
    that would be thrown away are not computed: conv_2 takes the stride instead of conv_3, and the shortcut's norm sees
    only the kept pixels. The function is the same.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.norm == "batch" and train:
            h = self._tri(x, train, strides=(1, 2))
            shortcut = self._norm_relu(x, train, "bn_4")[:, ::2, ::2, :]
        else:
            h = self._tri(x, train, strides=(2, 1))
            shortcut = self._norm_relu(x[:, ::2, ::2, :], train, "bn_4")
        return h + Conv(self.filters, (1, 1), dtype=self.dtype, name="conv_4")(shortcut)


class Up(Block):
    """``[b, h, w, c] -> [b, 2h, 2w, filters]``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = self._norm_relu(x, train, "bn_1")
        h = Conv(self.filters, (1, 1), dtype=self.dtype, name="conv_1")(h)
        h = self._norm_relu(h, train, "bn_2")
        h = ConvTranspose(self.filters, self.dtype, name="convt_2")(h)
        shortcut = self._norm_relu(x, train, "bn_3")
        return h + ConvTranspose(self.filters, self.dtype, name="convt_3")(shortcut)
