"""The paper's figures, and more, of a trained model; ``rvae_jax.figures`` is the command."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from PIL import Image

from rvae_jax.data.pixels import evenly_spaced, to_uint8
from rvae_jax.drawing import grids
from rvae_jax.errors import UserError
from rvae_jax.inference import interpolation
from rvae_jax.system.files import write_atomically

# What brings JAX is imported where it is used: after --help.
if TYPE_CHECKING:
    from rvae_jax.inference.trained_vae import TrainedVAE

FOLDER = "figures"
ATTRIBUTES_SHOWN = 40

_PAIRS = 4
_BETWEEN = 8
_FRAMES = 24
_FRAME_MS = 80
_ROWS = 8
_RELEASED_DELTA = 20.0
_DEVIATIONS = np.linspace(-3.0, 3.0, 7)
_ATTRIBUTE_STEPS = np.linspace(-2.0, 2.0, 7)
_LABELLED = 10_000
_COMPARED = 10_000


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
      frames: uint8 ``[h, w, 3]`` each; one, or those of an animation.
      caption: what is to be seen.
    """

    frames: list[np.ndarray]
    caption: str

    def encoded(self) -> tuple[bytes, str]:
        """The file's content and suffix: PNG, or animated WebP, which runs forth and back."""
        images = [Image.fromarray(frame) for frame in self.frames]
        content = io.BytesIO()
        if len(images) == 1:
            images[0].save(content, format="PNG", optimize=True)
            return content.getvalue(), "png"
        there_and_back = [*images, *images[-2:0:-1]]
        there_and_back[0].save(
            content,
            format="WEBP",
            save_all=True,
            append_images=there_and_back[1:],
            duration=_FRAME_MS,
            loop=0,
            quality=90,
        )
        return content.getvalue(), "webp"


class Drawer:
    """Draws figures of one model. Images are those held out, at equal distances, or the user's own.

    Args:
      model: the model.
      images: float32 in [-1, 1], ``[n, H, W, C]``, at least two; None for the held-out ones.
      seed: of the samples.
      enlarged: whether small pictures are enlarged to be seen; else pixels stay as they are.
      orthogonal: whether attribute directions are made orthogonal.

    Raises:
      UserError: fewer than two images are given.
    """

    def __init__(
        self,
        model: TrainedVAE,
        images: np.ndarray | None = None,
        seed: int = 0,
        enlarged: bool = False,
        orthogonal: bool = False,
    ) -> None:
        self.model = model
        if images is not None:
            self.images = _at_least_two(images)
        self.seed, self.orthogonal = seed, orthogonal
        self._grid = functools.partial(grids.grid, least_tile=grids.LEAST_TILE if enlarged else 0)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The images that figures show."""
        return _at_least_two(self.model.images("validation", 2 * grids.SHOWN))

    @functools.cached_property
    def means(self) -> np.ndarray:
        """Codes of the images."""
        return self.model.encode(self.images)[0]

    def all(
        self, names: Container[str] | None = None, warn: Callable[[str], None] = print
    ) -> Iterator[tuple[str, Figure]]:
        """Every figure, or those of ``names``, by name; where the data set is gone, it warns of those that need it."""
        drawings = {
            "reconstructions": self.reconstructions,
            **{f"samples_{name}": functools.partial(self.samples, name) for name in ("prior", "gaussian", "mixture")},
            **{f"transitions_{kind}": functools.partial(self.transitions, kind) for kind in ("linear", "spherical")},
            "transition_animated": self.animation,
            "variants_released": self.released_variants,
            "variants_active": self.active_variants,
            "variants_principal": self.principal_variants,
            "attributes": self.attributes,
            "neighbours": self.neighbours,
        }
        left_out = collections.defaultdict(list)
        for name, draw in drawings.items():
            if names is not None and name not in names:
                continue
            try:
                figure = draw()
            except UserError as error:
                left_out[str(error)].append(name)
                continue
            if figure is not None:
                yield name, figure
        for reason, without in left_out.items():
            warn(f"Left out: {', '.join(without)}: {reason}")

    def reconstructions(self) -> Figure:
        """Each image above its reconstruction."""
        decoded = self.model.decode(self.means)
        rows = []
        for start in range(0, len(self.images), grids.SHOWN):
            part = slice(start, start + grids.SHOWN)
            rows += [self.images[part], decoded[part]]
        return Figure([self._grid(rows)], "Images, each above its reconstruction from the posterior's mean.")

    def samples(self, sampler: str) -> Figure:
        """Three rows of samples."""
        decoded = self.model.sample(3 * grids.SHOWN, self.seed, sampler)
        whence = {
            "prior": "the prior N(0, I)",
            "gaussian": "the Gaussian fitted to the training images' codes",
            "mixture": "a mixture of ten Gaussians fitted to the training images' codes",
        }
        rows = list(decoded.reshape(3, grids.SHOWN, *decoded.shape[1:]))
        return Figure([self._grid(rows)], f"Samples from {whence[sampler]}.")

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the images that transitions lead from and to."""
        pairs = min(_PAIRS, len(self.images) // 2)
        chosen = evenly_spaced(2 * pairs, len(self.images))
        return chosen[:pairs], chosen[pairs:]

    def transitions(self, kind: interpolation.Interpolation) -> Figure:
        """The paper's figure 5: a row for each pair of images, these at its ends."""
        start, end = self._ends()
        codes = interpolation.transition(self.means[start], self.means[end], _BETWEEN, kind)
        decoded = self._decoded(codes)
        rows = [
            np.concatenate([self.images[[a]], between, self.images[[b]]])
            for a, b, between in zip(start, end, decoded, strict=True)
        ]
        by = "convex combinations" if kind == "linear" else "spherical interpolations"
        return Figure([self._grid(rows)], f"Transitions between images, at the ends, by {by} of their codes.")

    def animation(self) -> Figure:
        """The linear transitions, side by side, moving."""
        start, end = self._ends()
        decoded = self._decoded(interpolation.transition(self.means[start], self.means[end], _FRAMES))
        frames = [self._grid([decoded[:, frame]]) for frame in range(_FRAMES)]
        return Figure(frames, "The transitions by convex combination, moving forth and back.")

    def released_variants(self) -> Figure:
        """The paper's figure 4: z_0 and z_1 moved by delta times the posterior's deviation."""
        mean, log_var = self.model.encode(self.images[:1])
        delta = np.array([-_RELEASED_DELTA, 0.0, _RELEASED_DELTA])
        sigma = np.exp(0.5 * log_var[0, :2])
        decoded = self._decoded(interpolation.variants(mean[0], (0, 1), (delta * sigma[0], delta * sigma[1])))
        return Figure(
            [self._grid(list(decoded))],
            "One image with z_0 (down) and z_1 (right) moved by -20, 0 and 20 deviations of its posterior.",
        )

    def active_variants(self) -> Figure:
        """The most active dimensions, in units of the population's deviation."""
        means, _ = self.model.population
        deviation = means.std(axis=0)
        chosen = np.argsort(-deviation)[: min(_ROWS, len(deviation))]
        directions = np.eye(len(deviation), dtype=np.float32)[chosen] * deviation[chosen, None]
        decoded = self._decoded(interpolation.along(self.means[0], directions, _DEVIATIONS))
        return Figure(
            [self._grid(list(decoded))],
            "One image with its code moved along the most active dimensions (a row each: "
            + ", ".join(f"z_{index}" for index in chosen)
            + ") by -3 to 3 deviations of the population of training images.",
        )

    def principal_variants(self) -> Figure:
        """The directions in which the population varies most, in units of its deviation there."""
        means, _ = self.model.population
        _, singular, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
        scaled = directions[:_ROWS] * singular[:_ROWS, None] / np.sqrt(len(means))
        decoded = self._decoded(interpolation.along(self.means[0], scaled, _DEVIATIONS))
        return Figure(
            [self._grid(list(decoded))],
            "One image with its code moved along the population's first principal components (a row each) by -3 to 3"
            " deviations.",
        )

    def attributes(self) -> Figure | None:
        """What each attribute does to an image, a row each; None where the data has no labels."""
        directions = self.attribute_directions()
        if not directions:
            return None
        names = list(directions)[:ATTRIBUTES_SHOWN]
        codes = interpolation.along(self.means[0], np.stack([directions[name] for name in names]), _ATTRIBUTE_STEPS)
        made = "orthogonal " if self.orthogonal else ""
        return Figure(
            [self._grid(list(self._decoded(codes)))],
            f"One image with its code moved along {made}attribute directions, by -2 to 2 times the difference between"
            " the images that have the attribute and those that do not. From above: " + ", ".join(names) + ".",
        )

    def attribute_directions(self) -> dict[str, np.ndarray]:
        """Directions of the data set's attributes; see ``interpolation.attribute_directions``."""
        from rvae_jax.data import reading
        from rvae_jax.data.pixels import to_float

        images, attributes = reading.read_labelled(self.model.config, "train", _LABELLED)
        if not attributes:
            return {}
        means, _ = self.model.encode(to_float(images))
        try:
            return interpolation.attribute_directions(means, attributes, self.orthogonal)
        except ValueError as error:
            raise UserError(f"--orthogonal: {error}") from None

    def neighbours(self) -> Figure:
        """Samples from the prior above their nearest training images."""
        from rvae_jax.data import reading
        from rvae_jax.data.pixels import to_float
        from rvae_jax.evaluation.metrics import memorisation

        training = reading.read_split(self.model.config, "train", _COMPARED)
        if len(training) < 2:
            raise UserError(f"{len(training)} training image; expected at least 2 to tell a copy by")
        samples = to_uint8(self.model.sample(3 * grids.SHOWN, self.seed))
        flip = self.model.config.data.flip
        near, indices = memorisation.nearest(samples, training, flip)
        chosen = np.argsort(memorisation.likeness(near))[: grids.SHOWN]
        return Figure(
            [self._grid([to_float(samples[chosen]), to_float(training[indices[chosen, 0]])])],
            f"Those of {len(samples)} samples from the prior that are most like one of {len(training):,} training"
            f" images and no other, above that image{', or what is its mirror image' if flip else ''}.",
        )

    def _decoded(self, codes: np.ndarray) -> np.ndarray:
        decoded = self.model.decode(codes.reshape(-1, codes.shape[-1]))
        return decoded.reshape(*codes.shape[:-1], *decoded.shape[1:])


def _at_least_two(images: np.ndarray) -> np.ndarray:
    if len(images) < 2:
        raise UserError(f"{len(images)} image; expected at least 2, for the transitions between them")
    return images


def save(folder: epath.Path, name: str, figure: Figure) -> epath.Path:
    """Writes a figure; the file is there only when it is whole."""
    content, suffix = figure.encoded()
    path = folder / f"{name}.{suffix}"
    write_atomically(path, content)
    return path


def read_pictures(paths: list[Path], model: TrainedVAE, warn: Callable[[str], None] = print) -> np.ndarray:
    """The user's own pictures as the model takes them; says what is converted or left out.

    Raises:
      UserError: a path has no picture that can be used.
    """
    from rvae_jax.data import reading
    from rvae_jax.data.pixels import to_float

    found = []
    for path in paths:
        _, images, skipped = reading.read_folder(path, model.config)
        for line in skipped:
            warn(f"Left out: {line}")
        found.append(images)
    height, width, channels = model.config.model.image_shape
    count = sum(map(len, found))
    colours = "grey" if channels == 1 else "RGB"
    warn(f"{count} pictures, cut and scaled to {height}x{width}, made {colours} where they are not")
    return to_float(np.concatenate(found))
