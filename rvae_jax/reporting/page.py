"""A report: one page on one run or several, side by side."""

from __future__ import annotations

import base64

import numpy as np

from rvae_jax import config as config_lib
from rvae_jax.errors import UserError, needs
from rvae_jax.evaluation.settings import EvaluationSettings

with needs("evaluate", command=False):
    from rvae_jax.drawing import figures
    from rvae_jax.drawing.scene import Scene
    from rvae_jax.evaluation import evaluator
    from rvae_jax.evaluation.diagnosis import diagnose
    from rvae_jax.inference.trained_vae import TrainedVAE
    from rvae_jax.reporting import plots, tables, templating
    from rvae_jax.reporting.subject import Subject
    from rvae_jax.training.metric_log import read_metrics

_MOST_RUNS = 4
_SHOWN_IMAGES = 20
_LEAST_TILE = 90  # pixels; smaller images are enlarged to this height where the page is wide enough


def make_report(models: list[TrainedVAE], settings: EvaluationSettings, progress: bool = True) -> str:
    """Makes the page, which needs no other file and no network.

    A model is evaluated only if its work directory has no ``evaluation.json`` of the same step and settings.

    Args:
      models: of different runs. If their images have one shape, all show the same held-out images, those of the first
        run's data set.
      settings: of the evaluations.
      progress: whether to print what is being done.

    Returns:
      HTML.

    Raises:
      UserError: there are more than four runs, one is given twice, or a run's data set is missing.
    """
    if len(models) > _MOST_RUNS:
        raise UserError(f"--workdir is given {len(models)} times; expected at most {_MOST_RUNS}")
    shapes = {tuple(model.config.model.image_shape) for model in models}
    images = models[0].images(settings.split, _SHOWN_IMAGES) if len(shapes) == 1 else None
    names = _short_names([str(model.workdir) for model in models])
    subjects = [
        _make_subject(name, model, settings, images, progress) for name, model in zip(names, models, strict=True)
    ]
    configurations = [config_lib.flatten(model.config) for model in models]
    environment = templating.environment(autoescape=True)
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("report.html.jinja").render(
        title=", ".join(names),
        subjects=subjects,
        enlarged=max(1.0, _LEAST_TILE / min(height for height, *_ in shapes)),
        tables=tables.figure_tables(subjects),
        figures=_figure_rows(subjects),
        curves=plots.curves(subjects),
        histograms=plots.histograms(subjects),
        differing=tables.differing_fields(configurations),
        incomparable=tables.incomparable(subjects),
        better=tables.BETTER,
        shown_of=models[0].config.data.name if images is not None else None,
        configurations=configurations,
    )


def _short_names(paths: list[str]) -> list[str]:
    """The last parts of each path, as few as make the names differ."""
    for count in range(1, 20):
        names = ["/".join(path.rstrip("/").split("/")[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError("--workdir: the same one is given twice; expected different runs")


def _make_subject(
    name: str, model: TrainedVAE, settings: EvaluationSettings, images: np.ndarray | None, progress: bool
) -> Subject:
    rows = read_metrics(model.workdir)
    evaluation = evaluator.read_or_evaluate(model, settings, progress)
    if progress:
        print(f"{name}: drawing", flush=True)
    drawn = dict(figures.draw(Scene(model, images)))
    return Subject(name, model, evaluation, rows, diagnose(evaluation, rows, model.config), drawn)


def _figure_rows(subjects: list[Subject]) -> list[list[tuple[str, figures.Figure]]]:
    """For each figure, the names of the runs that have it, each with its drawing."""
    names = dict.fromkeys(name for subject in subjects for name in subject.figures)
    return [
        [(subject.name, subject.figures[name]) for subject in subjects if name in subject.figures] for name in names
    ]


def _data_uri(figure: figures.Figure) -> str:
    content, suffix = figure.encoded()
    return f"data:image/{suffix};base64,{base64.b64encode(content).decode()}"
