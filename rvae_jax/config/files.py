"""Configuration files: where they are, and what they define."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from rvae_jax.config.schema import Config
from rvae_jax.config.types import require_types
from rvae_jax.errors import UserError


def find_file(value: str) -> str:
    """FILE:VARIANT with the path of the file: one that is here or, by name, one of the program's own.

    Raises:
      UserError: there is neither.
    """
    file, colon, variant = value.partition(":")
    if Path(file).exists():
        return value
    shipped, name = _shipped(), file.removeprefix("configs/").removesuffix(".py")
    names = sorted(path.stem for path in shipped.glob("*.py"))
    if name not in names:
        raise UserError(f"--config={value}: no such file; the program's own are {', '.join(names)}")
    sys.path.append(str(shipped.parent))  # they import each other
    found = shipped / f"{name}.py"
    print(f"Configuration: {found}", flush=True)
    return f"{found}{colon}{variant}"


def read_file(value: str) -> Config:
    """The configuration that ``--config=FILE:VARIANT`` means: ``read_file("orl")``, ``read_file("mine.py:small")``.

    Raises:
      UserError: there is no such file, or the configuration has a field of a wrong type.
    """
    file, _, variant = find_file(value).partition(":")
    spec = importlib.util.spec_from_file_location(f"config_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant) if variant else module.get_config()
    require_types(config)
    return config


def _shipped() -> Path:
    """The folder of the configurations that come with the program: in its package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "shipped" / "configs", package.parent / "configs") if folder.is_dir())
