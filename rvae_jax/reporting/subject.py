"""One run of a report, and everything that the page shows of it."""

from __future__ import annotations

import dataclasses

from rvae_jax.drawing.figures import Figure
from rvae_jax.evaluation.diagnosis import Verdict
from rvae_jax.evaluation.results import Evaluation
from rvae_jax.inference.trained_vae import TrainedVAE


@dataclasses.dataclass(frozen=True)
class Subject:
    """One run of a report.

    Attributes:
      name: its name on the page.
      model: its model.
      evaluation: of the model.
      rows: of the run's ``metrics.jsonl``.
      verdicts: on every known problem.
      figures: by name.
    """

    name: str
    model: TrainedVAE
    evaluation: Evaluation
    rows: list[dict[str, float]]
    verdicts: list[Verdict]
    figures: dict[str, Figure]
