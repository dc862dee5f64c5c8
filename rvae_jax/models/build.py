"""The networks that a configuration describes."""

import dataclasses

from rvae_jax.config import ModelConfig
from rvae_jax.models.opponents import AnyDiscriminator, make_discriminator
from rvae_jax.models.vae import VAE


def make_models(
    config: ModelConfig, *, adversarial: bool, axis_name: str | None = None, remat_stages: int = 0
) -> tuple[VAE, AnyDiscriminator | None]:
    """Builds the networks of a configuration; no discriminator unless ``adversarial``."""
    config = dataclasses.replace(config)  # the networks' own copy, which nobody changes
    return VAE(config, axis_name, remat_stages), make_discriminator(config, axis_name) if adversarial else None
