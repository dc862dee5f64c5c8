"""Pages filled in from the templates."""

from __future__ import annotations

from typing import Any

from rvae_jax.errors import needs

with needs("evaluate", command=False):
    import jinja2


def environment(*, autoescape: bool) -> jinja2.Environment:
    """Where templates are rendered; they have the filter ``number``."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("rvae_jax.reporting"), autoescape=autoescape, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["number"] = number
    return found


def number(value: Any) -> str:
    """A value as a table has it: floats to four digits."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
