"""How data sets that this program prepares lie on the disk: ``DATA_DIR/NAME/CONFIG/VERSION``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rvae_jax.errors import UserError
from rvae_jax.system.files import read_json

VERSION = "1.0.0"
RECORD_FILE = "preparation.json"
STAGING = "incomplete"  # folder of a data set that is being prepared, in the place of CONFIG

# The names of the known face data sets in TFDS, and the names under which they are prepared.
FACE_SET_NAMES = {"celeb_a": "celeba", "celeb_a_hq": "celeba_hq", "lfw": "lfw_faces"}

PORTRAITS = "portraits"  # a source that generates its pictures
# All sources that have names, with the names under which they are prepared.
SOURCE_NAMES = {**FACE_SET_NAMES, PORTRAITS: PORTRAITS}

Shape = tuple[int, int, int]  # height, width, channels


def config_name(shape: Shape) -> str:
    """The name of a shape's TFDS configuration: ``64``, ``64x48`` (height first), ``64_grey``."""
    height, width, channels = shape
    return (f"{height}" if height == width else f"{height}x{width}") + ("_grey" if channels == 1 else "")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the data set in ``folder`` was prepared from, or None where this program did not prepare it."""
    try:
        record = read_json(folder / RECORD_FILE)
    except (OSError, UserError, ValueError):
        return None
    kinds = {"fingerprint": str, "modified": str, "source": str, "shape": list, "settings": dict}
    return record if all(isinstance(record.get(name), kind) for name, kind in kinds.items()) else None
