"""One page about one run or several, side by side; ``rvae_jax.report`` is the command."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
from typing import Any

import numpy as np

from rvae_jax import config as config_lib
from rvae_jax.errors import UserError, needs
from rvae_jax.evaluation.diagnosis import Verdict, verdicts

with needs("evaluate", command=False):
    import matplotlib
    from matplotlib import pyplot

    from rvae_jax.drawing.figures import Drawer, Figure
    from rvae_jax.evaluation import evaluator
    from rvae_jax.inference.trained_vae import TrainedVAE
    from rvae_jax.reporting import pages
    from rvae_jax.training.metric_log import read_metrics

_MAX_CURVE_POINTS = 500
_MOST_RUNS = 4
_LEAST_TILE = 90  # height in pixels that a smaller image is shown at, where the page is wide enough

# Title, unit, and the metrics of docs/metrics.md that are drawn together.
_CURVES = (
    ("Reconstruction", "mean absolute error", ("loss/reconstruction", "selection/l1", "validation/l1")),
    (
        "KL terms",
        "nats per image",
        ("loss/population_kl", "loss/variance_regularizer", "loss/standard_kl", "validation/kl_per_image"),
    ),
    ("Adversarial", "as the loss has it", ("loss/adversarial", "loss/discriminator")),
    ("Discriminator's accuracy", "share of patches", ("discriminator/accuracy_real", "discriminator/accuracy_fake")),
    ("Latent space", "prior deviations", ("latent/population_std", "latent/sigma_mean", "latent/population_mean_rms")),
    ("Active units", "dimensions", ("latent/active_units", "validation/active_units")),
    ("Gradient norms", "weighted loss per weight", ("gradient_norm/vae", "gradient_norm/discriminator")),
)
# Which way is better, where one is.
_BETTER = dict.fromkeys(
    ("l1", "l1_training", "lpips", "rfid", "fid", "kid", "bits_per_dimension", "bits_per_dimension_fitted", "copies"),
    "lower",
)
_BETTER |= dict.fromkeys(
    ("psnr", "ssim", "precision", "recall", "density", "coverage", "iwae", "iwae_fitted"), "higher"
)

_HISTOGRAMS = (
    ("mean", "population's mean"),
    ("var_means", "variance of the means"),
    ("var_mixture", "variance of the mixture"),
    ("sigma", "posterior's deviation"),
    ("kl", "KL to the prior, nats"),
    ("excess_kurtosis", "excess kurtosis"),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """One run, and all that the page says of it.

    Attributes:
      name: what it is called on the page.
      model: its model.
      evaluation: of that model.
      rows: of its ``metrics.jsonl``.
      verdicts: on its illnesses.
      figures: by name.
    """

    name: str
    model: TrainedVAE
    evaluation: dict[str, Any]
    rows: list[dict[str, float]]
    verdicts: list[Verdict]
    figures: dict[str, Figure]


def make_report(models: list[TrainedVAE], settings: evaluator.Settings) -> str:
    """The page, with everything in it: it needs no other file and no network.

    A model whose ``evaluation.json`` is of its step is not evaluated again.

    Args:
      models: of different runs; all show the same held-out images, those of the first run's data set, where they have
        the same shape.
      settings: of the evaluation, where one is needed.

    Raises:
      UserError: there are more than four, or a run's data set is not there.
    """
    if len(models) > _MOST_RUNS:
        raise UserError(f"--workdir is given {len(models)} times; expected at most {_MOST_RUNS}")
    shapes = {tuple(model.config.model.image_shape) for model in models}
    images = models[0].images(settings.split, 20) if len(shapes) == 1 else None
    names = _names([str(model.workdir) for model in models])
    subjects = [_subject(name, model, settings, images) for name, model in zip(names, models, strict=True)]
    environment = pages.environment(autoescape=True)
    environment.filters["figure"] = _data_uri
    return environment.get_template("report.html.jinja").render(
        title=", ".join(names),
        subjects=subjects,
        enlarged=max(1.0, _LEAST_TILE / min(height for height, *_ in shapes)),
        tables=_tables(subjects),
        figures=_figure_rows(subjects),
        curves=_curves(subjects),
        histograms=_histograms(subjects),
        differing=_differing(subjects),
        unlike=_unlike(subjects),
        better=_BETTER,
        shown_of=models[0].config.data.name if images is not None else None,
        configurations=[config_lib.flatten(subject.model.config) for subject in subjects],
    )


def _names(paths: list[str]) -> list[str]:
    """The last parts of the paths, as few as tell them apart."""
    for count in range(1, 20):
        names = ["/".join(path.rstrip("/").split("/")[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError("--workdir: the same one is given twice; expected different runs")


def _subject(name: str, model: TrainedVAE, settings: evaluator.Settings, images: np.ndarray | None) -> Subject:
    rows = read_metrics(model.workdir)
    evaluation = evaluator.evaluated(model, settings)
    print(f"{name}: drawing", flush=True)
    figures = dict(Drawer(model, images).all())
    return Subject(name, model, evaluation, rows, verdicts(evaluation, rows, model.config), figures)


def _tables(subjects: list[Subject]) -> list[dict[str, Any]]:
    """The evaluation's figures: title, headings, and rows of a name and a value for each heading."""
    several = len(subjects) > 1

    def table(title: str, note: str, columns: dict[str, dict[str, float]]) -> dict[str, Any]:
        names = list(dict.fromkeys(name for column in columns.values() for name in column))
        rows = [(name, [column.get(name) for column in columns.values()]) for name in names]
        return {"title": title, "note": note, "headings": list(columns), "rows": rows}

    def of_all(path: str) -> dict[str, dict[str, float]]:
        return {subject.name if several else "": subject.evaluation[path] for subject in subjects}

    protocol = subjects[0].evaluation["protocol"]
    tables = [table("Reconstruction", f"{protocol['held_out_images']:,} held-out images", of_all("reconstruction"))]
    for subject in subjects:
        title = f"Generation: {subject.name}" if several else "Generation"
        count = subject.evaluation["protocol"]["samples_of_each_sampler"]
        note = f"{count:,} samples of each kind; real: as many training images, which is the floor"
        tables.append(table(title, note, subject.evaluation["generation"]))
    for part, title in (("training", "training images"), ("held_out", "held-out images")):
        columns = {subject.name if several else "": subject.evaluation["latent"][part] for subject in subjects}
        tables.append(table(f"Latent space: {title}", "rates in nats per image", columns))
    tables.append(table("Memorisation", "copies: share of samples from the prior", of_all("memorisation")))
    if any(subject.evaluation["likelihood"] for subject in subjects):
        note = "lower bound, in nats per image of values in [-1, 1], a density"
        tables.append(table("Likelihood", note, of_all("likelihood")))
    return tables


def _figure_rows(subjects: list[Subject]) -> list[list[tuple[str, Figure]]]:
    """For each figure, what the runs make of it, by their names."""
    names = dict.fromkeys(name for subject in subjects for name in subject.figures)
    return [
        [(subject.name, subject.figures[name]) for subject in subjects if name in subject.figures] for name in names
    ]


def _differing(subjects: list[Subject]) -> list[tuple[str, list[Any]]]:
    """Fields of the configuration that the runs do not share."""
    flat = [config_lib.flatten(subject.model.config) for subject in subjects]
    return [(name, [one[name] for one in flat]) for name in flat[0] if any(one[name] != flat[0][name] for one in flat)]


def _unlike(subjects: list[Subject]) -> list[str]:
    """What the runs' figures rest on, where it is not the same: they cannot be compared then."""
    protocols = [{**subject.evaluation["protocol"], **subject.evaluation["model"]} for subject in subjects]
    names = ("data", "held_out_split", "held_out_images", "training_images", "image_shape", "inception_checksum")
    found = []
    for name in names:
        values = [protocol.get(name) for protocol in protocols]
        if any(value != values[0] for value in values):
            found.append(f"{name}: " + ", ".join(map(str, values)))
    return found


def _curves(subjects: list[Subject]) -> list[str]:
    found = []
    for title, unit, names in _CURVES:
        with _plot(title, len(found)) as plot:
            for number, subject in enumerate(subjects):
                for position, name in enumerate(names):
                    points = [(row["step"], row[name]) for row in subject.rows if name in row]
                    if not points:
                        continue
                    steps, values = zip(*points[:: -(-len(points) // _MAX_CURVE_POINTS)], strict=True)
                    label = f"{subject.name}: {name}" if len(subjects) > 1 else name
                    style = ("-", "--", ":", "-.")[number % 4]
                    plot.axes.plot(steps, values, style, color=f"C{position}", label=label, linewidth=1.2)
            plot.axes.set_xlabel("step")
            plot.axes.set_ylabel(unit)
        if plot.svg:
            found.append(plot.svg)
    return found


def _histograms(subjects: list[Subject]) -> list[str]:
    found = []
    for name, label in _HISTOGRAMS:
        with _plot(label, 100 + len(found)) as plot:
            columns = [np.array(subject.evaluation["latent"]["dimensions"][name]) for subject in subjects]
            together = np.concatenate(columns)
            bins = np.linspace(together.min(), max(together.max(), together.min() + 1e-6), 31)
            for subject, values in zip(subjects, columns, strict=True):
                plot.axes.hist(values, bins, histtype="stepfilled", alpha=0.5, label=subject.name)
            plot.axes.set_ylabel("dimensions")
        found.append(plot.svg)
    return found


class _plot:
    """The page's plot of that number, whose SVG is there after the block; empty if nothing was drawn."""

    def __init__(self, title: str, number: int) -> None:
        self.svg, self._title, self._number = "", title, number
        self._figure, self.axes = pyplot.subplots(figsize=(5.2, 3.1), layout="constrained")
        self.axes.set_title(title, fontsize=10)

    def __enter__(self) -> _plot:
        return self

    def __exit__(self, *_: object) -> None:
        if self.axes.has_data():
            self.axes.tick_params(labelsize=8)
            self.axes.grid(alpha=0.3)
            self.axes.legend(fontsize=7)
            text = io.StringIO()
            with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rvae_jax"}):
                self._figure.savefig(text, format="svg", metadata={"Date": None})
            svg = text.getvalue()[text.getvalue().index("<svg") :]
            # Several on a page must not share their ids.
            svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>plot{self._number}-", svg)
            self.svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(self._title)}"', 1)
        pyplot.close(self._figure)


def _data_uri(figure: Figure) -> str:
    content, suffix = figure.encoded()
    return f"data:image/{suffix};base64,{base64.b64encode(content).decode()}"
