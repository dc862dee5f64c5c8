"""How good the VAE is on held-out images while it trains, and the state of its latent space."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from rvae_jax.data import pipeline
from rvae_jax.distributed import processes, sharding
from rvae_jax.errors import UserError
from rvae_jax.evaluation.metrics import latent
from rvae_jax.inference import samplers
from rvae_jax.training.run import Run

# Comparing every reconstruction with every image is quadratic.
_NEAREST_AMONG = 1000


@dataclasses.dataclass(frozen=True)
class Validation:
    """What ``validate`` found.

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

    def __str__(self) -> str:
        """The most telling metrics, in one line."""
        metrics, count = self.metrics, len(self.images)
        return (
            f"L1 {metrics['l1']:.4f} ({metrics['l1_relative_to_mean_image']:.3f} of the mean image's),"
            f" {round(metrics['nearest_is_own'] * count)} of {count} nearest to their own image,"
            f" {metrics['active_units']:.0f} active units"
        )


class Validator:
    """Validates the VAE of a run on its own images, over all its devices."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._mean_image = pipeline.mean_image(run.sources["train"], run.config)
        vae, layout = run.program.vae, run.layout

        def reconstruct(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            mean, log_var = vae.apply(variables, images, method="encode")
            return vae.apply(variables, mean, method="decode"), mean, log_var

        self._reconstruct = jax.jit(
            reconstruct,
            in_shardings=(layout.replicated, layout.batch),
            out_shardings=layout.batch,
            compiler_options=layout.compiler_options,
        )

    def __call__(self, source: str, variables: Any) -> Validation:
        """Validates on ``selection`` or ``validation`` with the VAE's ``variables``."""
        batches = self._batches(self._run.sources[source])
        return validate(functools.partial(self._rows, variables), batches, self._mean_image, processes.gather)

    def population(self, variables: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log variance, ``[n, d]``, of the codes of at most ``samplers.FITTED_TO`` training images."""
        found = []
        for images, mask in self._batches(
            pipeline.evenly_spaced_images(self._run.sources["train"], samplers.FITTED_TO)
        ):
            _, mean, log_var = self._rows(variables, images)
            *rows, mask = processes.gather((mean, log_var, mask))
            found.append([array[mask] for array in rows])
        return tuple(map(np.concatenate, zip(*found, strict=True)))

    def _batches(self, source: pipeline.ImageSource) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        hosts = jax.process_index(), jax.process_count()
        return pipeline.eval_batches(source, self._run.config, self._run.config.batch_size, *hosts)

    def _rows(self, variables: Any, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Reconstructions, means and log variances of this process's images."""
        return tuple(map(sharding.local_rows, self._reconstruct(variables, self._run.layout.split(images))))


def validate(
    reconstruct: Callable[[np.ndarray], tuple[jax.Array, jax.Array, jax.Array]],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    mean_image: np.ndarray,
    gather: Callable[[Any], Any] = lambda rows: rows,
) -> Validation:
    """Measures on every image once.

    Args:
      reconstruct: images to reconstructions from the posterior's mean, means and log variances.
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
    return Validation(
        {name: float(value) for name, value in metrics.items()}, images, reconstructions, means[: len(images)]
    )


def latent_metrics(means: np.ndarray, log_vars: np.ndarray) -> dict[str, float]:
    """The state of the latent space, from the posteriors ``[n, d]`` of a set of images."""
    means, log_vars = means.astype(np.float64), log_vars.astype(np.float64)
    sigma = np.exp(0.5 * log_vars)
    return {
        **latent.population_statistics(means.mean(axis=0), means.var(axis=0), sigma),
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
