"""What is damaged, and how it is used afterwards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from etils import epath

from benchmarks.faults import trial
from rvae_jax import config as config_lib
from rvae_jax.data import reading
from rvae_jax.formats import keras_layout
from rvae_jax.storage import stored_model
from rvae_jax.storage.checksums import checksums_here
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import METRICS_FILE, read_metrics

STEPS = 8  # of the run that is damaged
RUN, DATA = "run", "data"  # folders of the campaign


@dataclasses.dataclass(frozen=True)
class Target:
    """Something to damage.

    Attributes:
      name: what it is, and how it is used.
      files: patterns of the files that are damaged, below the campaign's folder.
      read: uses them; returns what it found, of JSON types.
      weight: how often it is tried, beside the others.
      compare: the outcome by what was found and what is expected.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[pathlib.Path], Any]
    weight: int
    compare: Callable[[Any, Any], str] = trial.compare


def _weights(path: epath.PathLike, step: int | None = None) -> Any:
    model = stored_model.read(path, step)
    moments = [] if model.moments is None else [checksums_here(model.moments)]
    return [model.step, checksums_here(model.weights), *moments]


def _resume(folder: pathlib.Path) -> Any:
    """Trains one step more; the weights of that step, and whether rows that could be read have gone."""
    run = folder / RUN
    there = _rows(run)
    changes = {"steps": STEPS + 1, "resume": "last_complete", "data.data_dir": str(folder / DATA)}
    train(config_lib.replace_fields(_config(folder), changes), run)
    kept = {json.dumps(row, sort_keys=True) for row in read_metrics(epath.Path(run))}
    # A run that went back to an earlier checkpoint repeats what came after it.
    lost = [row for row in there if row not in kept and not _is_repeated(row, kept)]
    return [checksums_here(stored_model.read(run, STEPS + 1).weights), len(lost)]


def _config(folder: pathlib.Path) -> config_lib.Config:
    """As somebody would give it on the command line, whatever became of the one in the work directory."""
    return config_lib.from_dict(json.loads((folder / "config.json").read_text()))


def _rows(run: pathlib.Path) -> list[str]:
    """Rows up to the last step; without that of the best checkpoint, which a longer run writes anew at its end."""
    path = run / METRICS_FILE
    rows = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        is_row = isinstance(row, dict) and isinstance(row.get("step"), int) and "best/step" not in row
        if is_row and row["step"] <= STEPS:
            rows.append(json.dumps(row, sort_keys=True))
    return rows


def _is_repeated(row: str, kept: set[str]) -> bool:
    names, step = json.loads(row).keys(), json.loads(row)["step"]
    return any(json.loads(other)["step"] == step and json.loads(other).keys() == names for other in kept)


def _read_images(folder: pathlib.Path) -> Any:
    """Hashes of the images that can be read."""
    config = config_lib.replace_fields(_config(folder), {"data.data_dir": str(folder / DATA)})
    images = reading.read_split(config, "train")
    return sorted(hashlib.sha256(image.tobytes()).hexdigest() for image in images)


def _read_keras(folder: pathlib.Path) -> Any:
    return checksums_here(keras_layout.read(epath.Path(folder / "keras/author.weights.h5"), _config(folder)))


def _compare_images(found: list[str], expected: list[str]) -> str:
    """Damaged images are left out one by one: training counts them, and says so."""
    if set(found) < set(expected):
        return trial.REFUSED
    return trial.compare(found, expected)


def _compare_models(found: list[Any], expected: list[Any]) -> str:
    """Moments that are gone are computed from the training images when they are needed."""
    return trial.compare(found, expected[:-1] if len(found) < len(expected) else expected)


def _compare_runs(found: list[Any], expected: list[Any]) -> str:
    return trial.LOST if found != expected and found[0] == expected[0] else trial.compare(found, expected)


TARGETS = (
    Target("checkpoint, loaded", (f"{RUN}/checkpoints/{STEPS}/**/*",), lambda folder: _weights(folder / RUN, STEPS), 6),
    Target(
        "work directory, loaded",
        (f"{RUN}/*.json", f"{RUN}/*.safetensors", f"{RUN}/{METRICS_FILE}"),
        lambda folder: _weights(folder / RUN, STEPS),
        4,
        _compare_models,
    ),
    Target("work directory, resumed", (f"{RUN}/**/*",), _resume, 4, _compare_runs),
    Target("exported safetensors, loaded", ("safetensors/*",), lambda folder: _weights(folder / "safetensors"), 4),
    Target("exported Keras file, read", ("keras/*",), _read_keras, 2),
    Target("data set, read", (f"{DATA}/orl/**/*",), _read_images, 2, _compare_images),
)
