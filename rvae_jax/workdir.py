"""A work directory belongs to one run: its configuration says which."""

from __future__ import annotations

import json
import pathlib

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError

CONFIG_FILE = "config.json"


def read_config(workdir: pathlib.Path) -> Config:
    """The configuration of the run in ``workdir``.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = workdir / CONFIG_FILE
    try:
        return config_lib.from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"{workdir} holds no run: there is no {CONFIG_FILE}; expected the --workdir of a run") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); put back a copy, or use another --workdir") from None


def claim(workdir: pathlib.Path, config: Config) -> None:
    """Makes ``workdir`` the work directory of the run ``config``, or finds that it is.

    Raises:
      UserError: it is no folder, or holds a run whose configuration differs in more than ``config.MAY_CHANGE``.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--workdir={workdir} is a file; expected a folder, or a path where one can be made") from None
    if (workdir / CONFIG_FILE).exists():
        there = read_config(workdir)
        differing = [name for name in config_lib.differences(config, there) if name not in config_lib.MAY_CHANGE]
        if differing:
            listed = ", ".join(
                f"{name} is {config_lib.get_field(there, name)!r} there and {config_lib.get_field(config, name)!r} here"
                for name in differing
            )
            raise UserError(
                f"--workdir={workdir} holds a run with another configuration: {listed}; use another --workdir, or that"
                " configuration"
            )
    part = workdir / f"{CONFIG_FILE}.part"
    part.write_text(json.dumps(config_lib.to_dict(config), indent=2) + "\n")
    part.replace(workdir / CONFIG_FILE)
