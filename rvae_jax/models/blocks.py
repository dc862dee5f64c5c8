"""The pre-activation residual blocks: identity, down (half the size) and up (twice the size); stages of them.

TRI(x; s)   = conv_3[1x1, stride s] relu bn_3 conv_2[3x3] relu bn_2 conv_1[3x3] relu bn_1 (x)   (right to left)
Identity(x) = x + TRI(x; 1)
Down(x)     = TRI(x; 2) + conv_4[1x1, stride 2] relu bn_4 (x)
Up(x)       = convt_2[3x3, stride 2] relu bn_2 conv_1[1x1] relu bn_1 (x) + convt_3[3x3, stride 2] relu bn_3 (x)
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.models.layers import Conv, ConvTranspose, Norm, NormMode, PointwiseConv, relu_of_conv


class Block(nn.Module):
    """Base class of the blocks: their width and their norm.

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

    def _norm(self, channels: int, name: str) -> Norm:
        return Norm(channels, self.norm, self.axis_name, self.dtype, name=name)

    def _norm_relu(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        return nn.relu(self._norm(x.shape[-1], name)(x, train))

    def _conv_norm_relu(self, conv: Conv | PointwiseConv, x: jax.Array, train: bool, name: str) -> jax.Array:
        return relu_of_conv(self._norm(self.filters, name).after(conv, x, train))

    def _tri(self, x: jax.Array, train: bool, stride: int = 1) -> jax.Array:
        # conv_3 keeps every stride-th pixel. Unless bn_3 computes statistics over all pixels, conv_2 computes only the
        # kept ones, with windows centred on them: the same function, for a quarter of the work at stride 2.
        strides = (1, stride) if self.norm == "batch" and train else (stride, 1)
        conv_1 = Conv(self.filters, dtype=self.dtype, name="conv_1")
        conv_2 = Conv(self.filters, strides[0], offset=1, dtype=self.dtype, name="conv_2")
        x = self._norm_relu(x, train, "bn_1")
        x = self._conv_norm_relu(conv_1, x, train, "bn_2")
        x = self._conv_norm_relu(conv_2, x, train, "bn_3")
        return PointwiseConv(self.filters, strides[1], self.dtype, name="conv_3")(x)


class Identity(Block):
    """``[b, h, w, filters] -> [b, h, w, filters]``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return x + self._tri(x, train)


class Down(Block):
    """``[b, h, w, c] -> [b, h/2, w/2, filters]``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut = PointwiseConv(self.filters, 2, self.dtype, name="conv_4")(self._norm_relu(x, train, "bn_4"))
        return self._tri(x, train, stride=2) + shortcut


class Up(Block):
    """``[b, h, w, c] -> [b, 2h, 2w, filters]``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = self._norm_relu(x, train, "bn_1")
        conv_1 = PointwiseConv(self.filters, dtype=self.dtype, name="conv_1")
        h = self._conv_norm_relu(conv_1, h, train, "bn_2")
        h = ConvTranspose(self.filters, self.dtype, name="convt_2")(h)
        shortcut = self._norm_relu(x, train, "bn_3")
        return h + ConvTranspose(self.filters, self.dtype, name="convt_3")(shortcut)


class Stage(nn.Module):
    """Identity blocks, then one that changes the size: ``Down`` in the encoder, ``Up`` in the decoder.

    Attributes:
      resize: the last block's class.
      filters_in: channels of the input and of the identity blocks.
      filters_out: channels of the result.
      identity_blocks: number of identity blocks.
      norm: see ``layers.Norm``.
      axis_name: see ``layers.Norm``.
      dtype: type of the result.
      remat: whether only the input of each block is kept for the gradient, and the rest is computed again. This is
        done block by block, since recomputing a complete stage would need the memory of all its blocks at once.
    """

    resize: type[Block]
    filters_in: int
    filters_out: int
    identity_blocks: int
    norm: NormMode
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in range(self.identity_blocks):
            x = self._block(Identity, self.filters_in, f"identity_{i}")(x, train)
        return self._block(self.resize, self.filters_out, self.resize.__name__.lower())(x, train)

    def _block(self, block: type[Block], filters: int, name: str) -> Block:
        if self.remat:
            train = 2  # position of this argument, which must be static
            block = nn.remat(block, static_argnums=train)
        return block(filters, self.norm, self.axis_name, self.dtype, name=name)
