"""Trains one of our configurations with ``rvae_jax.main``, for as many steps as fit into the CPU seconds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pathlib
import shutil
import sys

from etils import epath

from benchmarks import machine
from benchmarks.comparison import cpu_time, store
from benchmarks.comparison.arms import OURS
from benchmarks.comparison.cpu_time import Pace
from rvae_jax.evaluation.material import ImageSets, coder_of, material_of
from rvae_jax.inference.trained_vae import load
from rvae_jax.training.metric_log import read_metrics

_LOG_EVERY = 5


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an arm may use.

    Attributes:
      cpu_seconds: of the entire training process.
      timed_steps: length of the run that finds the number of steps.
      environment: variables that set the number of threads.
    """

    cpu_seconds: float
    timed_steps: int
    environment: dict[str, str]


def train(arm: str, seed: int, data_flags: list[str], budget: Budget, folder: pathlib.Path, images: ImageSets) -> None:
    """Trains, and writes what the arm has made.

    Args:
      arm: name in ``OURS``.
      seed: of the training.
      data_flags: flags that name the data set.
      budget: what it may use.
      folder: of this arm and seed.
      images: what it is judged by.

    Raises:
      UserError: the program failed.
    """
    pace = _measured_pace(arm, data_flags, budget, folder.parent)
    steps, workdir = pace.steps(budget.cpu_seconds), folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)  # time before an interruption would not be counted
    machine.say(f"{arm}: {steps:,} steps of {pace.step:.3f} CPU seconds, {pace.start_and_end:.0f} for start and end")
    command = _command(arm, data_flags, steps, seed, workdir)
    used = cpu_time.run(command, budget.environment, folder / "log.txt")
    config = OURS[arm].config()
    versions = {name: importlib.metadata.version(name) for name in ("rvae_jax", "jax", "flax")}
    record = store.Record(arm, seed, used, steps * config.batch_size, versions, steps)
    store.save(folder, material_of(images, *coder_of(load(workdir)), 0, lambda _: None), record)


def _command(arm: str, data_flags: list[str], steps: int, seed: int, workdir: pathlib.Path) -> list[str]:
    """The run is validated once, at its end, so every arm is judged by its last weights."""
    flags = [*OURS[arm].flags(), *data_flags, f"--config.steps={steps}", f"--config.eval_every={steps}"]
    return [sys.executable, "-m", "rvae_jax.main", *flags, f"--config.seed={seed}", f"--workdir={workdir}"]


def _measured_pace(arm: str, data_flags: list[str], budget: Budget, folder: pathlib.Path) -> Pace:
    """Reads ``pace.json``, or runs some steps and writes it."""
    path, steps = folder / "pace.json", budget.timed_steps
    if (found := store.read_json(path)) is not None:
        return Pace(**found)
    machine.say(f"{arm}: timing {steps} steps")
    workdir, marks = folder / "timing", []
    shutil.rmtree(workdir, ignore_errors=True)

    def watch(used: float) -> None:
        done = [row["step"] for row in read_metrics(epath.Path(workdir)) if "loss/total" in row]
        if done and (not marks or done[-1] > marks[-1][0]):
            marks.append((done[-1], used))

    command = [*_command(arm, data_flags, steps, 0, workdir), f"--config.log_every={_LOG_EVERY}"]
    total = cpu_time.run(command, budget.environment, folder / "timing.txt", watch)
    pace = cpu_time.pace_of(marks, total, steps)
    store.write_json(path, dataclasses.asdict(pace))
    shutil.rmtree(workdir)
    return pace
