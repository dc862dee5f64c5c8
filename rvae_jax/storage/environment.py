"""What a run was trained on and with: the file ``environment.json``, of its last start."""

from __future__ import annotations

import dataclasses
import json
import os

import jax
from etils import epath

import rvae_jax
from rvae_jax.system.files import write_atomically

FILE = "environment.json"


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a run was trained on and with.

    Attributes:
      devices: in words, such as ``8 x TPU v4 (tpu)``.
      cores: of the CPU, of one host.
      rvae_jax: version.
      jax: version.
    """

    devices: str
    cores: int | None = os.cpu_count()
    rvae_jax: str = rvae_jax.__version__
    jax: str = jax.__version__


def write(workdir: epath.Path, environment: Environment) -> None:
    """Writes the file."""
    write_atomically(workdir / FILE, (json.dumps(dataclasses.asdict(environment), indent=2) + "\n").encode())


def read(workdir: epath.Path) -> Environment | None:
    """Reads the file; None if it is missing, as in a run of an earlier version or an imported one, or damaged."""
    try:
        return Environment(**json.loads((workdir / FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # of JSON, of its fields
        return None
