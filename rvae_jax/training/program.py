"""What a configuration computes: its networks, its first state, its training step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from rvae_jax.config import Config, in_steps, without_texture
from rvae_jax.data.pixels import to_float
from rvae_jax.models import VAE, AnyDiscriminator, make_models
from rvae_jax.models.features import FeatureWeights
from rvae_jax.training import adversary, code_terms
from rvae_jax.training.frozen import load_frozen
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
      train_step: ``(state, images, *constants) -> (state, metrics)``, see ``step.make_train_step``. It takes images as
        bytes, which are sent to the devices in a quarter of the time of floats.
      frozen: weights of frozen networks, by name.
      first_train_step: likewise, for the steps before ``loss.texture_start``; None if there are none.
    """

    vae: VAE
    discriminator: AnyDiscriminator | None
    optimizer: optax.GradientTransformation
    create_state: Callable[[jax.Array], TrainState]
    train_step: TrainStep
    frozen: dict[str, FeatureWeights] = dataclasses.field(default_factory=dict)
    first_train_step: TrainStep | None = None

    def constants(self, key: Any) -> tuple[Any, ...]:
        """What ``train_step`` takes besides state and images: the random key, and any frozen weights."""
        return (key, self.frozen) if self.frozen else (key,)

    def state_shapes(self) -> TrainState:
        """Shapes and types of the state."""
        return jax.eval_shape(self.create_state, jax.random.key(0))


def make_program(config: Config, axis_name: str | None = None) -> Program:
    """Builds the functions of a configuration.

    Args:
      config: a valid configuration.
      axis_name: mapped axis under which ``train_step`` will run, or None; see ``sharding.DataParallel``.
    """
    config = in_steps(config)
    vae, discriminator = make_models(config.model, adversarial=config.loss.adversarial != "none")
    optimizer = make_optimizer(config.optimizer, config.steps)

    def create_state(key: jax.Array) -> TrainState:
        running = code_terms.first_running(config.loss, config.model.latent_dim) | adversary.first_running(config.loss)
        has_average = config.optimizer.ema_decay is not None
        return create_train_state(vae, discriminator, optimizer, key, ema=has_average, running=running)

    step_of = functools.partial(_step_on_bytes, optimizer=optimizer, axis_name=axis_name)
    first_train_step = step_of(without_texture(config)) if config.loss.texture_start else None
    return Program(vae, discriminator, optimizer, create_state, step_of(config), load_frozen(config), first_train_step)


def _step_on_bytes(config: Config, optimizer: optax.GradientTransformation, axis_name: str | None) -> TrainStep:
    adversarial = config.loss.adversarial != "none"
    step_on_floats = make_train_step(
        *make_models(config.model, adversarial=adversarial, axis_name=axis_name, remat_stages=config.remat_stages),
        optimizer,
        config.loss,
        ema_decay=config.optimizer.ema_decay,
        discriminator_pace=discriminator_pace(config.optimizer),
        accumulate_steps=config.accumulate_steps,
    )

    def train_step(state: TrainState, images: jax.Array, *constants: Any) -> tuple[TrainState, Metrics]:
        return step_on_floats(state, to_float(images), *constants)

    return train_step


def batch_shape(config: Config) -> jax.ShapeDtypeStruct:
    """Shape and type of a batch for ``Program.train_step``."""
    return jax.ShapeDtypeStruct((config.batch_size, *config.model.image_shape), np.uint8)
