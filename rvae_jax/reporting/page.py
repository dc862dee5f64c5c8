"""A report: one page on one run or several, side by side."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

import numpy as np

import rvae_jax
from rvae_jax import config as config_lib
from rvae_jax.errors import UserError, needs
from rvae_jax.evaluation.settings import EvaluationSettings

with needs("evaluate", command=False):
    from markupsafe import Markup, escape

    from rvae_jax.drawing import figures, history
    from rvae_jax.drawing.scene import Scene
    from rvae_jax.evaluation import evaluator
    from rvae_jax.evaluation.diagnosis import diagnose
    from rvae_jax.evaluation.results import Evaluation
    from rvae_jax.inference.trained_vae import TrainedVAE
    from rvae_jax.reporting import headline, plots, tables, templating
    from rvae_jax.reporting.glossary import GLOSSARY
    from rvae_jax.reporting.subject import Subject
    from rvae_jax.training.metric_log import read_metrics

_MOST_RUNS = 4
_SHOWN_IMAGES = 20
# Headings of the pictures, in their order on the page; the second group is folded.
_SHOWN = {
    "reconstructions": "Reconstructions",
    "samples_prior": "Samples",
    "samples_gaussian": "Samples from a Gaussian fitted to the codes",
    "samples_mixture": "Samples from a mixture fitted to the codes",
    "neighbours": "Samples and training images like them",
    "transitions_linear": "Transitions",
}
_FOLDED = {
    "transitions_spherical": "Spherical transitions",
    "transition_animated": "Animated transitions",
    "variants_released": "The first two dimensions",
    "variants_active": "The most active dimensions",
    "variants_principal": "Principal components",
    "attributes": "Attributes",
}
_OVER_STEPS = {"reconstructions_over_steps": "Reconstructions", "samples_over_steps": "Samples"}


def make_report(
    models: list[TrainedVAE], settings: EvaluationSettings, progress: bool = True, *, of_any_settings: bool = False
) -> str:
    """Makes the page, which needs no other file and no network.

    A model is evaluated only if its work directory has no ``evaluation.json`` of the same step and settings.

    Args:
      models: of different runs. If their images have one shape, all show the same held-out images, those of the first
        run's data set.
      settings: of the evaluations.
      progress: whether to print what is being done.
      of_any_settings: whether stored evaluations are taken, whatever their settings.

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
    subjects = []
    for name, model in zip(names, models, strict=True):
        evaluation = evaluator.read_or_evaluate(model, settings, progress, of_any_settings=of_any_settings)
        subjects.append(_make_subject(name, model, evaluation, images, progress))
    if progress:
        print("Writing the page", flush=True)
    return _render(subjects, models[0].config.data.name if images is not None else None)


def _render(subjects: list[Subject], shown_of: str | None) -> str:
    """The page; ``shown_of`` is the data set whose images all runs show, if they do."""
    configurations = [config_lib.flatten(subject.model.config) for subject in subjects]
    environment = templating.environment(autoescape=True)
    environment.filters |= {"data_uri": _data_uri, "breakable": _breakable}
    found = tables.figure_tables(subjects)
    numbers = [headline.numbers(subject) for subject in subjects]
    return environment.get_template("report.html.jinja").render(
        title=", ".join(subject.name for subject in subjects),
        subjects=subjects,
        headline=list(zip(*numbers, strict=True)),
        facts=[headline.facts(subject) for subject in subjects],
        differing=tables.differing_fields(configurations),
        incomparable=tables.incomparable(subjects),
        shown=_side_by_side(_SHOWN, subjects),
        folded=_side_by_side(_FOLDED, subjects),
        over_steps=_side_by_side(_OVER_STEPS, subjects),
        runs=plots.runs(subjects),
        marks=plots.marks(subjects),
        curves=plots.curves(subjects),
        histograms=plots.histograms(subjects),
        tables=found,
        glossary=GLOSSARY,
        used={name for table in found for name, _ in table.rows},
        shown_of=shown_of,
        configurations=configurations,
        version=rvae_jax.__version__,
    )


def _short_names(paths: list[str]) -> list[str]:
    """The last parts of each path, as few as make the names differ."""
    for count in range(1, 20):
        names = ["/".join(path.rstrip("/").split("/")[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError("--workdir: the same one is given twice; expected different runs")


def _make_subject(
    name: str, model: TrainedVAE, evaluation: Evaluation, images: np.ndarray | None, progress: bool
) -> Subject:
    rows = read_metrics(model.workdir)
    drawn = dict(figures.draw(Scene(model, images), label=f"drawing {name}" if progress else None))
    drawn |= history.draw(model.workdir, model.config.model.image_shape)
    return Subject(name, model, evaluation, rows, diagnose(evaluation, rows, model.config), drawn)


class _Drawn(NamedTuple):
    """A figure of a run; ``columns`` is how many images are beside each other, ``width`` and ``height`` are pixels."""

    run: str
    figure: figures.Figure
    columns: int
    width: int
    height: int


def _side_by_side(headings: dict[str, str], subjects: list[Subject]) -> list[tuple[str, list[_Drawn]]]:
    """The heading of each figure that a run has, with the figures of the runs that have it."""
    found = []
    for name, heading in headings.items():
        drawn = []
        for subject in (subject for subject in subjects if name in subject.figures):
            figure, shape = subject.figures[name], subject.model.config.model.image_shape
            height, width = figure.frames[0].shape[:2]
            drawn.append(_Drawn(subject.name, figure, width // shape[1], width, height))
        found += [(heading, drawn)] if drawn else []
    return found


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after a dot, underscore or slash, as HTML."""
    return Markup(re.sub(r"(?<=[._/])", "<wbr>", str(escape(name))))


def _data_uri(figure: figures.Figure) -> str:
    content, suffix = figure.encoded()
    return f"data:image/{suffix};base64,{base64.b64encode(content).decode()}"
