"""The networks, in Flax Linen: residual VAE and PatchGAN discriminator. They need only jax and flax."""

from rvae_jax.models.build import make_models
from rvae_jax.models.discriminator import Discriminator
from rvae_jax.models.init import init_variables
from rvae_jax.models.opponents import AnyDiscriminator, seen_by_discriminator
from rvae_jax.models.vae import VAE, Reconstruction

__all__ = [
    "VAE",
    "AnyDiscriminator",
    "Discriminator",
    "Reconstruction",
    "init_variables",
    "make_models",
    "seen_by_discriminator",
]
