"""How a run's pictures changed: rows of those that training left, from an early step to a late one."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image

from rvae_jax.drawing import grids
from rvae_jax.drawing.figures import Figure

_MOST_STEPS = 8
_FOLDER = "pictures"  # see ``training.held_out``


def draw(workdir: epath.Path, image_shape: tuple[int, int, int]) -> Iterator[tuple[str, Figure]]:
    """Draws a run's reconstructions and samples, one row for each of at most eight steps, evenly spaced.

    Args:
      workdir: of the run.
      image_shape: of its images.

    Yields:
      Name and figure; nothing where there are pictures of fewer than two steps.
    """
    for name, first_row, caption in (
        ("reconstructions", 1, "Held-out images (top), and their reconstructions at steps of the run."),
        ("samples", 0, "Samples from the prior N(0, I): the same ten codes, decoded at steps of the run."),
    ):
        pictures = _pictures(workdir, name)
        cut = {step: grids.cut_row(picture, first_row, *image_shape[:2]) for step, picture in pictures.items()}
        rows = {f"step {step:,}": row for step, row in cut.items() if row is not None}
        if len(rows) < 2:
            continue
        if first_row:
            rows = {"image": grids.cut_row(pictures[max(pictures)], 0, *image_shape[:2]), **rows}
        yield f"{name}_over_steps", Figure([grids.grid(list(rows.values()), least_tile=0)], caption, tuple(rows))


def _pictures(workdir: epath.Path, name: str) -> dict[int, np.ndarray]:
    """The pictures of a name by step, of few steps."""
    paths = {}
    for path in (workdir / _FOLDER).glob(f"{name}_*.png"):
        if found := re.fullmatch(rf"{name}_(\d+)\.png", path.name):
            paths[int(found[1])] = path
    steps = sorted(paths)
    chosen = np.linspace(0, len(steps) - 1, min(_MOST_STEPS, len(steps))).round().astype(int)
    return {
        steps[index]: np.asarray(Image.open(io.BytesIO(paths[steps[index]].read_bytes())).convert("RGB"))
        for index in chosen
    }
