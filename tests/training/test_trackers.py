"""Metrics for Weights & Biases and MLflow."""

import contextlib
import sys

import mlflow
import numpy as np
import pytest
from etils import epath

from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.training import trackers
from rvae_jax.training.metric_log import MetricWriter, read_metrics

PICTURE = np.zeros((4, 6, 3), np.uint8)


def log(names, folder, steps, first_step=0):
    """A session of a run in ``folder`` that logs a row for each of ``steps``, and a picture."""
    opened = trackers.open_trackers(names, Config(steps=77), folder)
    with contextlib.closing(opened), MetricWriter(folder, first_step, opened) as writer:
        for step in steps:
            writer.scalars(step, {"loss/total": 10.0 / step})
        writer.image(steps[-1], "samples", PICTURE)


@pytest.fixture
def folder(tmp_path):
    path = epath.Path(tmp_path / "run")
    path.mkdir()
    return path


@pytest.mark.filterwarnings("default")  # of MLflow itself
def test_mlflow_has_the_rows_the_fields_and_the_pictures_of_a_run_that_resumed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlflow").as_uri())
    log(["mlflow"], folder, [1, 2])
    log(["mlflow"], folder, [3, 4], first_step=2)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["steps"] == "77" and run.data.params["model.latent_dim"] == "512"
    history = client.get_metric_history(run.info.run_id, "loss/total")
    assert [(each.step, each.value) for each in history] == [(step, 10.0 / step) for step in (1, 2, 3, 4)]
    assert len(client.list_artifacts(run.info.run_id, "images")) >= 2


@pytest.mark.filterwarnings("default")
def test_wandb_keeps_a_run_offline_and_resumes_it(folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log(["wandb"], folder, [1, 2])
    log(["wandb"], folder, [3], first_step=2)
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({file.stem for file in files}) == 1 and len(files) == 2
    first = files[0].read_bytes()
    assert b"loss/total" in first and b"loss.adversarial_weight" in first
    assert len(sorted(folder.glob("wandb/offline-run-*/files/media/images/samples*.png"))) == 2


def test_where_a_service_refuses_those_already_opened_are_closed(folder, monkeypatch):
    closed = []

    class Opened:
        def __init__(self, *_):
            self.id = "1"

        def close(self):
            closed.append(self.id)

    def refuse(*_):
        raise ConnectionError("no key")

    monkeypatch.setitem(trackers._SERVICES, "wandb", Opened)
    monkeypatch.setitem(trackers._SERVICES, "mlflow", refuse)
    with pytest.raises(UserError, match="--track=mlflow: no key"):
        trackers.open_trackers(["wandb", "mlflow"], Config(), folder)
    assert closed == ["1"]


def test_a_service_that_fails_is_left_out_and_the_run_goes_on(folder, monkeypatch, capsys):
    rows = []

    class Down:
        def __init__(self, *_):
            self.id = "1"

        def scalars(self, step, values):
            rows.append(step)
            raise ConnectionError("no route\nto host")

    monkeypatch.setitem(trackers._SERVICES, "mlflow", Down)
    log(["mlflow"], folder, [1, 2])
    assert rows == [1]
    assert len(read_metrics(folder)) == 2
    assert "Warning: --track=mlflow failed, and the run goes on without it: no route to host" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"mlflow": 3}', b"\xff"])
def test_damaged_numbers_of_the_run_are_named(content, folder):
    (folder / "trackers.json").write_bytes(content)
    with pytest.raises(UserError, match=r"trackers\.json is damaged \(.*\); put back a copy, or delete it"):
        trackers.open_trackers(["mlflow"], Config(), folder)


def test_what_cannot_be_opened_ends_in_one_line(folder, monkeypatch):
    with pytest.raises(UserError, match="--track=wandbs: expected wandb or mlflow"):
        trackers.open_trackers(["wandbs"], Config(), folder)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--track=wandb: .*pip install .*\[wandb\]"):
        trackers.open_trackers(["wandb"], Config(), folder)

    def refuse(*_):
        raise PermissionError("no key")

    monkeypatch.setitem(trackers._SERVICES, "mlflow", refuse)
    with pytest.raises(UserError, match="--track=mlflow: no key"):
        trackers.open_trackers(["mlflow"], Config(), folder)
    assert not (folder / trackers.IDS_FILE).exists()
