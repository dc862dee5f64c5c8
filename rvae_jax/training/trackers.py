"""Weights & Biases and MLflow as readers of a run's metrics, beside TensorBoard.

Each is set up by its own environment variables, such as ``WANDB_PROJECT``, ``WANDB_MODE=offline``,
``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME``. A run that resumes goes on in the same run there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError, install, one_line
from rvae_jax.system.files import is_remote, read_json, write_atomically

IDS_FILE = "trackers.json"  # of the runs there, by the service's name


class Tracker(Protocol):
    """A service that shows metrics.

    Attributes:
      id: of the run there.
    """

    id: str

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs one row."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs a picture, ``[h, w, c]`` uint8."""

    def close(self) -> None:
        """Ends the session; the run there can be resumed."""


class Trackers:
    """Several trackers. One that fails is left out from then on: a service that is down must not stop a run."""

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        self._trackers = trackers

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs one row."""
        self._call("scalars", step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs a picture, ``[h, w, c]`` uint8."""
        self._call("image", step, name, image)

    def close(self) -> None:
        """Ends the sessions."""
        self._call("close")

    def _call(self, method: str, *arguments: Any) -> None:
        for name, tracker in [*self._trackers.items()]:
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # each service raises its own
                print(f"Warning: --track={name} failed, and the run goes on without it: {one_line(error)}", flush=True)
                del self._trackers[name]


def open_trackers(names: Sequence[str], config: Config, workdir: epath.Path) -> Trackers:
    """Opens the run's counterpart in each of the named services.

    Raises:
      UserError: there is no service of a name, its package is not installed, it refuses, or ``IDS_FILE`` is damaged.
    """
    require_available(names)
    path = workdir / IDS_FILE
    ids = _read_ids(path) if names else {}
    trackers = {}
    for name in names:
        try:
            trackers[name] = _SERVICES[name](config, workdir, ids.get(name))
        except Exception as error:  # each service raises its own: no network, no key
            Trackers(trackers).close()
            raise UserError(f"--track={name}: {one_line(error)}") from error
        ids[name] = trackers[name].id
    if names:
        write_atomically(path, (json.dumps(ids) + "\n").encode())
    return Trackers(trackers)


def _read_ids(path: epath.Path) -> dict[str, str]:
    """The numbers of the run by the service's name; none if there is no file yet."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, UserError, ValueError) as error:
        found = one_line(error)
    if isinstance(found, dict) and all(isinstance(each, str) for each in found.values()):
        return found
    raise UserError(f"{path} is damaged ({found}); put back a copy, or delete it: the run then begins anew there")


def require_available(names: Sequence[str]) -> None:
    """Raises ``UserError`` unless there is a service of each name, and its package is installed."""
    for name in names:
        if name not in _SERVICES:
            raise UserError(f"--track={name}: expected {' or '.join(_SERVICES)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--track={name}: {name} is missing; {install(name)}")


class _WandB:
    def __init__(self, config: Config, workdir: epath.Path, run_id: str | None) -> None:
        import wandb

        self._wandb = wandb
        self.id = run_id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rvae_jax"),
            name=os.environ.get("WANDB_NAME", workdir.name),
            id=self.id,
            resume="allow",
            dir=None if is_remote(workdir) else str(workdir),
            config=config_lib.flatten(config),
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, config: Config, workdir: epath.Path, run_id: str | None) -> None:
        import mlflow

        self._mlflow = mlflow
        name = None if run_id else os.environ.get("MLFLOW_RUN_NAME", workdir.name)
        self.id = mlflow.start_run(run_id=run_id, run_name=name).info.run_id
        if run_id is None:
            mlflow.log_params(config_lib.flatten(config))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._mlflow.log_image(image, key=name, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_SERVICES = {"wandb": _WandB, "mlflow": _MLflow}
