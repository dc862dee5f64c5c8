import json
import re
import shutil

import pytest
from trained_runs import SMALL, run_command

from rvae_jax import evaluate, figures, report
from rvae_jax.evaluation import results

pytestmark = pytest.mark.usefixtures("without_lpips")


def test_the_command_writes_json_and_prints_a_table(workdir, monkeypatch, capsys):
    run_command(evaluate, monkeypatch, f"--workdir={workdir}", *SMALL)
    found = json.loads((workdir / "evaluation.json").read_text())
    printed = capsys.readouterr().out
    for name in (*found["reconstruction"], *found["generation"]["prior"], *found["protocol"]):
        assert name in printed
    assert "Not measured: fid" in printed and f"Wrote {workdir / 'evaluation.json'}" in printed


def test_the_table_is_printed_even_if_nothing_can_be_written(workdir, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write", full)
    with pytest.raises(SystemExit, match="No space left on device"):
        run_command(evaluate, monkeypatch, f"--workdir={workdir}", *SMALL)
    assert "Likelihood of 40 held-out codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images=0",), "--images=0: expected at least 1"),
        (("--split=nowhere",), "nowhere"),
        (("--step=7",), "no checkpoint of step 7"),
        (("--seed=-1",), "--seed=-1: expected at least 0"),
        (("--output=/dev/null/x",), "--output=/dev/null/x: cannot be written to"),
    ],
)
def test_bad_arguments_are_refused(workdir, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        run_command(evaluate, monkeypatch, f"--workdir={workdir}", *arguments)
    assert str(stopped.value.code).startswith("Error: ")


@pytest.mark.parametrize("module", [evaluate, figures, report])
@pytest.mark.parametrize(
    ("output", "message"),
    [("/dev/null/x/y", "cannot be written to"), ("", "is empty"), ("s3://b/x", "expected a path")],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(workdir, module, monkeypatch, output, message):
    with pytest.raises(SystemExit, match=f"Error: --output.*{message}"):
        run_command(module, monkeypatch, f"--workdir={workdir}", f"--output={output}")


def test_a_report_is_no_folder(workdir, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"--output=.* is a folder; expected a file"):
        run_command(report, monkeypatch, f"--workdir={workdir}", f"--output={tmp_path}")


@pytest.mark.parametrize("module", [evaluate, figures, report])
def test_an_empty_folder_is_refused(module, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="is an empty folder; expected the --workdir of a run"):
        run_command(module, monkeypatch, f"--workdir={tmp_path}")


def test_a_run_without_a_checkpoint_is_refused(workdir, monkeypatch):
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(SystemExit, match="holds no checkpoint; train there first"):
        run_command(evaluate, monkeypatch, f"--workdir={workdir}")


@pytest.mark.parametrize("has_its_own", [True, False])
def test_a_checkpoint_of_another_configuration_is_refused(workdir, monkeypatch, has_its_own):
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["latent_dim"] = 9
    (workdir / "config.json").write_text(json.dumps(config))
    if has_its_own:
        with pytest.raises(SystemExit, match=r"was trained with model\.latent_dim = \d+, and config\.json has 9; put"):
            run_command(evaluate, monkeypatch, f"--workdir={workdir}")
        return
    for own in workdir.glob("checkpoints/*/config"):  # as in earlier versions
        shutil.rmtree(own)
    with pytest.raises(SystemExit, match="is of another configuration than") as stopped:
        run_command(evaluate, monkeypatch, f"--workdir={workdir}")
    assert re.search(r"is of shape \(.*\) there and of shape \(.*\) by the configuration", str(stopped.value.code))
