"""A trained model: encode, decode, reconstruct, sample."""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from etils import epath

from rvae_jax.config import Config, replace_fields
from rvae_jax.data.pixels import to_float
from rvae_jax.errors import UserError, printable
from rvae_jax.inference import samplers
from rvae_jax.inference.batching import Batched
from rvae_jax.inference.samplers import SamplerName
from rvae_jax.models import VAE, make_models
from rvae_jax.storage import stored_model
from rvae_jax.storage import weights as weights_lib
from rvae_jax.system.files import write_atomically

_FARTHEST = 1.5  # reconstructions, which may be encoded again, go slightly beyond [-1, 1]


class TrainedVAE:
    """A VAE with its weights. Images are float32 ``[n, H, W, C]`` in [-1, 1]; codes ``[n, latent_dim]``.

    Any number of images or codes can be given: they are processed in batches, on all devices of this process.

    Attributes:
      config: the configuration of its run.
      step: the step of its checkpoint.
      vae: the network.
      variables: its weights and statistics; averaged weights where the run kept them.
      workdir: the run's work directory or the exported directory; None for a model that was not loaded.
      source: where it was loaded from, in words.

    Args:
      moments: mean and covariance of the training images' codes, or None to compute them when they are needed.
      best_sampler: what the evaluation found best to sample from, or None without one.
      mixture: of Gaussians that were fitted to the codes, or None to fit it when it is needed.
    """

    def __init__(
        self,
        config: Config,
        step: int,
        vae: VAE,
        variables: Any,
        workdir: epath.Path | None = None,
        source: str = "memory",
        moments: tuple[np.ndarray, np.ndarray] | None = None,
        best_sampler: SamplerName | None = None,
        mixture: samplers.Mixture | None = None,
    ) -> None:
        self.config = config
        self.step = step
        self.vae = vae
        self.variables = variables
        self.workdir = workdir
        self.source = source
        self._moments = moments
        self._best_sampler = best_sampler
        self._stored_mixture = mixture
        self._population: tuple[np.ndarray, np.ndarray] | None = None

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.config.model.image_shape))
        return f"TrainedVAE({shape} images, {self.config.model.latent_dim} latent dimensions; from {self.source})"

    @functools.cached_property
    def _encode(self) -> Batched:
        return Batched(functools.partial(self.vae.apply, method="encode"), self.variables)

    @functools.cached_property
    def _decode(self) -> Batched:
        return Batched(functools.partial(self.vae.apply, method="decode"), self.variables)

    def encode(self, images: np.ndarray, label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log variance of each image's posterior, ``[n, latent_dim]`` each.

        Args:
          images: float32, in [-1, 1].
          label: title of a progress bar, or None for no bar.

        Raises:
          UserError: there are no images, they have another shape than the model's, they are not floats, or values are
            not finite or outside of [-1.5, 1.5].
        """
        expected = tuple(self.config.model.image_shape)
        if np.ndim(images) != 4 or np.shape(images)[1:] != expected or not len(images):
            raise UserError(f"images have shape {np.shape(images)}; expected (n, {', '.join(map(str, expected))})")
        images = np.asarray(images)
        if not np.issubdtype(images.dtype, np.floating):
            raise UserError(f"images are {images.dtype}; expected float32 in [-1, 1]: x / 127.5 - 1")
        least, most = images.min(), images.max()
        if not (least >= -_FARTHEST and most <= _FARTHEST):  # with NaN, too
            raise UserError(f"images have values from {least:g} to {most:g}; expected [-1, 1]: x / 127.5 - 1 of bytes")
        return self._encode(images.astype(np.float32), label=label)

    def decode(self, z: np.ndarray, label: str | None = None) -> np.ndarray:
        """Images of the codes ``z``; values may lie slightly outside [-1, 1], so clip them for display.

        Args:
          z: codes.
          label: title of a progress bar, or None for no bar.

        Raises:
          UserError: ``z`` is not ``[n, latent_dim]``.
        """
        latent_dim = self.config.model.latent_dim
        if np.ndim(z) != 2 or np.shape(z)[1] != latent_dim or not len(z):
            raise UserError(f"z has shape {np.shape(z)}; expected (n, {latent_dim})")
        return self._decode(np.asarray(z, np.float32), label=label)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Decodes the mean of each image's posterior."""
        mean, _ = self.encode(images)
        return self.decode(mean)

    def sample(self, n: int, seed: int = 0, sampler: SamplerName | Literal["auto"] = samplers.AUTO) -> np.ndarray:
        """Decodes ``n`` codes drawn from the prior, or from a distribution fitted to the training images' codes.

        Args:
          n: number of images.
          seed: of the draws.
          sampler: ``prior``, ``gaussian`` or ``mixture``, see ``samplers``; ``auto`` for ``best_sampler``.

        Raises:
          UserError: there is no such sampler, or it needs the training images and they are not there.
        """
        return self.decode(self.codes(n, seed, sampler))

    def codes(self, n: int, seed: int = 0, sampler: SamplerName | Literal["auto"] = samplers.AUTO) -> np.ndarray:
        """The codes that ``sample`` decodes, ``[n, latent_dim]``."""
        samplers.check_name(sampler)
        return self._sampler(self.best_sampler if sampler == samplers.AUTO else sampler).draw(n, seed)

    @property
    def best_sampler(self) -> SamplerName:
        """What ``sampler="auto"`` samples from.

        It is what the evaluation of this step found best, if that is stored with the model: ``evaluate`` leaves it in
        the work directory, and exports have it. Else it is the prior.
        """
        is_stored = {"gaussian": self._moments is not None, "mixture": self._stored_mixture is not None}
        return self._best_sampler if is_stored.get(self._best_sampler) else "prior"

    def _sampler(self, name: SamplerName) -> samplers.Sampler:
        if name == "prior":
            return samplers.prior(self.config.model.latent_dim)
        return self._gaussian if name == "gaussian" else self._mixture

    @functools.cached_property
    def _gaussian(self) -> samplers.Sampler:
        return samplers.gaussian(*self.moments)

    @functools.cached_property
    def _mixture(self) -> samplers.Sampler:
        return samplers.mixture(self.mixture)

    @functools.cached_property
    def mixture(self) -> samplers.Mixture:
        """The mixture of Gaussians that the sampler ``mixture`` draws from; see ``samplers.fit_mixture``.

        Raises:
          UserError: it is not stored with the model, and the training images are not there.
        """
        return samplers.fit_mixture(*self.population) if self._stored_mixture is None else self._stored_mixture

    @functools.cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the population of codes; see ``samplers.mean_and_covariance``.

        Raises:
          UserError: they are not stored with the model, and the training images are not there.
        """
        return samplers.mean_and_covariance(*self.population) if self._moments is None else self._moments

    @property
    def population(self) -> tuple[np.ndarray, np.ndarray]:
        """Posteriors of the training images, or of 10,000 of them, evenly spaced.

        Raises:
          UserError: the images are not there.
        """
        return self.encode_population()

    def encode_population(self, label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What ``population`` is, computed once; ``label`` is the title of a progress bar, or None for no bar."""
        if self._population is None:
            self._population = self.encode(self.images("train", samplers.FITTED_TO), label)
        return self._population

    def images(self, split: str = "validation", limit: int | None = None) -> np.ndarray:
        """Images of the run's data set, as the model takes them.

        Args:
          split: ``train``, ``selection`` or ``validation`` for the run's own; anything else is in TFDS's syntax.
          limit: number of images, evenly spaced, or None for all.

        Raises:
          UserError: the data set, or the split, is not there.
        """
        from rvae_jax.data import reading  # imports TFDS and OpenCV, which a model in use does not need

        return to_float(reading.read_split(self.config, split, limit))

    def encode_folder(self, folder: os.PathLike | str, output: os.PathLike | str) -> int:
        """Encodes every picture in a folder, zip or tar, and writes the codes to an ``.npz``.

        Pictures are cropped and scaled as by ``prepare`` and the run's ``data.crop``. The file has ``names``, ``mean``
        and ``log_var``, one row a picture; ``skipped`` names those that could not be read.

        Args:
          folder: the pictures.
          output: file to write, atomically.

        Returns:
          The number of pictures that were encoded.

        Raises:
          UserError: no picture can be read.
        """
        from rvae_jax.data import reading  # see ``images``

        names, images, skipped = reading.read_folder(Path(folder), self.config)
        if skipped:
            print(f"Warning: {len(skipped):,} left out, which {output} lists as skipped: {printable(skipped[0])}")
        mean, log_var = self.encode(to_float(images))
        content = io.BytesIO()
        np.savez(content, names=names, mean=mean, log_var=log_var, skipped=np.array(skipped, str))
        write_atomically(epath.Path(output), content.getvalue())
        return len(names)


def load(path: epath.PathLike, step: int | None = None, data_dir: str | None = None) -> TrainedVAE:
    """Loads a trained model; ``model.source``, which its repr shows, says from where.

    Args:
      path: the work directory of a run, a directory that ``rvae_jax.export`` made, or a ``.safetensors`` file; local or
        in an object store; or an export on the Hugging Face hub, ``hf://USER/NAME``.
      step: step of the checkpoint, or None for the one with the least error on the selection images.
      data_dir: folder of prepared data sets, if it is not the run's own.

    Raises:
      UserError: there is no model, no checkpoint or none of that step, or it cannot be read.
    """
    return from_stored(stored_model.read(path, step), data_dir)


def from_stored(model: stored_model.StoredModel, data_dir: str | None = None) -> TrainedVAE:
    """A stored model, ready for use; ``data_dir`` as in ``load``."""
    config = model.config if data_dir is None else replace_fields(model.config, {"data.data_dir": data_dir})
    vae, _ = make_models(config.model, adversarial=False)
    variables = weights_lib.evaluation_variables(model.weights)
    best_sampler = model.best_sampler if samplers.is_name(model.best_sampler) else None
    return TrainedVAE(
        config,
        model.step,
        vae,
        variables,
        model.folder,
        model.source,
        moments=model.moments,
        best_sampler=best_sampler,
        mixture=None if model.mixture is None else samplers.Mixture(*model.mixture),
    )
