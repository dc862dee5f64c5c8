"""The figures of a trained model: those of the paper, and more; each function of ``FIGURES`` draws one."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Container, Iterator

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from rvae_jax.data import reading
from rvae_jax.data.pixels import to_float, to_uint8
from rvae_jax.drawing import grids
from rvae_jax.drawing.scene import Scene
from rvae_jax.errors import UserError
from rvae_jax.inference import interpolation
from rvae_jax.system.files import write_atomically

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

_SAMPLED_FROM = {
    "prior": "the prior N(0, I)",
    "gaussian": "the Gaussian fitted to the training images' codes",
    "mixture": "a mixture of Gaussians fitted to the training images' codes",
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture or an animation.

    Attributes:
      frames: uint8 ``[h, w, 3]`` each; one, or more for an animation.
      caption: what it shows.
      rows: what each row of images is, from top to bottom; empty where rows do not differ in kind.
    """

    frames: list[np.ndarray]
    caption: str
    rows: tuple[str, ...] = ()

    def encoded(self) -> tuple[bytes, str]:
        """The content and suffix of its file: PNG, or WebP for an animation, which plays forwards and backwards."""
        images = [Image.fromarray(frame) for frame in self.frames]
        content = io.BytesIO()
        if len(images) == 1:
            images[0].save(content, format="PNG", optimize=True)
            return content.getvalue(), "png"
        backwards = images[-2:0:-1]
        images[0].save(
            content,
            format="WEBP",
            save_all=True,
            append_images=[*images[1:], *backwards],
            duration=_FRAME_MS,
            loop=0,
            quality=90,
        )
        return content.getvalue(), "webp"


def draw(
    scene: Scene,
    names: Container[str] | None = None,
    warn: Callable[[str], None] = print,
    label: str | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Draws figures.

    Args:
      scene: what they are of.
      names: of the figures to draw, or None for all.
      warn: takes a line on the figures that lack what they need, such as the data.
      label: title of progress bars, or None for none.

    Yields:
      Name and figure.
    """
    if label is not None:
        with contextlib.suppress(UserError):  # which the figures that need them name below
            scene.model.encode_population(f"{label}: codes of training images")
    left_out = collections.defaultdict(list)
    chosen = [name for name in FIGURES if names is None or name in names]
    with tqdm(chosen, desc=label, unit=" figures", disable=label is None) as progress:
        for name in progress:
            progress.set_postfix_str(name)
            try:
                figure = FIGURES[name](scene)
            except UserError as error:
                left_out[str(error)].append(name)
                continue
            if figure is not None:
                yield name, figure
        progress.set_postfix_str("")
    for reason, missing in left_out.items():
        warn(f"Left out: {', '.join(missing)}: {reason}")


def save(folder: epath.Path, name: str, figure: Figure) -> epath.Path:
    """Writes a figure atomically, and returns its path."""
    content, suffix = figure.encoded()
    path = folder / f"{name}.{suffix}"
    write_atomically(path, content)
    return path


def reconstructions(scene: Scene) -> Figure:
    """Each image above its reconstruction."""
    rows = grids.reconstruction_rows(scene.images, scene.decode(scene.means))
    labels = ("image", "reconstruction") * (len(rows) // 2)
    return Figure([scene.grid(rows)], "Images, each above its reconstruction from the posterior's mean.", labels)


def samples(scene: Scene, sampler: str) -> Figure:
    """Three rows of samples."""
    decoded = scene.model.sample(3 * grids.SHOWN, scene.seed, sampler)
    rows = list(decoded.reshape(3, grids.SHOWN, *decoded.shape[1:]))
    return Figure([scene.grid(rows)], f"Samples from {_SAMPLED_FROM[sampler]}.")


def transitions(scene: Scene, kind: interpolation.Interpolation) -> Figure:
    """The paper's figure 5: one row for each pair of images, which are at its ends."""
    pairs, codes = grids.transition_codes(scene.paired_means, _PAIRS, _BETWEEN, kind)
    rows = grids.transition_rows(scene.images, pairs, scene.decode(codes))
    how = "convex combination" if kind == "linear" else "spherical interpolation"
    return Figure([scene.grid(rows)], f"Transitions between the images at both ends, by {how} of their codes.")


def animated_transitions(scene: Scene) -> Figure:
    """The linear transitions, side by side, as an animation."""
    _, codes = grids.transition_codes(scene.paired_means, _PAIRS, _FRAMES)
    decoded = scene.decode(codes)
    frames = [scene.grid([decoded[:, frame]]) for frame in range(_FRAMES)]
    return Figure(frames, "The transitions by convex combination, forwards and backwards.")


def released_variants(scene: Scene) -> Figure:
    """The paper's figure 4: z_0 and z_1 moved by multiples of the posterior's deviation."""
    mean, log_var = scene.model.encode(scene.images[:1])
    delta = np.array([-_RELEASED_DELTA, 0.0, _RELEASED_DELTA])
    sigma = np.exp(0.5 * log_var[0, :2])
    codes = interpolation.variants(mean[0], (0, 1), (delta * sigma[0], delta * sigma[1]))
    return Figure(
        [scene.grid(list(scene.decode(codes)))],
        "One image with z_0 (down) and z_1 (right) moved by -20, 0 and 20 deviations of its posterior.",
        tuple(f"z_0 {step:+.0f}" if step else "z_0" for step in delta),
    )


def active_variants(scene: Scene) -> Figure:
    """The most active dimensions, in units of the population's deviation."""
    means, _ = scene.model.population
    deviation = means.std(axis=0)
    chosen = np.argsort(-deviation)[: min(_ROWS, len(deviation))]
    directions = np.eye(len(deviation), dtype=np.float32)[chosen] * deviation[chosen, None]
    codes = interpolation.along(scene.means[0], directions, _DEVIATIONS)
    names = tuple(f"z_{index}" for index in chosen)
    return Figure(
        [scene.grid(list(scene.decode(codes)))],
        f"One image with its code moved along the most active dimensions (one row each: {', '.join(names)}) by -3 to 3"
        " deviations of the population of training images.",
        names,
    )


def principal_variants(scene: Scene) -> Figure:
    """The directions in which the population varies most, in units of its deviation there."""
    means, _ = scene.model.population
    _, singular, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    scaled = directions[:_ROWS] * singular[:_ROWS, None] / np.sqrt(len(means))
    codes = interpolation.along(scene.means[0], scaled, _DEVIATIONS)
    return Figure(
        [scene.grid(list(scene.decode(codes)))],
        "One image with its code moved along the population's first principal components (one row each) by -3 to 3"
        " deviations.",
        tuple(f"component {number}" for number in range(1, len(scaled) + 1)),
    )


def attributes(scene: Scene) -> Figure | None:
    """The effect of each attribute on an image, one row each; None if the data has no labels."""
    directions = attribute_directions(scene)
    if not directions:
        return None
    names = list(directions)[:ATTRIBUTES_SHOWN]
    codes = interpolation.along(scene.means[0], np.stack([directions[name] for name in names]), _ATTRIBUTE_STEPS)
    orthogonal = "orthogonal " if scene.orthogonal else ""
    return Figure(
        [scene.grid(list(scene.decode(codes)))],
        f"One image with its code moved along {orthogonal}attribute directions, by -2 to 2 times the difference"
        f" between images with the attribute and images without it. From top to bottom: {', '.join(names)}.",
        tuple(names),
    )


def attribute_directions(scene: Scene) -> dict[str, np.ndarray]:
    """Directions of the data set's attributes; see ``interpolation.attribute_directions``.

    Raises:
      UserError: the data set is missing, or ``orthogonal`` with more attributes than dimensions.
    """
    images, labels = reading.read_labelled(scene.model.config, "train", _LABELLED)
    if not labels:
        return {}
    means, _ = scene.model.encode(to_float(images))
    try:
        return interpolation.attribute_directions(means, labels, scene.orthogonal)
    except ValueError as error:
        raise UserError(f"--orthogonal: {error}") from None


def neighbours(scene: Scene) -> Figure:
    """Samples from the prior above their nearest training images."""
    from rvae_jax.evaluation.metrics import memorisation  # scikit-learn, of another extra

    training = reading.read_split(scene.model.config, "train", _COMPARED)
    if len(training) < 2:
        raise UserError(f"{len(training)} training image; expected at least 2, to compare samples with")
    drawn = to_uint8(scene.model.sample(3 * grids.SHOWN, scene.seed, "prior"))
    mirrored = scene.model.config.data.flip
    near, indices = memorisation.nearest_training_images(drawn, training, mirrored)
    chosen = np.argsort(memorisation.likeness(near))[: grids.SHOWN]
    return Figure(
        [scene.grid([to_float(drawn[chosen]), to_float(training[indices[chosen, 0]])])],
        f"The {len(chosen)} of {len(drawn)} samples from the prior that most resemble a single one of"
        f" {len(training):,} training images, each above that image"
        f"{' (or the image that it mirrors)' if mirrored else ''}.",
        ("sample", "training image"),
    )


FIGURES: dict[str, Callable[[Scene], Figure | None]] = {
    "reconstructions": reconstructions,
    **{f"samples_{name}": functools.partial(samples, sampler=name) for name in _SAMPLED_FROM},
    **{f"transitions_{kind}": functools.partial(transitions, kind=kind) for kind in ("linear", "spherical")},
    "transition_animated": animated_transitions,
    "variants_released": released_variants,
    "variants_active": active_variants,
    "variants_principal": principal_variants,
    "attributes": attributes,
    "neighbours": neighbours,
}
