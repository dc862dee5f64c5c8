"""The environment that templates are rendered in."""

from __future__ import annotations

import re
from typing import Any

from rvae_jax.errors import needs
from rvae_jax.evaluation.results import measured

with needs("evaluate", command=False):
    import jinja2


def environment(*, autoescape: bool) -> jinja2.Environment:
    """The environment of the templates, with the filters ``number``, ``measured`` and ``markdown``."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("rvae_jax.reporting"), autoescape=autoescape, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {"number": format_number, "measured": measured, "markdown": as_markdown}
    return found


def as_markdown(text: str) -> str:
    """Text as it is, on one line, in Markdown: none of its signs formats or ends a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&])", r"\\\1", " ".join(text.split()))


def format_number(value: Any) -> str:
    """Formats a value for a table: floats with four significant digits."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
