"""The pictures of a run: reconstructions, samples from the prior, transitions."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from rvae_jax.drawing import grids
from rvae_jax.training.run import Run
from rvae_jax.training.validation import Validation

_SAMPLES = 3 * grids.SHOWN


class Painter:
    """Draws what the VAE of a run does, always with the same noise."""

    def __init__(self, run: Run) -> None:
        replicated = run.layout.replicated
        self._decode = jax.jit(
            functools.partial(run.program.vae.apply, method="decode"),
            out_shardings=replicated,
            compiler_options=run.layout.compiler_options,
        )
        shape = (_SAMPLES, run.config.model.latent_dim)
        self._prior = np.asarray(
            jax.jit(functools.partial(jax.random.normal, shape=shape), out_shardings=replicated)(run.picture_key)
        )

    def __call__(self, validation: Validation, variables: Any) -> dict[str, np.ndarray]:
        """Pictures by name, ``[h, w, 3]`` uint8 each.

        Args:
          validation: of these variables.
          variables: the VAE's.
        """
        pairs, between = grids.transition_codes(validation.means)
        codes = np.concatenate([self._prior, between.reshape(-1, between.shape[-1])])
        decoded = np.asarray(self._decode(variables, codes))
        samples = decoded[:_SAMPLES].reshape(-1, grids.SHOWN, *decoded.shape[1:])
        transitions = decoded[_SAMPLES:].reshape(*between.shape[:2], *decoded.shape[1:])
        return {
            "reconstructions": grids.reconstruction_grid(validation.images, validation.reconstructions),
            "samples": grids.grid(list(samples)),
            "transition": grids.transition_grid(validation.images, pairs, transitions),
        }
