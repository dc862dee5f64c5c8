"""What training carries from step to step, and how it begins."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rvae_jax.models import VAE, Discriminator


class Player(struct.PyTreeNode):
    """One network in training.

    Attributes:
      params: its weights.
      batch_stats: its norms' moving statistics.
      opt_state: its optimizer's state.
    """

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What ``network.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class TrainState(struct.PyTreeNode):
    """The whole state of a run; with the seed, it decides every later step.

    Attributes:
      step: optimizer steps taken, int32 scalar.
      vae: encoder, sampler and decoder.
      discriminator: the discriminator, or None without adversarial loss.
      ema_params: exponential moving average of the VAE's weights, or None.
    """

    step: jax.Array
    vae: Player
    discriminator: Player | None
    ema_params: Any | None

    @property
    def evaluation_variables(self) -> dict[str, Any]:
        """The VAE's variables for evaluation: the averaged weights where there are any."""
        params = self.vae.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.vae.batch_stats}


def create_train_state(
    vae: VAE,
    discriminator: Discriminator | None,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: bool = False,
) -> TrainState:
    """Initialises both players: kernels Glorot uniform, biases 0, norms gamma 1, beta 0, statistics 0 and 1.

    Args:
      vae: the VAE.
      discriminator: the discriminator, or None.
      optimizer: used for both, each with its own state.
      key: a JAX random key.
      ema: whether the state carries averaged weights.
    """
    vae_key, discriminator_key = jax.random.split(key)
    image = jnp.zeros((1, *vae.image_shape))
    vae_player = _create_player(vae.init(vae_key, image, jnp.zeros((1, vae.latent_dim))), optimizer)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        vae=vae_player,
        discriminator=(
            None if discriminator is None else _create_player(discriminator.init(discriminator_key, image), optimizer)
        ),
        # A copy: the two would else be one buffer, which cannot be donated twice.
        ema_params=jax.tree.map(jnp.copy, vae_player.params) if ema else None,
    )


def _create_player(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> Player:
    return Player(variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))
