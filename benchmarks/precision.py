"""Compares training in bfloat16 with training in float32, by loss curves of several seeds.

    python -m benchmarks.precision --config=configs/orl.py --workdir=runs/precision --figure=precision.png

Each run is `python -m rvae_jax.main` with the same configuration, except for data type and seed; finished runs are read
again. For each loss term and equal parts of the run, the table has the mean over seeds in float32 and in bfloat16, and
their difference in standard deviations of the seeds in float32.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import flags

from benchmarks import machine
from rvae_jax import command_line
from rvae_jax import config as config_lib
from rvae_jax.errors import UserError
from rvae_jax.training.metric_log import read_metrics

CONFIG = command_line.define_config()
WORKDIR = command_line.define_workdir()
SEEDS = flags.DEFINE_integer("seeds", 4, "Runs in each data type.", lower_bound=2)
PARTS = flags.DEFINE_integer("parts", 5, "Parts of a run; the table has a column for each.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "File to write the figures to.")
FIGURE = flags.DEFINE_string("figure", None, "File to draw the curves to.")

DTYPES = ("float32", "bfloat16")
TERMS = ("loss/total", "loss/reconstruction", "loss/population_kl", "loss/variance_regularizer")
HELD_OUT = "validation/l1"


def main(_: list[str]) -> None:
    """Runs the benchmark."""
    folder = pathlib.Path(WORKDIR.value)
    with command_line.exit_on_user_error():
        config_lib.validate(CONFIG.value, device_count=1)
        rows = {dtype: [run(dtype, seed, folder) for seed in range(SEEDS.value)] for dtype in DTYPES}
    curves = {dtype: {term: _curves(runs, term) for term in TERMS} for dtype, runs in rows.items()}
    held_out = {dtype: [last_value(each, HELD_OUT) for each in runs] for dtype, runs in rows.items()}
    print("\n".join(_table(curves, held_out)))
    if JSON.value is not None:
        lists = {dtype: {term: curve.tolist() for term, curve in terms.items()} for dtype, terms in curves.items()}
        pathlib.Path(JSON.value).write_text(json.dumps({"curves": lists, "held_out_l1": held_out}) + "\n")
    if FIGURE.value is not None:
        steps = [row["step"] for row in rows["float32"][0] if TERMS[0] in row]
        _draw(steps, curves, pathlib.Path(FIGURE.value))


def run(dtype: str, seed: int, folder: pathlib.Path) -> list[dict[str, float]]:
    """Trains a run, unless it is finished, and returns its rows of metrics.

    Raises:
      UserError: the run failed.
    """
    workdir = folder / f"{dtype}_{seed}"
    arguments = [argument for argument in sys.argv[1:] if argument.startswith("--config")]
    arguments += [f"--workdir={workdir}", f"--config.model.dtype={dtype}", f"--config.seed={seed}"]
    machine.say(f"{dtype}, seed {seed}")
    done = subprocess.run([sys.executable, "-m", "rvae_jax.main", *arguments], stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise UserError(f"{workdir}: its training ended with status {done.returncode}")
    return read_metrics(workdir)


def last_value(rows: list[dict[str, float]], name: str) -> float:
    """The last value of a metric."""
    return [row[name] for row in rows if name in row][-1]


def _curves(runs: list[list[dict[str, float]]], term: str) -> np.ndarray:
    """``[seeds, rows]``."""
    return np.array([[row[term] for row in rows if term in row] for rows in runs])


def _table(curves: dict[str, dict[str, np.ndarray]], held_out: dict[str, list[float]]) -> list[str]:
    length = curves["float32"][TERMS[0]].shape[1]
    parts = np.array_split(np.arange(length), PARTS.value)
    names = [f"{100 * part[0] // length} to {100 * (part[-1] + 1) // length} %" for part in parts]
    lines = [f"| of {SEEDS.value} seeds each | " + " | ".join(names) + " |", "|---" * (len(parts) + 1) + "|"]
    for term in TERMS:
        cells = []
        for part in parts:
            single, half = (curves[dtype][term][:, part].mean(axis=1) for dtype in DTYPES)
            cells.append(_compared(single, half))
        lines.append(f"| {term} | " + " | ".join(cells) + " |")
    lines.append(f"\n{HELD_OUT} at the end: {_compared(*(np.array(held_out[dtype]) for dtype in DTYPES))}")
    return lines


def _compared(single: np.ndarray, half: np.ndarray) -> str:
    spread = single.std(ddof=1)
    return f"{single.mean():.4g}, {half.mean():.4g} ({(half.mean() - single.mean()) / spread:+.1f} sd)"


def _draw(steps: list[int], curves: dict[str, dict[str, np.ndarray]], path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(TERMS), figsize=(4 * len(TERMS), 3.2), layout="constrained")
    for axis, term in zip(axes, TERMS, strict=True):
        for dtype, color in zip(DTYPES, ("tab:blue", "tab:orange"), strict=True):
            runs = curves[dtype][term]
            axis.fill_between(steps, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.25, linewidth=0)
            axis.plot(steps, runs.mean(axis=0), color=color, label=f"{dtype}, mean and range of {len(runs)} seeds")
        axis.set(title=term, xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command_line.run(main, CONFIG, required=["config", "workdir"])
