"""A trained model, in whichever form it is stored: a run's work directory, an exported directory, one file."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from etils import epath

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError, printable
from rvae_jax.storage import hub, population_file, tensor_file
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.workdir import CONFIG_FILE, EVALUATION_FILE
from rvae_jax.system.files import read_json

TENSORS_FILE = "model.safetensors"

_LISTED = 8


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model that was read.

    Attributes:
      config: configuration of the run that it comes from.
      weights: as ``training.state.TrainState.weights`` has them.
      step: training step of the weights.
      folder: the directory, or the one that the file is in.
      source: where it was read from, in words.
      moments: mean and covariance of the training images' codes, or None where they were not stored; see
        ``samplers.mean_and_covariance``.
      best_sampler: what the evaluation of this step found best to sample from; None without one.
      mixture: of Gaussians that were fitted to the codes, or None; see ``samplers.Mixture``.
    """

    config: Config
    weights: dict[str, Any]
    step: int
    folder: epath.Path
    source: str
    moments: tensor_file.MeanAndCovariance | None = None
    best_sampler: str | None = None
    mixture: tensor_file.MixtureArrays | None = None


def read(path: epath.PathLike, step: int | None = None) -> StoredModel:
    """Reads a model, to this process's first device.

    Args:
      path: a run's work directory, a directory that ``rvae_jax.export`` made, or a ``.safetensors`` file; local or in
        an object store; or an export on the Hugging Face hub, ``hf://USER/NAME``.
      step: step of the checkpoint, or None for the best of a work directory, the only one of an export.

    Raises:
      UserError: there is no model, none of that step, or it cannot be read.
    """
    if hub.is_on_hub(path):
        folder = hub.fetch(path, [TENSORS_FILE, CONFIG_FILE])
        return _read_tensors(folder / TENSORS_FILE, step, folder, os.fspath(path))
    path = workdir_lib.open_workdir(path)
    if path.suffix == ".safetensors" and not path.is_dir():
        return _read_tensors(path, step, path.parent, f"file {path}")
    if is_export(path):
        model = _read_tensors(path / TENSORS_FILE, step, path, f"exported directory {path}")
        _require_same_config(path, model.config)
        return dataclasses.replace(model, best_sampler=_best_sampler(path, model.step) or model.best_sampler)
    if not (path / CONFIG_FILE).exists():
        raise UserError(
            f"{path} {_described(path)}; expected the --workdir of a run, with {CONFIG_FILE} and checkpoints, an"
            f" exported directory, with {TENSORS_FILE}, or a .safetensors file"
        )
    from rvae_jax.storage.run_weights import load_weights  # imports Orbax, which an export does not need

    config, weights, step = load_weights(path, step)
    population = population_file.read(path, step, config.model.latent_dim)
    moments, mixture = (None, None) if population is None else population
    source = f"work directory {path}, step {step}"
    return StoredModel(config, weights, step, path, source, moments, _best_sampler(path, step), mixture)


def is_export(path: epath.Path) -> bool:
    """Whether it is a directory that ``rvae_jax.export`` made, and not the work directory of a run."""
    return (path / TENSORS_FILE).exists() and not (path / "checkpoints").exists()


def _read_tensors(file: epath.Path, step: int | None, folder: epath.Path, source: str) -> StoredModel:
    if not file.exists():
        raise UserError(f"{file} does not exist; expected a .safetensors file that rvae_jax.export wrote")
    content = tensor_file.read(file)
    if step not in (None, content.step):
        raise UserError(f"{file} is of step {content.step}, and step {step} was asked for; export that step")
    return StoredModel(
        content.config,
        content.weights,
        content.step,
        folder,
        f"{source}, step {content.step}",
        moments=content.moments,
        best_sampler=content.best_sampler,
        mixture=content.mixture,
    )


def _best_sampler(folder: epath.Path, step: int) -> str | None:
    """What the evaluation in a folder found best to sample from; None if it is missing, damaged or of another step."""
    try:
        evaluation = read_json(folder / EVALUATION_FILE)
        return evaluation["population"]["best_sampler"] if evaluation["model"]["step"] == step else None
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return None


def _require_same_config(folder: epath.Path, config: Config) -> None:
    """Raises unless ``config.json`` says what the weights beside it were trained with."""
    if not (folder / CONFIG_FILE).exists():
        return
    there = workdir_lib.read_config(folder)
    differing = config_lib.differences(config, there)
    if differing:
        name = differing[0]
        raise UserError(
            f"{folder / CONFIG_FILE} has {name} = {config_lib.get_field(there, name)!r}, and {TENSORS_FILE} beside it"
            f" {config_lib.get_field(config, name)!r}; put back the one that belongs to it, or leave it out"
        )


def _described(path: epath.Path) -> str:
    if not path.exists():
        return "does not exist"
    if not path.is_dir():
        return "is a file of another kind"
    names = sorted(printable(each.name) for each in path.iterdir())
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"holds {', '.join(names[:_LISTED])}{more}" if names else "is an empty folder"
