"""Prepares the data set that a configuration means, where that can be done without asking the user for more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from rvae_jax.config import Config
from rvae_jax.data import catalog
from rvae_jax.data.prepare import orl, preparation, value_range
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources.named import open_named
from rvae_jax.data.prepared import VERSION, config_name
from rvae_jax.errors import UserError


def prepare_for(config: Config, before_work: Callable[[Config], None] = lambda config: None) -> Config:
    """Prepares ``data.folder`` or ``orl`` if the configuration has it, unless it is prepared.

    ``data.folder`` is prepared at the model's size and becomes ``data.name``, with the splits ``train``, ``validation``
    (which selects the checkpoint) and ``test``. The name has a hash of the folder's files: a run that goes on finds the
    same images or is refused.

    Args:
      config: the configuration.
      before_work: called with the configuration that will be returned, before pictures of a folder are prepared; it may
        raise.

    Returns:
      The configuration with the data set's full name, as ``catalog.resolve`` returns it.

    Raises:
      UserError: the folder cannot be prepared, or ``catalog.resolve`` raises it.
    """
    if config.data.folder is not None:
        return _prepare_folder(config, before_work)
    if config.data.name == "orl":
        data_dir = config.data.data_dir
        orl.prepare(data_dir and str(Path(data_dir).expanduser()))
    return catalog.resolve(config)


def _prepare_folder(config: Config, before_work: Callable[[Config], None]) -> Config:
    data, shape = config.data, config.model.image_shape
    if not data.folder:
        raise UserError("--config.data.folder is empty; expected the path of a folder, zip or tar of pictures")
    if shape[2] not in (1, 3):
        raise UserError(f"--config.model.image_shape={shape}: expected 1 or 3 channels, as pictures have")
    folder = Path(data.folder).expanduser().resolve()
    data_dir = catalog.default_data_dir(data.data_dir)
    settings = PreparationSettings(shapes=(shape,), crop=data.crop)
    with open_named(str(folder), None, data_dir, shape[0]) as source:
        mark = preparation.fingerprint(source, settings)[:8]
        stem = "_".join(filter(None, ("folder", preparation.name_of(folder), mark)))
        name = f"{stem}/{config_name(shape)}"
        if data.name not in (None, name):
            raise UserError(
                f"--config.data.name={data.name} and --config.data.folder={data.folder}: expected one of them"
                f" (the folder's pictures, as they are now, are {name})"
            )
        config = dataclasses.replace(config, data=dataclasses.replace(data, name=name, crop=None))
        before_work(config)
        print(f"The pictures in {folder} are data.name={name} in {data_dir}")
        if not (data_dir / name / VERSION).exists():
            value_range.warn_if_narrow(source, value_range.look(source))
        preparation.prepare(source, settings, stem, data_dir)
    return config
