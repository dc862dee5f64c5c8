"""The README.md of a model that is shared, with the header that the Hugging Face hub reads."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
import yaml

from rvae_jax import pages
from rvae_jax.config import Config
from rvae_jax.verdicts import Verdict

FILE = "README.md"


def card(
    name: str,
    config: Config,
    step: int,
    variables: Any,
    license: str,
    moments: bool,
    pictures: Sequence[tuple[str, str]] = (),
    evaluation: dict[str, Any] | None = None,
    verdicts: Sequence[Verdict] = (),
) -> str:
    """Fills it in.

    Args:
      name: of the model.
      config: of the run.
      step: of the checkpoint; 0 of a model that was imported.
      variables: of the VAE.
      license: of the weights, by the hub's identifier.
      moments: whether the file has those of the training images' codes.
      pictures: files beside the card, and what they show.
      evaluation: of that step, or None.
      verdicts: that rest on it.
    """
    text = (
        pages.environment(autoescape=False)
        .get_template("model_card.md.jinja")
        .render(
            name=name,
            config=config,
            step=step,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(variables)),
            license=license,
            moments=moments,
            pictures=pictures,
            evaluation=evaluation,
            verdicts=verdicts,
        )
    )
    header = yaml.safe_dump(_header(name, config, license, evaluation), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n{re.sub(chr(10) + '{3,}', chr(10) * 2, text).strip()}\n"


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
