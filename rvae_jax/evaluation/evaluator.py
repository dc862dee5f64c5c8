"""Measures everything that can be measured of a trained model."""

from __future__ import annotations

from typing import NamedTuple

from etils import epath

from rvae_jax.errors import needs
from rvae_jax.evaluation.settings import EvaluationSettings
from rvae_jax.inference import samplers
from rvae_jax.storage import population_file, stored_model

with needs("evaluate", command=False):
    from rvae_jax.evaluation import results
    from rvae_jax.evaluation.bounds import measure_likelihood
    from rvae_jax.evaluation.certificate import measure_population
    from rvae_jax.evaluation.copying import measure_memorisation
    from rvae_jax.evaluation.feature_distances import measure_feature_distances, with_distances
    from rvae_jax.evaluation.latent_space import measure_latent_space
    from rvae_jax.evaluation.material import Label, Material, make_material
    from rvae_jax.evaluation.protocol import record_protocol, record_settings
    from rvae_jax.evaluation.quality import Comparison, measure_generation, measure_reconstruction
    from rvae_jax.evaluation.results import (
        EvaluatedModel,
        Evaluation,
        GenerationFigures,
        ReconstructionFigures,
        SampleFigures,
    )
    from rvae_jax.inference.trained_vae import TrainedVAE


class ImageFigures(NamedTuple):
    """What is measured of images alone.

    Attributes:
      reconstruction: of the reconstructions.
      generation: of real images (``real``) and of each sampler's, by name.
      inception_checksum: of the weights; None if no distances were measured.
    """

    reconstruction: ReconstructionFigures
    generation: dict[str, SampleFigures]
    inception_checksum: str | None


def measure_images(
    material: Material, settings: EvaluationSettings, label: Label, skipped: dict[str, str]
) -> ImageFigures:
    """Measures reconstructions and samples, of whatever model they are; ``skipped`` takes what cannot be measured."""
    compare = Comparison(material.images.held_out, skipped)
    reconstruction = measure_reconstruction(compare, material, label, skipped)
    generation = measure_generation(compare, material, settings.seed, label)
    distances = measure_feature_distances(material, settings, label, skipped)
    if distances is None:
        return ImageFigures(reconstruction, generation, None)
    return ImageFigures(*with_distances(reconstruction, generation, distances), distances.checksum)


def evaluate(model: TrainedVAE, settings: EvaluationSettings | None = None, progress: bool = True) -> Evaluation:
    """Evaluates a model; the arguments and errors are those of ``measure``."""
    return measure(model, settings, progress).evaluation


class Measured(NamedTuple):
    """An evaluation, and what it was measured on."""

    evaluation: Evaluation
    material: Material


def measure(model: TrainedVAE, settings: EvaluationSettings | None = None, progress: bool = True) -> Measured:
    """Evaluates a model.

    Args:
      model: the model.
      settings: what is measured, and on how many images; None for the defaults.
      progress: whether to show progress bars.

    Returns:
      All figures, rounded to six significant digits, and the material.

    Raises:
      UserError: the run's data set is missing, or has too few images.
    """

    def label(text: str) -> str | None:
        return f"{text:28}" if progress else None

    settings = settings or EvaluationSettings()
    config, seed = model.config, settings.seed
    skipped: dict[str, str] = {}
    material = make_material(model, settings, label)
    images = measure_images(material, settings, label, skipped)
    latent = measure_latent_space(material.held_out, material.training, seed)
    population = measure_population(material, seed, label, skipped)
    memorisation = measure_memorisation(material.images, material.samples["prior"], config.data.flip, skipped)
    likelihood = measure_likelihood(
        model,
        material.images.held_out,
        material.held_out,
        fitted_scale=float(images.reconstruction.l1_training),
        samples=settings.likelihood_samples,
        seed=seed,
        label=label,
        skipped=skipped,
    )
    evaluation = Evaluation(
        model=EvaluatedModel(str(model.workdir), model.step, config.steps, config.data.name),
        reconstruction=images.reconstruction,
        generation=GenerationFigures(**images.generation),
        latent=latent,
        memorisation=memorisation,
        likelihood=likelihood,
        protocol=record_protocol(config, settings, material.images, images.inception_checksum),
        settings=record_settings(settings),
        skipped=skipped,
        population=population,
    )
    return Measured(results.rounded(evaluation), material)


def write(model: TrainedVAE, measured: Measured, folder: epath.Path) -> epath.Path:
    """Writes ``evaluation.json`` into a folder, and returns its path.

    In the work directory of a run, what was fitted to the codes stays, too, so that it can be sampled without the
    images; unless it was fitted to fewer of them than ``TrainedVAE`` would take.
    """
    evaluation, material = measured
    count = len(material.training.mean)
    is_run = folder == model.workdir and not stored_model.is_export(folder)
    if is_run and count >= min(samplers.FITTED_TO, material.images.training_total):
        moments = samplers.mean_and_covariance(*material.training)
        population_file.write(folder, model.step, moments, material.mixture)
    return results.write(folder, evaluation)


def read_or_evaluate(
    model: TrainedVAE, settings: EvaluationSettings, progress: bool = True, *, of_any_settings: bool = False
) -> Evaluation:
    """Reads the model's ``evaluation.json`` if it is of this step and these settings; else evaluates and writes it.

    Args:
      model: the model.
      settings: of the evaluation.
      progress: whether to print what is being done.
      of_any_settings: whether an evaluation of this step is taken, whatever its settings.

    Raises:
      UserError: see ``evaluate``.
    """
    evaluation = results.read(model.workdir, model.step)
    if evaluation is None or not (of_any_settings or evaluation.settings == record_settings(settings)):
        if progress:
            print(f"{model.workdir}: evaluating step {model.step}", flush=True)
        measured = measure(model, settings, progress)
        write(model, measured, model.workdir)
        evaluation = measured.evaluation
    return evaluation
