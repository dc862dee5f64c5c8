"""The judge of all arms, ours included: our own evaluation, on the arrays that an arm has left."""

from __future__ import annotations

from typing import Any

import numpy as np

from rvae_jax.evaluation import results
from rvae_jax.evaluation.evaluator import measure_images
from rvae_jax.evaluation.latent_space import measure_latent_space
from rvae_jax.evaluation.material import Label, Material, Posteriors
from rvae_jax.evaluation.settings import EvaluationSettings

_LEAST_LOG_VAR = np.float32(np.log(1e-12))
_OF_MEANS = ("images", "active_units", "dimensions", "population_kl_means", "correlation_rms", "correlation_noise")


def judge(material: Material, settings: EvaluationSettings, label: Label) -> dict[str, Any]:
    """Measures an arm.

    Args:
      material: what it has made.
      settings: of the evaluation.
      label: names the progress bars.

    Returns:
      ``reconstruction``; ``samples``, by the sampler's name, with ``real`` for other real images; ``latent``, on
      ``held_out`` and on ``training`` images; each a dictionary of the figures of docs/metrics.md. ``skipped`` has the
      reasons for what is missing. Codes without an uncertainty have no figures that depend on it.
    """
    skipped: dict[str, str] = {}
    images = measure_images(material, settings, label, skipped)
    figures = {
        "reconstruction": results.plain(images.reconstruction),
        "samples": {name: results.plain(found) for name, found in images.generation.items()},
        "latent": {},
        "skipped": skipped,
    }
    if material.training.mean.shape[1]:
        codes = [
            Posteriors(each.mean, np.maximum(each.log_var, _LEAST_LOG_VAR))
            for each in (material.held_out, material.training)
        ]
        found = measure_latent_space(*codes, settings.seed)
        names = None if np.isfinite(material.training.log_var).all() else _OF_MEANS
        for name, values in (("held_out", found.held_out), ("training", found.training)):
            kept = results.plain(values)
            figures["latent"][name] = kept if names is None else {key: kept[key] for key in names}
    return figures
