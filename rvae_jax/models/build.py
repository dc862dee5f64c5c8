"""The networks that a configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from rvae_jax.models.discriminator import Discriminator
from rvae_jax.models.vae import VAE

if TYPE_CHECKING:
    from rvae_jax.config import ModelConfig


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
