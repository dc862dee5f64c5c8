"""What a run was trained on and with: the file ``environment.json``, of its last start."""

from __future__ import annotations

import dataclasses
import json
import os

import dacite
import jax
from etils import epath

from rvae_jax.errors import UserError
from rvae_jax.system.files import read_json, write_atomically

FILE = "environment.json"


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a run was trained on and with.

    Attributes:
      devices: in words, such as ``8 x TPU v4 (tpu)``.
      rvae_jax: version.
      jax: version.
      cores: of one host's CPU.
    """

    devices: str
    rvae_jax: str
    jax: str = jax.__version__
    cores: int | None = os.cpu_count()


def write(workdir: epath.Path, environment: Environment) -> None:
    """Writes the file."""
    write_atomically(workdir / FILE, (json.dumps(dataclasses.asdict(environment), indent=2) + "\n").encode())


def read(workdir: epath.Path) -> Environment | None:
    """Reads the file; None if it is missing, as in a run of an earlier version or an imported one, or damaged."""
    try:
        return dacite.from_dict(Environment, read_json(workdir / FILE), dacite.Config(strict=True))
    except (FileNotFoundError, UserError, ValueError, dacite.DaciteError):
        return None
