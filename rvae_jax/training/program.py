"""What a configuration computes: its networks, its first state, its training step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax

from rvae_jax.config import Config
from rvae_jax.data.pixels import to_float
from rvae_jax.models import VAE, AnyDiscriminator, make_models
from rvae_jax.training import adversary
from rvae_jax.training.frozen import Frozen
from rvae_jax.training.optimizer import discriminator_pace, make_optimizer
from rvae_jax.training.state import TrainState, create_train_state
from rvae_jax.training.step import Metrics, TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """A configuration's functions.

    Attributes:
      vae: the VAE.
      discriminator: the discriminator, or None without adversarial loss.
      optimizer: of both.
      create_state: from a random key to the first state.
      train_step: ``(state, images, key, *frozen) -> (state, metrics)``, see ``step.make_train_step``; ``load_frozen``
        gives ``frozen``. Images are bytes, which are sent to the devices in a quarter of the time of floats.
    """

    vae: VAE
    discriminator: AnyDiscriminator | None
    optimizer: optax.GradientTransformation
    create_state: Callable[[jax.Array], TrainState]
    train_step: TrainStep

    def state_shapes(self) -> TrainState:
        """Shapes and types of the state."""
        return jax.eval_shape(self.create_state, jax.random.key(0))


def make_program(config: Config, axis_name: str | None = None) -> Program:
    """Builds the functions of a configuration.

    Args:
      config: a valid configuration.
      axis_name: mapped axis under which ``train_step`` will run, or None; see ``sharding.DataParallel``.
    """
    adversarial = config.loss.adversarial != "none"
    vae, discriminator = make_models(config.model, adversarial=adversarial)
    optimizer = make_optimizer(config.optimizer, config.steps)
    step_on_floats = make_train_step(
        *make_models(config.model, adversarial=adversarial, axis_name=axis_name, remat_stages=config.remat_stages),
        optimizer,
        config.loss,
        ema_decay=config.optimizer.ema_decay,
        discriminator_pace=discriminator_pace(config.optimizer),
        accumulate_steps=config.accumulate_steps,
    )

    def train_step(state: TrainState, images: jax.Array, key: jax.Array, *frozen: Frozen) -> tuple[TrainState, Metrics]:
        return step_on_floats(state, to_float(images), key, *frozen)

    create_state = functools.partial(
        create_train_state,
        vae,
        discriminator,
        optimizer,
        ema=config.optimizer.ema_decay is not None,
        running=adversary.first_running(config.loss),
    )
    return Program(vae, discriminator, optimizer, create_state, train_step)


def batch_shape(config: Config) -> jax.ShapeDtypeStruct:
    """Shape and type of a batch for ``Program.train_step``."""
    return jax.ShapeDtypeStruct((config.batch_size, *config.model.image_shape), np.uint8)
