"""What the figures of an evaluation are measured on: images of the run, their codes and reconstructions, and samples.

Images are uint8, ``[n, H, W, C]``; codes are posteriors' means and log variances, ``[n, d]`` each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rvae_jax.config import Config
from rvae_jax.data import reading
from rvae_jax.data.pixels import to_float
from rvae_jax.evaluation.settings import EvaluationSettings
from rvae_jax.inference import samplers
from rvae_jax.inference.batching import Batched
from rvae_jax.inference.samplers import SamplerName
from rvae_jax.inference.trained_vae import TrainedVAE

Label = Callable[[str], str | None]  # what a progress bar is called; None for no bar
Encode = Callable[..., tuple[np.ndarray, np.ndarray]]  # images, label= of the bar: means and log variances
Decode = Callable[..., np.ndarray]  # codes, label= of the bar: images


class Posteriors(NamedTuple):
    """Posteriors of a set of images."""

    mean: np.ndarray
    log_var: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageSets:
    """The run's held-out and training images.

    Attributes:
      held_out: the held-out images.
      training: the training images.
      training_total: size of the training split, of which ``training`` may be a part.
      matched: indices into ``training`` of as many images as there are held-out ones, drawn at random.
    """

    held_out: np.ndarray
    training: np.ndarray
    training_total: int
    matched: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.held_out.shape[1:3]


@dataclasses.dataclass(frozen=True)
class Material:
    """Everything that is made with the model once and measured by several figures.

    Attributes:
      images: the run's images.
      held_out: codes of the held-out images.
      training: codes of the training images.
      reconstructions: of the held-out images, decoded from the posteriors' means.
      mixture: of Gaussians, fitted to the training codes.
      samples: as many images as there are held-out ones, by the sampler's name.
      matched_reconstructions: of the training images ``images.matched``.
    """

    images: ImageSets
    held_out: Posteriors
    training: Posteriors
    reconstructions: np.ndarray
    mixture: samplers.Mixture | None
    samples: dict[str, np.ndarray]
    matched_reconstructions: np.ndarray


def make_material(model: TrainedVAE, settings: EvaluationSettings, label: Label) -> Material:
    """Reads images, encodes and decodes them, and draws samples.

    Raises:
      UserError: the run's data set is missing, or has too few images.
    """
    images = read_image_sets(model.config, settings)
    return material_of(images, *coder_of(model), settings.seed, label)


def material_of(images: ImageSets, encode: Encode, decode: Decode, seed: int, label: Label) -> Material:
    """Encodes and decodes images, and draws samples, with any model that has codes.

    Args:
      images: the images.
      encode: from images to their posteriors.
      decode: from codes to images.
      seed: of the draws.
      label: names the progress bars.

    Raises:
      UserError: there are too few images.
    """
    held_out = Posteriors(*encode(images.held_out, label=label("encode held-out images")))
    training = Posteriors(*encode(images.training, label=label("encode training images")))
    reconstructions = decode(held_out.mean, label=label("reconstruct held-out images"))
    mixture = samplers.fit_mixture(*training, seed)
    fits = fitted_samplers(training, mixture)
    samples = {
        name: decode(fit.draw(len(images.held_out), seed), label=label(f"samples: {name}"))
        for name, fit in fits.items()
    }
    matched = decode(training.mean[images.matched], label=label("reconstruct training images"))
    return Material(images, held_out, training, reconstructions, mixture, samples, matched)


def fitted_samplers(training: Posteriors, mixture: samplers.Mixture) -> dict[SamplerName, samplers.Sampler]:
    """The samplers, the simplest first; ``mixture`` was fitted to the training images' codes."""
    return {
        "prior": samplers.prior(training.mean.shape[1]),
        "gaussian": samplers.gaussian(*samplers.mean_and_covariance(*training)),
        "mixture": samplers.mixture(mixture),
    }


def coder_of(model: TrainedVAE) -> tuple[Encode, Decode]:
    """A model as ``material_of`` takes it."""

    def decode(variables: Any, z: jax.Array) -> jax.Array:
        x = jnp.clip(model.vae.apply(variables, z, method="decode"), -1.0, 1.0)
        return jnp.round((x + 1.0) * 127.5).astype(jnp.uint8)

    encode = functools.partial(model.vae.apply, method="encode")
    encoder = Batched(lambda variables, images: encode(variables, to_float(images)), model.variables)
    return encoder, Batched(decode, model.variables)


def read_image_sets(config: Config, settings: EvaluationSettings) -> ImageSets:
    """Reads the run's held-out and training images.

    Raises:
      UserError: the run's data set is missing.
    """
    held_out = reading.read_split(config, settings.split, settings.images)
    training = reading.read_split(config, "train", settings.training_images)
    order = np.random.default_rng(settings.seed).permutation(len(training))
    return ImageSets(held_out, training, reading.count(config, "train"), np.sort(order[: len(held_out)]))
