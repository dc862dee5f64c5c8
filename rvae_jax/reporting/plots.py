"""The plots of a report, as SVG to be put into the page."""

from __future__ import annotations

import html
import io
import re

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvae_jax.reporting.subject import Subject

_MAX_CURVE_POINTS = 500

# Title, unit, and the metrics of docs/metrics.md that are drawn together.
_CURVES = (
    ("Reconstruction", "mean absolute error", ("loss/reconstruction", "selection/l1", "validation/l1")),
    (
        "KL terms",
        "nats per image",
        ("loss/population_kl", "loss/variance_regularizer", "loss/standard_kl", "validation/kl_per_image"),
    ),
    ("Adversarial", "unweighted loss", ("loss/adversarial", "loss/discriminator")),
    (
        "Accuracy of the discriminator",
        "share of patches",
        ("discriminator/accuracy_real", "discriminator/accuracy_fake"),
    ),
    ("Latent space", "prior deviations", ("latent/population_std", "latent/sigma_mean", "latent/population_mean_rms")),
    ("Active units", "dimensions", ("latent/active_units", "validation/active_units")),
    ("Gradient norms", "weighted loss per weight", ("gradient_norm/vae", "gradient_norm/discriminator")),
)

# Fields of ``DimensionFigures``.
_HISTOGRAMS = (
    ("mean", "mean of the population"),
    ("var_means", "variance of the means"),
    ("var_mixture", "variance of the mixture"),
    ("sigma", "deviation of the posteriors"),
    ("kl", "KL to the prior, nats"),
    ("excess_kurtosis", "excess kurtosis"),
)


def curves(subjects: list[Subject]) -> list[str]:
    """Metrics over the steps, one plot for each group of metrics that the runs have logged."""
    found = []
    for title, unit, names in _CURVES:
        figure, axes = _new_plot(title)
        for number, subject in enumerate(subjects):
            _draw_curves(axes, subject, names, style=("-", "--", ":", "-.")[number % 4], named=len(subjects) > 1)
        if axes.has_data():
            axes.set_xlabel("step")
            axes.set_ylabel(unit)
            found.append(_to_svg(figure, axes, f"curve{len(found)}"))
    return found


def histograms(subjects: list[Subject]) -> list[str]:
    """How the values of each figure are distributed over the latent dimensions."""
    found = []
    for name, title in _HISTOGRAMS:
        figure, axes = _new_plot(title)
        columns = [np.array(getattr(subject.evaluation.latent.dimensions, name)) for subject in subjects]
        together = np.concatenate(columns)
        bins = np.linspace(together.min(), max(together.max(), together.min() + 1e-6), 31)
        for subject, values in zip(subjects, columns, strict=True):
            axes.hist(values, bins, histtype="stepfilled", alpha=0.5, label=subject.name)
        axes.set_ylabel("dimensions")
        found.append(_to_svg(figure, axes, f"histogram{len(found)}"))
    return found


def _draw_curves(axes: Axes, subject: Subject, names: tuple[str, ...], style: str, named: bool) -> None:
    for position, name in enumerate(names):
        points = [(row["step"], row[name]) for row in subject.rows if name in row]
        if points:
            steps, values = zip(*points[:: -(-len(points) // _MAX_CURVE_POINTS)], strict=True)
            label = f"{subject.name}: {name}" if named else name
            axes.plot(steps, values, style, color=f"C{position}", label=label, linewidth=1.2)


def _new_plot(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    return figure, axes


def _to_svg(figure: Figure, axes: Axes, prefix: str) -> str:
    """The plot as SVG; ``prefix`` keeps its ids apart from those of the other plots on the page."""
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rvae_jax"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(axes.get_title())}"', 1)
