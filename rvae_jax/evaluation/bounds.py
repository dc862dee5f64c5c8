"""Bounds on the log likelihood of held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rvae_jax.data.pixels import evenly_spaced, to_float
from rvae_jax.evaluation.material import Label, Posteriors
from rvae_jax.evaluation.metrics import likelihood
from rvae_jax.evaluation.results import LikelihoodFigures
from rvae_jax.inference.batching import Batched
from rvae_jax.inference.trained_vae import TrainedVAE

_MOST_IMAGES = 256


def measure_likelihood(
    model: TrainedVAE,
    images: np.ndarray,
    codes: Posteriors,
    *,
    fitted_scale: float,
    samples: int,
    seed: int,
    label: Label,
    skipped: dict[str, str],
) -> LikelihoodFigures | None:
    """Computes the importance-weighted bound, unless the model's loss bounds no Laplace likelihood.

    Args:
      model: the model.
      images: held-out images, uint8 ``[n, H, W, C]``.
      codes: of these images.
      fitted_scale: the Laplace scale that fits the training images best.
      samples: samples per image.
      seed: of the samples.
      label: names the progress bar.
      skipped: takes the reason where there is no bound.
    """
    loss = model.config.loss
    if loss.adversarial != "none" and loss.adversarial_weight:
        skipped["likelihood"] = "the model was trained against a discriminator: its loss bounds no likelihood"
        return None
    if loss.perceptual != "none":
        skipped["likelihood"] = f"the model was trained with loss.perceptual={loss.perceptual}: no likelihood"
        return None
    if loss.reconstruction not in ("l1", "laplace"):
        skipped["likelihood"] = f"loss.reconstruction={loss.reconstruction} is not the logarithm of a Laplace density"
        return None
    few = evenly_spaced(_MOST_IMAGES, len(images))
    size = math.prod(images.shape[1:])
    # As a likelihood, the term has the scale that fits.
    trained_scale = fitted_scale
    if loss.reconstruction == "l1":
        trained_scale = likelihood.trained_scale(size, loss.reconstruction_weight)
    bound = _bound(model.vae.apply, (trained_scale, fitted_scale), samples, seed)
    rows = images[few], codes.mean[few], codes.log_var[few], few
    values = Batched(bound, model.variables, batch_size=8)(*rows, label=label("likelihood"))
    trained, fitted = (float(value) for value in values.astype(np.float64).mean(axis=0))
    return LikelihoodFigures(
        iwae=trained,
        bits_per_dimension=likelihood.bits_per_dimension(trained, size),
        scale=trained_scale,
        iwae_fitted=fitted,
        bits_per_dimension_fitted=likelihood.bits_per_dimension(fitted, size),
        scale_fitted=fitted_scale,
        samples=samples,
        images=len(few),
    )


def _bound(apply: Callable[..., Any], scales: tuple[float, ...], samples: int, seed: int) -> Callable[..., jax.Array]:
    """``(variables, images, mean, log_var, index) -> [n, len(scales)]``; the noise depends on the image's index."""

    def of_scale(
        variables: Any, x: jax.Array, mean: jax.Array, log_var: jax.Array, index: jax.Array, scale: float
    ) -> jax.Array:
        def log_likelihood(x: jax.Array, z: jax.Array) -> jax.Array:
            return likelihood.laplace_log_likelihood(x, apply(variables, z, method="decode"), scale)

        key = jax.random.fold_in(jax.random.key(seed), index)
        rows = x[None], mean[None], log_var[None]
        return likelihood.importance_weighted_bound(*rows, log_likelihood, key, samples)[0]

    def bound(variables: Any, images: jax.Array, *rows: jax.Array) -> jax.Array:
        def of_image(*row: jax.Array) -> jax.Array:
            return jnp.stack([of_scale(variables, *row, scale) for scale in scales])

        return jax.vmap(of_image)(to_float(images), *rows)

    return bound
