"""An evaluation as text for a terminal."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

from rvae_jax.evaluation.certificate import sentence
from rvae_jax.evaluation.results import Evaluation, PopulationFigures, measured, population_gains, population_parts


def format_table(evaluation: Evaluation) -> str:
    """All figures, then the protocol, then what was not measured."""
    protocol, latents = evaluation.protocol, evaluation.latent
    generation = {
        field.name: getattr(evaluation.generation, field.name) for field in dataclasses.fields(evaluation.generation)
    }
    lines = [f"Reconstruction of {protocol.held_out_images:,} held-out images"]
    lines += _columns([evaluation.reconstruction])
    lines.append(f"{protocol.samples_of_each_sampler:,} samples; real: as many training images, the floor")
    lines += _columns(list(generation.values()), list(generation))
    lines.append("Latent space; rates in nats per image")
    lines += _columns([latents.held_out, latents.training], ["held-out", "training"])
    if evaluation.population is not None:
        lines += _population(evaluation.population)
    for title, figures in (("Memorisation", evaluation.memorisation), ("Likelihood", evaluation.likelihood)):
        if figures is not None:
            lines += [title, *_columns([figures])]
    lines.append("Protocol")
    lines += [f"  {name:26} {value}" for name, value in measured(protocol).items()]
    lines += [f"Not measured: {name}: {reason}" for name, reason in evaluation.skipped.items()]
    return "\n".join(lines)


def _population(figures: PopulationFigures) -> list[str]:
    lines = [f"Population of {figures.codes:,} codes: parts of its distance from N(0, I); nats"]
    lines += _table(population_parts(figures), ("nats", "error", "by chance"))
    lines.append(f"Likelihood of {figures.held_out_codes:,} held-out codes, beyond that under N(0, I); nats")
    lines += _table(population_gains(figures), ("nats", "error"))
    return [*lines, *textwrap.wrap(sentence(figures), 110, initial_indent="  ", subsequent_indent="  ")]


def _table(rows: dict[str, Any], headings: Sequence[str]) -> list[str]:
    """One line a row, the fields of which are the columns."""
    columns = zip(*map(dataclasses.astuple, rows.values()), strict=True)
    columns = [dict(zip(rows, values, strict=True)) for values in columns]
    return _aligned(columns, headings)


def _columns(sets: Sequence[Any], headings: Sequence[str] = ()) -> list[str]:
    return _aligned([measured(figures) for figures in sets], headings)


def _aligned(columns: Sequence[dict[str, Any]], headings: Sequence[str]) -> list[str]:
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [" " * 28 + "".join(f"{heading:>12}" for heading in headings)] if headings else []
    for name in names:
        values = (f"{column[name]:12.5g}" if name in column else " " * 12 for column in columns)
        lines.append(f"  {name:26}" + "".join(values))
    return lines
