"""The latent space of a model: its figures on held-out and on training images."""

from __future__ import annotations

import math

from rvae_jax.data.pixels import evenly_spaced
from rvae_jax.evaluation.material import Posteriors
from rvae_jax.evaluation.metrics import latent
from rvae_jax.evaluation.results import DimensionFigures, LatentFigures, LatentSpaceFigures

_MOST_DECOMPOSED = 2_000  # images; the cost is quadratic


def measure_latent_space(held_out: Posteriors, training: Posteriors, seed: int) -> LatentSpaceFigures:
    """Summarises both sets of codes, and splits the rate of the held-out ones."""
    few = evenly_spaced(_MOST_DECOMPOSED, len(held_out.mean))
    decomposition = latent.decompose(held_out.mean[few], held_out.log_var[few], seed=seed)
    return LatentSpaceFigures(
        LatentFigures(
            images=len(held_out.mean),
            **latent.summary(*held_out),
            **decomposition._asdict(),
            mutual_information_limit=math.log(len(few)),
        ),
        LatentFigures(images=len(training.mean), **latent.summary(*training)),
        DimensionFigures(**latent.dimensions(*training)),
    )
