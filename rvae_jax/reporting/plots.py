"""The plots of a report, as SVG to be put into the page, which writes their titles and legends itself."""

from __future__ import annotations

import dataclasses
import html
import io
import re

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvae_jax import config as config_lib
from rvae_jax.reporting.glossary import LOGGED
from rvae_jax.reporting.headline import chosen_as
from rvae_jax.reporting.subject import Subject

_MOST_SHOWN = 1e100  # Matplotlib computes with squares of the values
_MAX_CURVE_POINTS = 500
_STYLES = ("-", "--", ":", "-.")  # of the runs' lines
_DASHES = ("", "6 3", "1.5 2", "6 2 1.5 2")  # the same, for the legend
_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728")  # seen on light and on dark
_LEAST_APART = 0.06  # of two signs side by side, as a share of the axis
_INK = "#010203"  # stands for the page's colour of text, which may be light or dark

# Title, unit, scale, and the metrics of docs/metrics.md that are drawn together.
CURVES = (
    ("Reconstruction", "mean absolute error", "linear", ("loss/reconstruction", "selection/l1", "validation/l1")),
    (
        "KL terms",
        "nats per image",
        "log",
        ("loss/population_kl", "loss/variance_regularizer", "loss/standard_kl", "validation/kl_per_image"),
    ),
    ("Adversarial", "unweighted loss", "linear", ("loss/adversarial", "loss/discriminator")),
    (
        "Accuracy of the discriminator",
        "share of patches",
        "linear",
        ("discriminator/accuracy_real", "discriminator/accuracy_fake"),
    ),
    (
        "Latent space",
        "prior deviations",
        "linear",
        ("latent/population_std", "latent/sigma_mean", "latent/population_mean_rms"),
    ),
    ("Active units", "dimensions", "linear", ("latent/active_units", "validation/active_units")),
    ("Gradient norms", "weighted loss per weight", "log", ("gradient_norm/vae", "gradient_norm/discriminator")),
)

# Fields of ``DimensionFigures``.
_HISTOGRAMS = (
    ("mean", "Mean of the codes"),
    ("var_means", "Variance of the posteriors' means"),
    ("var_mixture", "Variance of the mixture of posteriors"),
    ("sigma", "Deviation of one posterior"),
    ("kl", "KL to the prior, nats"),
    ("excess_kurtosis", "Excess kurtosis; 0 for a Gaussian"),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a legend.

    Attributes:
      color: in CSS.
      name: of the metric or run.
      meaning: what it is.
    """

    color: str
    name: str
    meaning: str = ""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
      title: above it.
      svg: the plot, without any text from the data.
      legend: below it.
    """

    title: str
    svg: str
    legend: list[Entry]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A step at which every curve has a line.

    Attributes:
      sign: above the line.
      step: where it is.
      meaning: what happens there.
      run: in which run.
    """

    sign: str
    step: int
    meaning: str
    run: str


def marks(subjects: list[Subject]) -> list[Mark]:
    """Where texture starts, where the discriminator starts to count, and the checkpoint that the report is of."""
    found = []
    for number, subject in enumerate(subjects, 1):
        loss = config_lib.in_steps(subject.model.config).loss
        is_adversarial = loss.adversarial != "none" and loss.adversarial_weight > 0
        suffix = str(number) if len(subjects) > 1 else ""
        found += [
            Mark(f"{letter}{suffix}", int(step), meaning, subject.name)
            for letter, step, meaning in (
                ("T", loss.texture_start, "the perceptual term and the discriminator start"),
                ("D", loss.adversarial_start if is_adversarial else 0, "the VAE is trained against the discriminator"),
                ("B", subject.model.step, f"best checkpoint: {chosen_as(subject.model.config)}"),
            )
            if step > 0
        ]
    return found


def runs(subjects: list[Subject]) -> list[tuple[str, str]]:
    """The name and the pattern of the lines of each run, as SVG's ``stroke-dasharray``."""
    return [(subject.name, _DASHES[number]) for number, subject in enumerate(subjects)]


def curves(subjects: list[Subject]) -> list[Plot]:
    """Metrics over the steps, one plot for each group of metrics that the runs have logged."""
    found = []
    for title, unit, scale, names in CURVES:
        figure, axes = _new_plot()
        for subject, style in zip(subjects, _STYLES, strict=False):
            _draw_curves(axes, subject, names, style)
        if not axes.lines:
            continue
        if scale == "log" and min(np.min(line.get_ydata()) for line in axes.lines) > 0:
            axes.set_yscale("log")
        _draw_marks(axes, marks(subjects))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        drawn = [name for name in names if any(name in row for subject in subjects for row in subject.rows)]
        legend = [Entry(_COLORS[names.index(name)], name, LOGGED[name]) for name in drawn]
        found.append(Plot(title, _to_svg(figure, axes, f"curve{len(found)}", title), legend))
    return found


def histograms(subjects: list[Subject]) -> list[Plot]:
    """How the values of each figure are distributed over the latent dimensions."""
    found = []
    legend = [Entry(color, subject.name) for color, subject in zip(_COLORS, subjects, strict=False)]
    for name, title in _HISTOGRAMS:
        figure, axes = _new_plot()
        columns = [np.array(getattr(subject.evaluation.latent.dimensions, name)) for subject in subjects]
        together = np.concatenate(columns)
        bins = np.linspace(together.min(), max(together.max(), together.min() + 1e-6), 31)
        for color, values in zip(_COLORS, columns, strict=False):
            axes.hist(values, bins, histtype="stepfilled", alpha=0.5, color=color)
        axes.set_ylabel("dimensions")
        svg = _to_svg(figure, axes, f"histogram{len(found)}", title)
        found.append(Plot(title, svg, legend if len(subjects) > 1 else []))
    return found


def _draw_curves(axes: Axes, subject: Subject, names: tuple[str, ...], style: str) -> None:
    for color, name in zip(_COLORS, names, strict=False):
        points = [(row["step"], row[name]) for row in subject.rows if name in row]
        if points:
            steps, values = zip(*points[:: -(-len(points) // _MAX_CURVE_POINTS)], strict=True)
            marker = "o" if len(steps) == 1 else None
            values = np.where(np.abs(values) < _MOST_SHOWN, values, np.nan)
            axes.plot(steps, values, style, color=color, linewidth=1.4, marker=marker, markersize=3)


def _draw_marks(axes: Axes, found: list[Mark]) -> None:
    """Lines with signs above them; a sign that would cover the one before it is raised."""
    least, before, raised = _LEAST_APART * np.ptp(axes.get_xlim()), -np.inf, False
    for step in sorted({mark.step for mark in found}):
        raised = not raised and step - before < least
        before = step
        axes.axvline(step, color=_INK, linewidth=0.8, alpha=0.6)
        signs = " ".join(mark.sign for mark in found if mark.step == step)
        place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        axes.annotate(signs, (step, 1.08 if raised else 1.01), color=_INK, fontsize=8, **place)


def _new_plot() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    return figure, figure.subplots()


def _to_svg(figure: Figure, axes: Axes, prefix: str, title: str) -> str:
    """The plot as SVG; ``prefix`` keeps its ids apart from those of the other plots on the page."""
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(alpha=0.2, color=_INK)
    axes.set_facecolor("none")
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set(color=_INK, fontsize=9)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=_INK)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rvae_jax"}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    svg = text.getvalue()[text.getvalue().index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
