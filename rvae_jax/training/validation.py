"""How good the VAE is on a set of images, and how its latent space stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from rvae_jax.errors import UserError
from rvae_jax.losses import ACTIVE_UNIT_VARIANCE
from rvae_jax.models import VAE

Reconstruct = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]

# Comparing every reconstruction with every image is quadratic.
_NEAREST_AMONG = 1000


@dataclasses.dataclass
class Evaluation:
    """What ``evaluate`` found.

    Attributes:
      metrics: scalars, see docs/metrics.md.
      images: the first images, at most 1,000, ``[n, H, W, C]`` in [-1, 1].
      reconstructions: of these, from the posterior's mean.
      means: of these, ``[n, d]``.
    """

    metrics: dict[str, float]
    images: np.ndarray
    reconstructions: np.ndarray
    means: np.ndarray


def make_reconstruct(vae: VAE) -> Reconstruct:
    """``reconstruct(variables, images) -> x_hat, mean, log_var``, with ``x_hat`` decoded from the mean."""

    def reconstruct(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, log_var = vae.apply(variables, images, method="encode")
        return vae.apply(variables, mean, method="decode"), mean, log_var

    return reconstruct


def evaluate(
    reconstruct: Callable[[np.ndarray], tuple[jax.Array, jax.Array, jax.Array]],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    mean_image: np.ndarray,
    gather: Callable[[Any], Any] = lambda rows: rows,
) -> Evaluation:
    """Evaluates on every image once.

    Args:
      reconstruct: images to reconstructions, posterior means and log variances.
      batches: images ``[b, H, W, C]`` in [-1, 1] with a mask ``[b]`` of those that count; of several processes, each
        has its part of every batch.
      mean_image: ``[H, W, C]``, the mean of the training images, as the prediction to compare with.
      gather: a tree of rows of this process to those of all, in their order; see ``processes.gather``.

    Raises:
      UserError: no image counts.
    """
    found, shown, room = [], [], _NEAREST_AMONG
    for images, mask in batches:
        x_hat, mean, log_var = (np.asarray(array) for array in reconstruct(images))
        errors = _mean_absolute_error(x_hat, images)
        baseline_errors = _mean_absolute_error(mean_image[None], images)
        *rows, mask = gather((errors, baseline_errors, mean, log_var, mask))
        found.append([array[mask] for array in rows])
        if room > 0:
            shown.append([array[mask][:room] for array in gather((images, x_hat))])
            room -= len(shown[-1][0])
    if not any(len(rows[0]) for rows in found):
        raise UserError("no image to evaluate on: none of the split can be read; prepare the data set again")
    errors, baseline_errors, means, log_vars = map(np.concatenate, zip(*found, strict=True))
    images, reconstructions = map(np.concatenate, zip(*shown, strict=True))
    error, baseline_error = errors.mean(), baseline_errors.mean()
    metrics = {
        "l1": error,
        "l1_of_mean_image": baseline_error,
        "l1_relative_to_mean_image": error / baseline_error,
        "nearest_is_own": nearest_is_own(reconstructions, images).mean(),
        **latent_metrics(means, log_vars),
    }
    return Evaluation(
        {name: float(value) for name, value in metrics.items()}, images, reconstructions, means[: len(images)]
    )


def latent_metrics(means: np.ndarray, log_vars: np.ndarray) -> dict[str, float]:
    """The state of the latent space, from the posteriors ``[n, d]`` of a set of images."""
    means, log_vars = means.astype(np.float64), log_vars.astype(np.float64)
    var = means.var(axis=0)
    sigma = np.exp(0.5 * log_vars)
    return {
        "active_units": np.sum(var > ACTIVE_UNIT_VARIANCE),
        "population_mean_rms": np.sqrt(np.mean(np.square(means.mean(axis=0)))),
        "population_std": np.sqrt(var).mean(),
        "sigma_mean": sigma.mean(),
        "sigma_min": sigma.min(),
        "kl_per_image": 0.5 * np.mean(np.sum(np.square(means) + np.square(sigma) - 1.0 - log_vars, axis=1)),
    }


def nearest_is_own(reconstructions: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Whether each reconstruction is nearer, by squared error, to its own image than to every other; ``[n]`` bool."""
    flat_images = images.reshape(len(images), -1).astype(np.float64)
    flat = reconstructions.reshape(len(images), -1).astype(np.float64)
    # |r - x|^2 up to |r|^2, which is the same for all x.
    distance = np.sum(np.square(flat_images), axis=1)[None, :] - 2.0 * flat @ flat_images.T
    own = np.diag(distance).copy()
    np.fill_diagonal(distance, np.inf)
    return own < distance.min(axis=1)


def _mean_absolute_error(x_hat: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.abs(x_hat.astype(np.float64) - images).mean(axis=(1, 2, 3))
