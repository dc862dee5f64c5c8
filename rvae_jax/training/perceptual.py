"""The perceptual term of the objective: LPIPS through a frozen network, on complete images or on random windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from rvae_jax import losses
from rvae_jax.models.features import FeatureWeights, Maps, crop, crop_corners, features, lpips
from rvae_jax.training.draws import rows_of_batch

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Terms = dict[str, jax.Array]  # scalars by name
Draws = dict[str, jax.Array]  # random numbers by purpose, one row an image


def make_draws(loss: LossConfig, key: jax.Array, images: jax.Array, axis_name: str | None) -> Draws:
    """The corners of the images' windows, ``[b, 2]``, where the term sees windows."""
    if loss.perceptual == "none" or not loss.perceptual_crop:
        return {}
    return {"corners": draw_corners(loss.perceptual_crop, key, images.shape, axis_name)}


def draw_corners(size: int, key: jax.Array, shape: Sequence[int], axis_name: str | None) -> jax.Array:
    """Corners of random windows of a step's images, of a device's shape ``[b, H, W, C]``: ``[b, 2]``."""

    def draw(key: jax.Array, corners_shape: tuple[int, ...]) -> jax.Array:
        return crop_corners(key, corners_shape[0], shape[1:], size)

    return rows_of_batch(draw, jax.random.fold_in(key, 4), (shape[0], 2), axis_name)


def perceptual_terms(
    loss: LossConfig, frozen: dict[str, FeatureWeights] | None, x_hat: jax.Array, images: jax.Array, draws: Draws
) -> Terms:
    """LPIPS of reconstructions and images, mean over the batch; nothing without the term.

    Args:
      loss: the objective.
      frozen: weights by the network's name.
      x_hat: reconstructions, ``[b, H, W, C]``.
      images: ``[b, H, W, C]``.
      draws: of ``make_draws``.

    Raises:
      ValueError: the weights are not given.
    """
    if loss.perceptual == "none":
        return {}
    if frozen is None or loss.perceptual not in frozen:
        raise ValueError(f"train_step: loss.perceptual={loss.perceptual} needs its weights in the argument `frozen`")
    weights = frozen[loss.perceptual]
    if loss.perceptual_crop:
        x_hat, images = (crop(each, draws["corners"], loss.perceptual_crop) for each in (x_hat, images))

    def maps(images: jax.Array) -> Maps:
        return features(weights, images)[: loss.perceptual_stages]

    distance = losses.perceptual_reconstruction(x_hat, images, lambda a, b: lpips(weights, maps(b), maps(a)))
    return {"perceptual": jnp.mean(distance)}
