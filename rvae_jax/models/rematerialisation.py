"""Stages whose activations are computed again for the gradient: less memory, for one more pass through them."""

import jax
from flax import linen as nn

from rvae_jax.models.blocks import Block, Identity, Stage


class RematStage(Stage):
    """``Stage``, with the same parameters, which keeps for the gradient no more than the input of each of its blocks.

    Block by block, since a stage that were computed again as a whole would need the memory of all its blocks at once.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in range(self.identity_blocks):
            x = self._block(Identity, self.filters_in, f"identity_{i}")(x, train)
        return self._block(self.resize, self.filters_out, self.resize.__name__.lower())(x, train)

    def _block(self, block: type[Block], filters: int, name: str) -> Block:
        train = 2  # the position of this argument, which decides what is traced
        return nn.remat(block, static_argnums=train)(filters, self.norm, self.axis_name, self.dtype, name=name)
