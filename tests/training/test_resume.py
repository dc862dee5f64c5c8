"""A run that goes on, in one process."""

import shutil

import pytest
from run_cases import assert_same_run, losses_by_step
from small_runs import tiny_config

from rvae_jax.errors import UserError
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("one_device")


def test_again_after_the_end_says_so(finished, data_dir, capsys):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_text()
    assert train(tiny_config(data_dir), workdir) is None
    assert "is finished: 8 of 8 steps" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_text() == before


def test_two_halves_are_a_whole_bit_for_bit(finished, data_dir, tmp_path):
    workdir, _ = finished
    train(tiny_config(data_dir, steps=4), tmp_path)
    train(tiny_config(data_dir), tmp_path)
    assert_same_run(workdir, tmp_path, 8)
    assert losses_by_step(workdir)[8] == losses_by_step(tmp_path)[8]


def test_what_decides_no_step_may_change_on_the_way(finished, data_dir, tmp_path):
    shutil.copytree(finished[0], tmp_path / "longer")
    train(tiny_config(data_dir, steps=9, remat_stages=1), tmp_path / "longer")
    assert Checkpoints(tmp_path / "longer", read_only=True).steps()[-1] == 9


def test_another_configuration_is_refused_by_field(finished, data_dir):
    workdir, _ = finished
    config = tiny_config(data_dir, seed=3)
    config.model.latent_dim = 24
    with pytest.raises(UserError, match=r"seed is 0 there and 3 here, model.latent_dim is 16 there and 24 here"):
        train(config, workdir)


def test_unreadable_checkpoint_falls_back_to_the_one_before(finished, data_dir, tmp_path, capsys):
    whole, damaged = (shutil.copytree(finished[0], tmp_path / name) for name in ("whole", "damaged"))
    damage(damaged / "checkpoints" / "8")
    for workdir in (whole, damaged):
        train(tiny_config(data_dir, steps=9), workdir)
    assert "8 is unreadable" in capsys.readouterr().out
    assert (damaged / "checkpoints" / "8.unreadable").is_dir()
    assert_same_run(whole, damaged, 9)


def test_no_readable_checkpoint_is_an_error(finished, data_dir, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "damaged")
    for step in (4, 8):
        damage(workdir / "checkpoints" / str(step))
    with pytest.raises(UserError, match="None of the checkpoints"):
        train(tiny_config(data_dir, steps=12), workdir)


def damage(checkpoint):
    for path in (checkpoint / "weights").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
