"""The tables of the comparison, made from ``results.json`` alone."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.comparison.arms import ARMS


class Column(NamedTuple):
    """A column: its title, where its figure is in a run, and its decimals."""

    title: str
    path: tuple[str, ...]
    decimals: int


def _of_samplers(title: str, name: str, decimals: int) -> list[Column]:
    samplers = {"prior": "N(0, I)", "gaussian": "Gaussian", "mixture": "mixture"}
    return [
        Column(f"{title}, {called}", ("figures", "samples", sampler, name), decimals)
        for sampler, called in samplers.items()
    ]


RECONSTRUCTION = (
    Column("CPU s", ("cpu_seconds",), 0),
    Column("images seen", ("images_seen",), 0),
    Column("L1", ("figures", "reconstruction", "l1"), 4),
    Column("PSNR", ("figures", "reconstruction", "psnr"), 2),
    Column("SSIM", ("figures", "reconstruction", "ssim"), 3),
    Column("LPIPS AlexNet", ("figures", "reconstruction", "lpips"), 3),
    Column("LPIPS VGG-16", ("figures", "reconstruction", "lpips_vgg"), 3),
    Column("gradient energy", ("figures", "reconstruction", "sharpness"), 2),
    Column("grid energy", ("figures", "reconstruction", "grid_energy"), 2),
    Column("rFID", ("figures", "reconstruction", "rfid"), 1),
    Column("correlation (rms)", ("figures", "latent", "training", "correlation_rms"), 3),
    Column("rate", ("figures", "latent", "held_out", "rate"), 0),
    Column("sigma", ("figures", "latent", "held_out", "sigma_mean"), 3),
)
SAMPLES = (
    *_of_samplers("FID", "fid", 1),
    *_of_samplers("KID", "kid", 3),
    *_of_samplers("precision", "precision", 2),
    *_of_samplers("recall", "recall", 2),
    *_of_samplers("gradient energy", "sharpness", 2),
)
_REAL = "real images"


def format_tables(results: dict[str, Any]) -> str:
    """Markdown: what the figures rest on, then a row an arm of reconstructions and codes, and of samples.

    Args:
      results: the content of ``results.json``.
    """
    runs = results["runs"]
    present = [arm for arm in ARMS if any(run["arm"] == arm for run in runs)]
    by_arm = {arm: [run for run in runs if run["arm"] == arm] for arm in present}
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    floor = {_REAL: [_as_prior(run) for run in runs[:1]]}  # the same in every run
    lines = [
        f"{results['machine']}: {settings}. Mean over seeds, with the standard deviation where there are several.",
        "",
        *_table(by_arm, RECONSTRUCTION),
        "",
        f"Samples; `{_REAL}`: as many training images, the floor.",
        "",
        *_table(floor | by_arm, SAMPLES),
    ]
    return "\n".join(lines) + "\n"


def _as_prior(run: dict[str, Any]) -> dict[str, Any]:
    return {"figures": {"samples": {"prior": run["figures"]["samples"]["real"]}}}


def _table(by_arm: dict[str, list[dict[str, Any]]], columns: Sequence[Column]) -> list[str]:
    lines = [f"| arm | {' | '.join(column.title for column in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for arm, runs in by_arm.items():
        cells = [_cell([_at(run, column.path) for run in runs], column.decimals) for column in columns]
        lines.append(f"| `{arm}` | {' | '.join(cells)} |")
    return lines


def _at(run: dict[str, Any], path: tuple[str, ...]) -> float | None:
    return functools.reduce(lambda part, name: (part or {}).get(name), path, run)


def _cell(values: Sequence[float | None], decimals: int) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return ""
    text = f"{statistics.mean(found):,.{decimals}f}"
    return text if len(set(found)) == 1 else f"{text} ± {statistics.stdev(found):,.{decimals}f}"
