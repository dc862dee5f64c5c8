"""The README.md of a model that is shared, with the header that the Hugging Face hub reads."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
import yaml

from rvae_jax.config import Config
from rvae_jax.evaluation.diagnosis import Verdict
from rvae_jax.reporting import pages
from rvae_jax.storage import weights
from rvae_jax.storage.stored_model import StoredModel

FILE = "README.md"


def card(
    name: str,
    model: StoredModel,
    license: str,
    pictures: Sequence[tuple[str, str]] = (),
    evaluation: dict[str, Any] | None = None,
    verdicts: Sequence[Verdict] = (),
) -> str:
    """Fills it in.

    Args:
      name: of the model.
      model: the model.
      license: of the weights, by the hub's identifier.
      pictures: files beside the card, and what they show.
      evaluation: of the model, or None.
      verdicts: that rest on it.
    """
    template = pages.environment(autoescape=False).get_template("model_card.md.jinja")
    text = template.render(
        name=name,
        config=model.config,
        step=model.step,
        moments=model.moments is not None,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(weights.evaluation_variables(model.weights))),
        license=license,
        pictures=pictures,
        evaluation=evaluation,
        verdicts=verdicts,
    )
    header = yaml.safe_dump(_header(name, model.config, license, evaluation), sort_keys=False, allow_unicode=True)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return f"---\n{header}---\n\n{text}\n"


def _header(name: str, config: Config, license: str, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    found = {
        "license": license,
        "library_name": "rvae_jax",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["jax", "flax", "vae", *(["vae-gan"] if config.loss.adversarial != "none" else [])],
    }
    if evaluation is None:
        return found
    measured = itertools.chain(
        evaluation["reconstruction"].items(),
        ((f"{metric}_prior", value) for metric, value in evaluation["generation"]["prior"].items()),
    )
    result = {
        "task": {"type": "unconditional-image-generation", "name": "reconstruction and generation"},
        "dataset": {"type": config.data.name, "name": config.data.name, "split": config.data.validation_split},
        "metrics": [{"type": metric, "name": metric, "value": value} for metric, value in measured],
    }
    return {**found, "model-index": [{"name": name, "results": [result]}]}
