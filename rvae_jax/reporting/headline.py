"""The top of a report: one number each, and when, how long and on what the run was trained."""

from __future__ import annotations

import datetime
import math
import re
from typing import NamedTuple

from etils import epath

from rvae_jax.config import Config
from rvae_jax.reporting.subject import Subject
from rvae_jax.storage import environment
from rvae_jax.system.units import format_duration

_GREY_LEVELS = 127.5  # in a unit of pixels in [-1, 1]
_UNKNOWN = "not recorded"


class Number(NamedTuple):
    """One number of the headline.

    Attributes:
      of: what it is a number of.
      value: the number.
      metric: the entry of the glossary, or "".
      name: what the number is.
      note: what to compare it with.
    """

    of: str
    value: str
    metric: str
    name: str
    note: str


def numbers(subject: Subject) -> list[Number]:
    """One number each for reconstruction, samples, latent space and checkpoint."""
    evaluation, config, step = subject.evaluation, subject.model.config, subject.model.step
    latent, error = evaluation.latent.training, evaluation.reconstruction.l1
    levels = f"{error * _GREY_LEVELS:.1f} of 255 grey levels"
    return [
        Number("Reconstruction", f"{error:.3f}", "l1", "mean absolute error", levels),
        _of_samples(subject),
        Number(
            "Latent space",
            f"{latent.active_units:.0f} of {latent.dimensions:.0f}",
            "active_units",
            "dimensions in use",
            f"{latent.rate:.0f} nats per image",
        ),
        Number("Best step", f"{step:,}", "", f"of {config.steps:,}", chosen_as(config))
        if step
        else Number("Best step", "none", "", "imported weights", ""),
    ]


def _of_samples(subject: Subject) -> Number:
    generation = subject.evaluation.generation
    if generation.prior.fid is None:
        share = generation.prior.sharpness
        return Number("Samples", f"{share:.2f}", "sharpness", "sharpness, from N(0, I)", "real images have 1")
    note = f"real images have {generation.real.fid:.1f}"
    return Number("Samples", f"{generation.prior.fid:.1f}", "fid", "FID, from N(0, I)", note)


def chosen_as(config: Config) -> str:
    """Why the checkpoint of a report is that of the run, in words."""
    return "least error on the selection images" if config.select == "l1" else "the last, as the run selects"


def facts(subject: Subject) -> dict[str, str]:
    """When, how long (without pauses to evaluate) and on what the run was trained."""
    started = _started(subject.model.workdir)
    seconds = _training_seconds(subject.rows, subject.model.config.batch_size)
    where = environment.read(subject.model.workdir)
    return {
        "started": f"{started:%d %B %Y, %H:%M} UTC" if started else _UNKNOWN,
        "training time": format_duration(seconds) if 0 < seconds < math.inf else _UNKNOWN,
        "hardware": f"{where.devices}, {where.cores} CPU cores" if where else _UNKNOWN,
        "version": f"rvae_jax {where.rvae_jax}, jax {where.jax}" if where else _UNKNOWN,
    }


def _started(workdir: epath.Path) -> datetime.datetime | None:
    """When the run was first started: TensorBoard's files have the second in their names."""
    names = [path.name for path in (workdir / "tensorboard").glob("*")]
    seconds = [int(found[1]) for name in names if (found := re.search(r"tfevents\.(\d+)\.", name))]
    return datetime.datetime.fromtimestamp(min(seconds), datetime.UTC) if seconds else None


def _training_seconds(rows: list[dict[str, float]], batch_size: int) -> float:
    """How long the steps took that the rows are of; a run that was stopped and resumed adds up."""
    seconds, before = 0.0, 0
    for row in rows:
        if row.get("images_per_second"):
            seconds += (row["step"] - before) * batch_size / row["images_per_second"]
            before = row["step"]
    return seconds
