"""The first weights of the networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rvae_jax.models.opponents import AnyDiscriminator, example_for_discriminator
from rvae_jax.models.vae import VAE


def init_variables(vae: VAE, discriminator: AnyDiscriminator | None, key: jax.Array) -> dict[str, dict[str, Any]]:
    """Variables of the networks: kernels Glorot uniform, biases 0, norms gamma 1, beta 0, statistics 0 and 1.

    Args:
      vae: the VAE.
      discriminator: the discriminator, or None.
      key: a JAX random key.

    Returns:
      ``vae`` and, if there is one, ``discriminator``: each the collections ``params`` and ``batch_stats``.
    """
    vae_key, discriminator_key = jax.random.split(key)
    image = jnp.zeros((1, *vae.config.image_shape))
    variables = {"vae": vae.init(vae_key, image, jnp.zeros((1, vae.config.latent_dim)))}
    if discriminator is not None:
        variables["discriminator"] = discriminator.init(discriminator_key, example_for_discriminator(vae.config))
    return {name: {"batch_stats": {}, **of_network} for name, of_network in variables.items()}
