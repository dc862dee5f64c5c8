"""The certificate: how far the population of codes is from N(0, I), and what to sample from."""

from __future__ import annotations

import math

import numpy as np

from rvae_jax.evaluation.material import Label, Material, fitted_samplers
from rvae_jax.evaluation.metrics import population
from rvae_jax.evaluation.results import Gain, Part, PopulationFigures
from rvae_jax.inference import samplers
from rvae_jax.inference.samplers import SamplerName

# A sampler that knows more must make held-out codes likelier by at least this, in nats per dimension, and by two
# standard errors: images do not show less.
LEAST_GAIN = 0.005
_ERRORS = 2.0
_HELD_OUT = 2  # for a seed of the held-out codes that no other draw has


def measure_population(
    material: Material, seed: int, label: Label, skipped: dict[str, str]
) -> PopulationFigures | None:
    """Measures the population of the training images' codes, and the samplers on the held-out images' codes.

    Args:
      material: what the model has made.
      seed: of the draws.
      label: names the progress bar.
      skipped: takes the reason where there are too few codes.
    """
    mean, log_var = material.training
    held_out = samplers.codes_of(*material.held_out, [seed, _HELD_OUT])
    if len(held_out) < 2:
        skipped["population"] = f"{len(held_out)} held-out image; expected 2"
        return None
    fitted = fitted_samplers(material.training, material.mixture)
    densities = {name: fit.log_density(held_out) for name, fit in fitted.items()}
    moments, correlation = population.gaussian_parts(mean, log_var, seed)
    axes, radius = _non_gaussian(mean, log_var, seed, skipped)
    posteriors = population.mixture_distance(mean, log_var, seed, label("density of the codes"))
    return PopulationFigures(
        codes=len(mean),
        held_out_codes=len(held_out),
        moments=moments,
        correlation=correlation,
        posteriors=posteriors,
        gaussian=_gain(densities["gaussian"], densities["prior"]),
        mixture=_gain(densities["mixture"], densities["prior"]),
        best_sampler=best_sampler(densities, mean.shape[1]),
        axes=axes,
        radius=radius,
    )


def best_sampler(densities: dict[SamplerName, np.ndarray], latent_dim: int) -> SamplerName:
    """The prior, or the first that beats it, or the first after that that beats that one.

    Args:
      densities: log densities of the same held-out codes, ``[n]``, under each sampler, the simplest first.
      latent_dim: d.
    """
    best, *others = densities
    for name in others:
        gain = _gain(densities[name], densities[best])
        if gain.nats > max(LEAST_GAIN * latent_dim, _ERRORS * gain.standard_error):
            best = name
    return best


def sentence(figures: PopulationFigures) -> str:
    """What the certificate comes to, in a sentence."""
    gains = {"gaussian": figures.gaussian, "mixture": figures.mixture}
    if figures.best_sampler == "prior":
        return (
            "Sample from N(0, I): held-out codes are not clearly likelier under a Gaussian fitted to the codes, by"
            f" {_in_words(gains['gaussian'])}, or under a mixture of Gaussians, by {_in_words(gains['mixture'])}."
        )
    best = "a Gaussian" if figures.best_sampler == "gaussian" else "a mixture of Gaussians"
    return (
        f"Sample with sampler='{figures.best_sampler}': held-out codes are likelier under {best} fitted to the codes"
        f" than under N(0, I), by {_in_words(gains[figures.best_sampler])}."
    )


def _in_words(gain: Gain) -> str:
    return f"{gain.nats:.2f} ± {gain.standard_error:.2f} nats"


def _gain(densities: np.ndarray, others: np.ndarray) -> Gain:
    gain = densities - others
    return Gain(float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain))))


def _non_gaussian(
    mean: np.ndarray, log_var: np.ndarray, seed: int, skipped: dict[str, str]
) -> tuple[Part | None, Part | None]:
    least = population.LEAST_CODES * mean.shape[1]
    if len(mean) < least:
        skipped["axes"] = skipped["radius"] = f"{len(mean)} training images' codes; expected at least {least}"
        return None, None
    return population.non_gaussian_parts(mean, log_var, seed)
