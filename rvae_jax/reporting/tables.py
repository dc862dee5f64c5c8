"""The tables of a report: figures of the evaluation, and where runs differ."""

from __future__ import annotations

import dataclasses
from typing import Any

from rvae_jax.evaluation import certificate
from rvae_jax.evaluation.results import PopulationFigures, measured, population_gains, population_parts
from rvae_jax.reporting.subject import Subject

# Two runs can be compared if these agree.
_COMPARABLE = ("data", "held_out_split", "held_out_images", "training_images", "image_shape", "inception_checksum")


@dataclasses.dataclass(frozen=True)
class FigureTable:
    """A table of figures.

    Attributes:
      title: above it.
      note: below the title.
      headings: of the columns; empty strings for none.
      rows: names, each with a value for each column; None if not measured.
    """

    title: str
    note: str
    headings: list[str]
    rows: list[tuple[str, list[Any]]]


def figure_tables(subjects: list[Subject]) -> list[FigureTable]:
    """All figures of the evaluations; with several runs, side by side where possible."""
    several = len(subjects) > 1

    def side_by_side(title: str, note: str, figures: list[Any]) -> FigureTable:
        headings = [subject.name if several else "" for subject in subjects]
        return _table(title, note, dict(zip(headings, figures, strict=True)))

    evaluations = [subject.evaluation for subject in subjects]
    note = f"{evaluations[0].protocol.held_out_images:,} held-out images"
    tables = [side_by_side("Reconstruction", note, [each.reconstruction for each in evaluations])]
    for subject in subjects:
        title = f"Generation: {subject.name}" if several else "Generation"
        count = subject.evaluation.protocol.samples_of_each_sampler
        note = f"{count:,} samples of each kind; real: as many training images, which is the floor"
        tables.append(_table(title, note, vars(subject.evaluation.generation)))
    note = "rates in nats per image"
    tables += [
        side_by_side("Latent space: training images", note, [each.latent.training for each in evaluations]),
        side_by_side("Latent space: held-out images", note, [each.latent.held_out for each in evaluations]),
    ]
    for subject in (subject for subject in subjects if subject.evaluation.population is not None):
        tables += _of_population(subject.evaluation.population, f": {subject.name}" if several else "")
    note = "copies: share of samples from the prior"
    tables.append(side_by_side("Memorisation", note, [each.memorisation for each in evaluations]))
    note = "lower bound, in nats per image, on a density of values in [-1, 1]"
    likelihoods = side_by_side("Likelihood", note, [each.likelihood for each in evaluations])
    return [*tables, likelihoods] if likelihoods.rows else tables


def _of_population(figures: PopulationFigures, which: str) -> list[FigureTable]:
    parts, gains = population_parts(figures), population_gains(figures)
    return [
        FigureTable(
            f"Population of codes{which}",
            f"parts of the distance of {figures.codes:,} training images' codes from N(0, I), in nats",
            ["nats", "standard error", "by chance"],
            [(name, [part.nats, part.standard_error, part.chance]) for name, part in parts.items()],
        ),
        FigureTable(
            f"Samplers{which}",
            f"how much likelier {figures.held_out_codes:,} held-out codes are than under N(0, I), in nats per image."
            f" {certificate.sentence(figures)}",
            ["nats", "standard error"],
            [(name, [gain.nats, gain.standard_error]) for name, gain in gains.items()],
        ),
    ]


def _table(title: str, note: str, columns: dict[str, Any]) -> FigureTable:
    values = {heading: {} if figures is None else measured(figures) for heading, figures in columns.items()}
    names = dict.fromkeys(name for column in values.values() for name in column)
    rows = [(name, [column.get(name) for column in values.values()]) for name in names]
    return FigureTable(title, note, list(values), rows)


def differing_fields(configurations: list[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Fields of flat configurations that do not agree, each with its value in every one."""
    first, *others = configurations
    return [
        (name, [each[name] for each in configurations])
        for name in first
        if any(other[name] != first[name] for other in others)
    ]


def incomparable(subjects: list[Subject]) -> list[str]:
    """Parts of the protocol that do not agree, in words; figures cannot be compared unless there are none."""
    protocols = [vars(subject.evaluation.protocol) | vars(subject.evaluation.model) for subject in subjects]
    found = []
    for name in _COMPARABLE:
        values = [protocol[name] for protocol in protocols]
        if any(value != values[0] for value in values):
            found.append(f"{name}: " + ", ".join(map(str, values)))
    return found
