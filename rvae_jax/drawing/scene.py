"""What figures are drawn of: a trained model, and the images that it is shown with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rvae_jax.data import reading
from rvae_jax.data.pixels import to_float
from rvae_jax.drawing import grids
from rvae_jax.errors import UserError
from rvae_jax.inference.trained_vae import TrainedVAE


@dataclasses.dataclass(frozen=True)
class Scene:
    """A model, its images, and how to draw them.

    Attributes:
      model: the model.
      given: images to show, float32 in [-1, 1], ``[n, H, W, C]``; None for held-out images, evenly spaced.
      seed: seed of the samples.
      enlarged: whether to enlarge small images; otherwise figures have the model's resolution.
      orthogonal: whether to make attribute directions orthogonal.
    """

    model: TrainedVAE
    given: np.ndarray | None = None
    seed: int = 0
    enlarged: bool = False
    orthogonal: bool = False

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The images to show.

        Raises:
          UserError: the run's data set is missing.
        """
        return self.model.images("validation", 2 * grids.SHOWN) if self.given is None else self.given

    @property
    def paired_means(self) -> np.ndarray:
        """Codes of the images, which are at least two.

        Raises:
          UserError: there is one image only.
        """
        if len(self.images) < 2:
            raise UserError(f"{len(self.images)} image; expected at least 2, for the transitions between them")
        return self.means

    @functools.cached_property
    def means(self) -> np.ndarray:
        """Codes of the images, ``[n, d]``."""
        return self.model.encode(self.images)[0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Images ``[..., H, W, C]`` of codes ``[..., d]``."""
        decoded = self.model.decode(codes.reshape(-1, codes.shape[-1]))
        return decoded.reshape(*codes.shape[:-1], *decoded.shape[1:])

    def grid(self, rows: list[np.ndarray]) -> np.ndarray:
        """See ``grids.grid``."""
        return grids.grid(rows, least_tile=grids.LEAST_TILE if self.enlarged else 0)


def read_pictures(paths: list[Path], model: TrainedVAE, warn: Callable[[str], None] = print) -> np.ndarray:
    """Reads the user's own pictures as the model takes them; warns of those that are left out and of conversions.

    Raises:
      UserError: a path has no picture that can be used.
    """
    found = []
    for path in paths:
        _, images, skipped = reading.read_folder(path, model.config)
        for line in skipped:
            warn(f"Left out: {line}")
        found.append(images)
    height, width, channels = model.config.model.image_shape
    count = sum(map(len, found))
    colours = "grey" if channels == 1 else "RGB"
    warn(f"{count} pictures, cropped and resized to {height}x{width}, converted to {colours} where needed")
    return to_float(np.concatenate(found))
