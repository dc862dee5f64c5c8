"""What training carries from step to step, and how it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rvae_jax.models import VAE, Discriminator

if TYPE_CHECKING:
    from rvae_jax.config import ModelConfig, OptimizerConfig


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


def make_models(
    config: ModelConfig, *, adversarial: bool, axis_name: str | None = None, remat_stages: int = 0
) -> tuple[VAE, Discriminator | None]:
    """Builds the networks of a configuration; no discriminator unless ``adversarial``."""
    shared = {"norm": config.norm, "axis_name": axis_name, "dtype": jnp.dtype(config.dtype)}
    vae = VAE(
        image_shape=config.image_shape,
        latent_dim=config.latent_dim,
        encoder_filters=config.encoder_filters,
        decoder_filters=config.decoder_filters,
        encoder_identity_blocks=config.encoder_identity_blocks,
        decoder_identity_blocks=config.decoder_identity_blocks,
        input_norm=config.input_norm,
        remat_stages=remat_stages,
        **shared,
    )
    if not adversarial:
        return vae, None
    return vae, Discriminator(filters=config.discriminator_filters, strides=config.discriminator_strides, **shared)


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, or a cosine that reaches 0 at ``steps``."""
    rate, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, steps - warmup))
    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(rate / warmup, rate, warmup - 1), after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Adam, as optax has it: ``rate * m_hat / (sqrt(v_hat) + epsilon)``, after clipping by the global norm if asked.

    Keras, which the author used, adds epsilon to the root of the *uncorrected* second moment: its epsilon acts as
    ``epsilon / sqrt(1 - beta2^t)`` here, 32 times as large at the first step. So at the author's epsilon of 1e-7 our
    first steps are larger where gradients are tiny: 1.3 times at |g| = 1e-5, 3.8 times at 1e-6. The difference fades
    as t grows towards 1 / (1 - beta2) and beyond.
    """
    adam = optax.adam(learning_rate_schedule(config, steps), b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    return adam if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)


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
