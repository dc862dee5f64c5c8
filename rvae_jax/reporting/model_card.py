"""The model card: the README.md of a shared model, with the header that the Hugging Face hub reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import yaml

from rvae_jax.config import Config
from rvae_jax.evaluation import certificate
from rvae_jax.evaluation.diagnosis import Verdict
from rvae_jax.evaluation.results import Evaluation, measured
from rvae_jax.inference.samplers import SamplerName
from rvae_jax.reporting import templating
from rvae_jax.storage import weights
from rvae_jax.storage.stored_model import StoredModel

FILE = "README.md"


def make_card(
    name: str,
    model: StoredModel,
    license: str,
    pictures: Sequence[tuple[str, str]] = (),
    evaluation: Evaluation | None = None,
    verdicts: Sequence[Verdict] = (),
    sampler: SamplerName = "prior",
) -> str:
    """Writes the card.

    Args:
      name: name of the model.
      model: the model.
      license: the hub's identifier of the weights' licence.
      pictures: names and captions of pictures beside the card.
      evaluation: of the model, or None.
      verdicts: on the model's problems; needs the evaluation.
      sampler: what ``sample`` draws from by itself.

    Returns:
      Markdown with a YAML header.
    """
    template = templating.environment(autoescape=False).get_template("model_card.md.jinja")
    text = template.render(
        name=name,
        config=model.config,
        step=model.step,
        moments=model.moments is not None,
        mixture=model.mixture is not None,
        sampler=sampler,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(weights.evaluation_variables(model.weights))),
        license=license,
        pictures=pictures,
        evaluation=evaluation,
        population=certificate.sentence(evaluation.population) if evaluation and evaluation.population else None,
        verdicts=verdicts,
    )
    header = yaml.safe_dump(_header(name, model.config, license, evaluation), sort_keys=False, allow_unicode=True)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return f"---\n{header}---\n\n{text}\n"


def _header(name: str, config: Config, license: str, evaluation: Evaluation | None) -> dict[str, Any]:
    header = {
        "license": license,
        "library_name": "rvae_jax",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["jax", "flax", "vae", *(["vae-gan"] if config.loss.adversarial != "none" else [])],
    }
    if evaluation is None:
        return header
    metrics = measured(evaluation.reconstruction)
    metrics |= {f"{metric}_prior": value for metric, value in measured(evaluation.generation.prior).items()}
    result = {
        "task": {"type": "unconditional-image-generation", "name": "reconstruction and generation"},
        "dataset": {"type": config.data.name, "name": config.data.name, "split": config.data.validation_split},
        "metrics": [{"type": metric, "name": metric, "value": value} for metric, value in metrics.items()],
    }
    return {**header, "model-index": [{"name": name, "results": [result]}]}
