"""What an arm leaves in its folder: ``arrays.npz``, ``record.json`` and, when judged, ``figures.json``.

Images are uint8 ``[n, H, W, C]``. ``record.json`` is written last, so an arm that has it is finished.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from typing import Any

import numpy as np

from rvae_jax.evaluation.material import ImageSets, Material, Posteriors
from rvae_jax.system.files import write_atomically

_ARRAYS, _RECORD, _FIGURES = "arrays.npz", "record.json", "figures.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """How an arm was made.

    Attributes:
      arm: its name.
      seed: of the training.
      cpu_seconds: of the process that trained, from its start to the end of the training.
      images_seen: number of images in all batches.
      versions: of the packages that trained.
      steps: number of batches; 0 where there are none.
    """

    arm: str
    seed: int
    cpu_seconds: float
    images_seen: int
    versions: dict[str, str]
    steps: int = 0


def save(folder: pathlib.Path, material: Material, record: Record) -> None:
    """Writes what an arm has made. Codes without an uncertainty have log variances of minus infinity."""
    arrays = {"reconstructions": material.reconstructions, "training_reconstructions": material.matched_reconstructions}
    arrays |= {f"samples_{name}": samples for name, samples in material.samples.items()}
    for name, codes in (("held_out", material.held_out), ("training", material.training)):
        arrays |= {f"{name}_mean": codes.mean, f"{name}_log_var": codes.log_var}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(folder / _ARRAYS, content.getvalue())
    write_json(folder / _RECORD, dataclasses.asdict(record))


def read_record(folder: pathlib.Path) -> Record | None:
    """The record of a finished arm; None of one that is not."""
    content = read_json(folder / _RECORD)
    return None if content is None else Record(**content)


def read_material(folder: pathlib.Path, images: ImageSets) -> Material:
    """What ``save`` wrote, beside the images that it is of."""
    with np.load(folder / _ARRAYS) as file:
        arrays = dict(file)
    codes = [Posteriors(arrays[f"{name}_mean"], arrays[f"{name}_log_var"]) for name in ("held_out", "training")]
    samples = {name.removeprefix("samples_"): rows for name, rows in arrays.items() if name.startswith("samples_")}
    return Material(images, *codes, arrays["reconstructions"], None, samples, arrays["training_reconstructions"])


def write_figures(folder: pathlib.Path, figures: dict[str, Any]) -> None:
    """Writes what the judge found."""
    write_json(folder / _FIGURES, figures)


def read_figures(folder: pathlib.Path) -> dict[str, Any] | None:
    """What the judge found; None if it has not seen the arm."""
    return read_json(folder / _FIGURES)


def save_images(path: pathlib.Path, images: ImageSets) -> None:
    """Writes the images that all arms are trained on and judged by."""
    content = io.BytesIO()
    np.savez(content, **vars(images))
    write_atomically(path, content.getvalue())


def read_images(path: pathlib.Path) -> ImageSets:
    """What ``save_images`` wrote."""
    with np.load(path) as file:
        return ImageSets(**dict(file) | {"training_total": int(file["training_total"])})


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a file of JSON, atomically."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: pathlib.Path) -> Any:
    """The content of a file of JSON; None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None
