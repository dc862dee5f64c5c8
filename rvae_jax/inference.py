"""Using a trained model: encode, decode, reconstruct, sample."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from etils import epath

from rvae_jax.checkpoint import load_weights
from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.models import VAE
from rvae_jax.train_state import make_models
from rvae_jax.workdir import open_workdir


class TrainedVAE:
    """A VAE with its weights. Images are float32 ``[n, H, W, C]`` in [-1, 1]; codes ``[n, latent_dim]``.

    Attributes:
      config: configuration of the run that it comes from.
      step: step of the checkpoint that it comes from.
      vae: the network.
      variables: its weights and statistics; averaged weights where the run kept them.
    """

    def __init__(self, config: Config, step: int, vae: VAE, variables: Any) -> None:
        self.config = config
        self.step = step
        self.vae = vae
        self.variables = variables

    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(functools.partial(self.vae.apply, method="encode"))

    @functools.cached_property
    def _decode(self) -> Any:
        return jax.jit(functools.partial(self.vae.apply, method="decode"))

    def encode(self, images: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of each image's posterior, ``[n, latent_dim]`` each.

        Raises:
          UserError: the images' shape is not the model's.
        """
        expected = tuple(self.config.model.image_shape)
        if np.ndim(images) != 4 or np.shape(images)[1:] != expected:
            raise UserError(f"images have shape {np.shape(images)}; expected (n, {', '.join(map(str, expected))})")
        return self._encode(self.variables, np.asarray(images, np.float32))

    def decode(self, z: np.ndarray) -> jax.Array:
        """Images of the codes ``z``; values may leave [-1, 1] a little, clip them to show.

        Raises:
          UserError: ``z`` is not ``[n, latent_dim]``.
        """
        latent_dim = self.config.model.latent_dim
        if np.ndim(z) != 2 or np.shape(z)[1] != latent_dim:
            raise UserError(f"z has shape {np.shape(z)}; expected (n, {latent_dim})")
        return self._decode(self.variables, np.asarray(z, np.float32))

    def reconstruct(self, images: np.ndarray) -> jax.Array:
        """Decodes the mean of each image's posterior."""
        mean, _ = self.encode(images)
        return self.decode(mean)

    def sample(self, n: int, seed: int = 0) -> jax.Array:
        """Decodes ``n`` draws from the prior N(0, I)."""
        return self.decode(jax.random.normal(jax.random.key(seed), (n, self.config.model.latent_dim)))


def load(workdir: epath.PathLike, step: int | None = None) -> TrainedVAE:
    """Loads the model of a run.

    Args:
      workdir: the run's work directory, local or in an object store.
      step: step of the checkpoint, or None for the one with the least error on the selection images.

    Raises:
      UserError: there is no run, no checkpoint, none of that step, or it cannot be read.
    """
    config, weights, step = load_weights(open_workdir(workdir), step)
    vae, _ = make_models(config.model, adversarial=False)
    variables = weights["vae"]
    if "ema_params" in weights:
        variables = {**variables, "params": weights["ema_params"]}
    return TrainedVAE(config, step, vae, variables)
