"""The state that training carries from step to step, its first value, and its form in a checkpoint."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rvae_jax.models import VAE, AnyDiscriminator, init_variables

# Variables of the networks by player, and ``ema_params`` where there are averaged weights.
Weights = dict[str, Any]


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
    """The complete state of a run; with the seed, it decides every later step.

    Attributes:
      step: optimizer steps taken, int32 scalar.
      vae: encoder, sampler and decoder.
      discriminator: the discriminator, or None without adversarial loss.
      ema_params: exponential moving average of the VAE's weights, or None.
      running: running statistics of the objective by name, such as averages over batches; equal on all devices.
    """

    step: jax.Array
    vae: Player
    discriminator: Player | None
    ema_params: Any | None
    running: dict[str, Any] = struct.field(default_factory=dict)

    @property
    def players(self) -> dict[str, Player]:
        """The networks in training, by name."""
        players = {"vae": self.vae, "discriminator": self.discriminator}
        return {name: player for name, player in players.items() if player is not None}

    @property
    def weights(self) -> Weights:
        """All that using the networks needs."""
        weights = {name: player.variables for name, player in self.players.items()}
        return weights if self.ema_params is None else weights | {"ema_params": self.ema_params}

    def with_weights(self, weights: Weights) -> TrainState:
        """The state with other ``weights``; its step and its optimizers stay as they are."""
        players = {name: player.replace(**weights[name]) for name, player in self.players.items()}
        return self.replace(ema_params=weights.get("ema_params"), **players)

    @property
    def linear_path(self) -> dict[str, jax.Array]:
        """The arrays of the VAE's linear path, ``models.linear.LinearPath``; empty if it has none."""
        return self.vae.batch_stats.get("linear") or self.vae.params.get("linear", {})

    def with_start(self, linear_path: dict[str, jax.Array], log_var: jax.Array) -> TrainState:
        """The first state with another linear path, and with these biases of the log variances, ``[latent_dim]``."""
        params, batch_stats = dict(self.vae.params), dict(self.vae.batch_stats)
        (batch_stats if "linear" in batch_stats else params)["linear"] = linear_path
        sampler = params["sampler"]
        params["sampler"] = {**sampler, "z_log_var": {**sampler["z_log_var"], "bias": log_var}}
        ema_params = None if self.ema_params is None else jax.tree.map(jnp.copy, params)
        return self.replace(vae=self.vae.replace(params=params, batch_stats=batch_stats), ema_params=ema_params)

    def to_items(self) -> dict[str, Any]:
        """The state as a checkpoint has it: ``weights``, and ``training`` with the rest."""
        training = {"step": self.step, **{name: player.opt_state for name, player in self.players.items()}}
        if self.running:
            training["running"] = self.running
        return {"weights": self.weights, "training": training}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> TrainState:
        """Undoes ``to_items``."""
        weights, training = items["weights"], items["training"]
        players = {
            name: Player(**weights[name], opt_state=training[name]) if name in weights else None
            for name in ("vae", "discriminator")
        }
        return cls(
            step=training["step"],
            ema_params=weights.get("ema_params"),
            running=training.get("running", {}),
            **players,
        )


def create_train_state(
    vae: VAE,
    discriminator: AnyDiscriminator | None,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: bool = False,
    running: dict[str, Any] | None = None,
) -> TrainState:
    """The state at step 0, with the first weights of ``models.init_variables``.

    Args:
      vae: the VAE.
      discriminator: the discriminator, or None.
      optimizer: used for both, each with its own state.
      key: a JAX random key.
      ema: whether the state carries averaged weights.
      running: first values of the objective's running statistics.
    """
    variables = init_variables(vae, discriminator, key)
    players = {name: Player(**each, opt_state=optimizer.init(each["params"])) for name, each in variables.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        vae=players["vae"],
        discriminator=players.get("discriminator"),
        # A copy: one buffer under two names cannot be donated.
        ema_params=jax.tree.map(jnp.copy, variables["vae"]["params"]) if ema else None,
        running=running or {},
    )
