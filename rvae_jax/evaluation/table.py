"""An evaluation as text for a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rvae_jax.evaluation.results import Evaluation, measured


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
    for title, figures in (("Memorisation", evaluation.memorisation), ("Likelihood", evaluation.likelihood)):
        if figures is not None:
            lines += [title, *_columns([figures])]
    lines.append("Protocol")
    lines += [f"  {name:26} {value}" for name, value in measured(protocol).items()]
    lines += [f"Not measured: {name}: {reason}" for name, reason in evaluation.skipped.items()]
    return "\n".join(lines)


def _columns(sets: Sequence[Any], headings: Sequence[str] = ()) -> list[str]:
    columns = [measured(figures) for figures in sets]
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [" " * 28 + "".join(f"{heading:>12}" for heading in headings)] if headings else []
    for name in names:
        values = (f"{column[name]:12.5g}" if name in column else " " * 12 for column in columns)
        lines.append(f"  {name:26}" + "".join(values))
    return lines
