"""What libraries log through absl."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def absl_verbosity(level: str) -> Iterator[None]:
    """Within it, or in a function decorated with it, absl logs ``level`` and above: ``error``, ``fatal``."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(level)
    try:
        yield
    finally:
        logging.set_verbosity(before)
