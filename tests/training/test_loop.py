"""The run as a whole: what it leaves behind, how it stops, how it goes on, what it refuses."""

import dataclasses
import errno
import json
import logging
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from small_runs import SMALL, tiny_config

import rvae_jax
from rvae_jax.config import DataConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.distributed import sharding
from rvae_jax.errors import UserError
from rvae_jax.formats.export import safetensors, write
from rvae_jax.hardware import memory
from rvae_jax.storage import stored_model
from rvae_jax.storage.checkpoints import Checkpoints, load_weights
from rvae_jax.training import loop as train_lib
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_device")

ALL_DEVICES = sharding.data_parallel


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run of eight steps, with what it said and how often it compiled its step."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    compiled = []
    handler = logging.Handler()
    handler.emit = lambda record: compiled.append(record.getMessage())
    logger = logging.getLogger("jax._src.dispatch")
    logger.addHandler(handler)
    with jax.log_compiles():
        train(tiny_config(data_dir), workdir)
    logger.removeHandler(handler)
    return workdir, compiled


def weights_and_moments(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    items = {}
    for item in ("weights", "training"):
        with ocp.StandardCheckpointer() as checkpointer:
            items[item] = checkpointer.restore(folder / item)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(items)]


def assert_same_run(workdir, other, step):
    for a, b in zip(weights_and_moments(workdir, step), weights_and_moments(other, step), strict=True):
        np.testing.assert_array_equal(a, b)


def losses_by_step(workdir):
    return {row["step"]: row["loss/total"] for row in read_metrics(workdir) if "loss/total" in row}


def test_leaves_what_the_readme_says(finished):
    workdir, _ = finished
    assert json.loads((workdir / "config.json").read_text())["model"]["latent_dim"] == 16
    assert {path.name for path in (workdir / "pictures").iterdir()} >= {
        "reconstructions.png",
        "samples.png",
        "transition.png",
        "reconstructions_00000004.png",
    }
    assert "encoder/stem/kernel" in (workdir / "parameters.txt").read_text()
    assert Checkpoints(workdir, read_only=True).steps() == [4, 8]
    (events,) = (workdir / "tensorboard").iterdir()
    assert b"validation/l1" in events.read_bytes()


def test_pictures_are_pictures(finished):
    workdir, _ = finished
    for name in ("reconstructions", "samples", "transition"):
        with Image.open(workdir / "pictures" / f"{name}.png") as picture:
            pixels = np.asarray(picture)
        assert pixels.shape[1] == 10 * 98 + 2
        assert pixels.std() > 10


def test_metrics_are_finite_and_documented(finished):
    workdir, _ = finished
    documented = set(re.findall(r"^\| `([a-z0-9_/]+)`", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    rows = read_metrics(workdir)
    assert [row["step"] for row in rows if "loss/total" in row] == [2, 4, 6, 8]
    for row in rows:
        assert all(np.isfinite(value) for value in row.values())
        for name in row:
            group, _, metric = name.partition("/")
            generic = f"validation/{metric}" if group in ("selection", "best") and metric != "step" else name
            assert generic in documented, name


def test_step_compiles_once(finished):
    _, messages = finished
    assert sum("XLA compilation of jit(train_step)" in message for message in messages) == 1, messages


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


def test_loss_that_is_not_finite_stops_with_step_and_term(data_dir, tmp_path):
    train(tiny_config(data_dir, steps=4), tmp_path)
    good = weights_and_moments(tmp_path, 4)
    config_path = tmp_path / "config.json"
    stored = json.loads(config_path.read_text())
    stored["optimizer"]["learning_rate"] = 1e20
    config_path.write_text(json.dumps(stored))
    config = tiny_config(data_dir, steps=12)
    config.optimizer.learning_rate = 1e20
    with pytest.raises(UserError, match=r"step 6: loss/\w+ is (nan|inf)"):
        train(config, tmp_path)
    assert Checkpoints(tmp_path, read_only=True).steps() == [4]
    for a, b in zip(good, weights_and_moments(tmp_path, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_little_space_is_told_before_the_first_step(data_dir, tmp_path, monkeypatch):
    usage = train_lib.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(train_lib.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="free on its device, expected"):
        train(tiny_config(data_dir), tmp_path)


def test_too_little_memory_is_told_before_the_first_step_with_a_batch_that_fits(
    data_dir, tmp_path, monkeypatch, capsys
):
    train(tiny_config(data_dir, steps=1, batch_size=2), tmp_path / "small")
    (size, unit), *_ = re.findall(r"([\d.]+) ([MGk]B) a device", capsys.readouterr().out)
    available = 3 * float(size) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    monkeypatch.setattr(memory, "limit", lambda: available)
    with pytest.raises(UserError, match=r"--config.batch_size=16: .*; expected at most (\d+), ") as error:
        train(tiny_config(data_dir, batch_size=16), tmp_path / "large")
    assert read_metrics(tmp_path / "large") == []
    fits = int(re.search(r"at most (\d+)", str(error.value))[1])
    monkeypatch.setattr(memory, "limit", lambda: memory.USABLE * available)
    train(tiny_config(data_dir, steps=1, batch_size=fits), tmp_path / "fits")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_at_the_metrics(data_dir, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="no space left on the device"):
        train(tiny_config(data_dir), tmp_path)


def test_full_disk_at_a_checkpoint_keeps_the_one_before(data_dir, tmp_path, monkeypatch):
    save = Checkpoints.save

    def save_until_full(self, state, selection_error=None):
        if int(state.step) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, state, selection_error)

    monkeypatch.setattr(Checkpoints, "save", save_until_full)
    with pytest.raises(UserError, match=r"whole checkpoints are there of steps \[4\]"):
        train(tiny_config(data_dir), tmp_path)


def test_init_from_takes_what_fits_and_lists_the_rest(finished, data_dir, tmp_path, capsys):
    workdir, _ = finished
    list(write(safetensors(stored_model.read(workdir)), stored_model.epath.Path(tmp_path / "export")))
    config = tiny_config(data_dir, steps=1)
    config.model.image_shape = (8, 8, 1)
    config.model.input_norm = False
    config.optimizer.learning_rate = 1e-12
    config.optimizer.ema_decay = 0.9
    train(config, tmp_path / "run", init_from=tmp_path / "export")
    said = capsys.readouterr().out
    assert "vae/params/encoder/norm/gamma (16, 16): there only" in said
    assert "vae/params/sampler/z_mean/kernel: (128, 16) there, (32, 16) here, starts fresh" in said
    _, theirs, step = load_weights(workdir)
    assert f"Starts from exported directory {tmp_path / 'export'}, step {step};" in said
    _, ours, _ = load_weights(tmp_path / "run")
    for tree in (ours["vae"]["params"], ours["ema_params"]):
        np.testing.assert_allclose(
            tree["decoder"]["stem"]["kernel"], theirs["vae"]["params"]["decoder"]["stem"]["kernel"], atol=1e-9
        )
    with pytest.raises(UserError, match="already holds a run, at step 1"):
        config.steps = 2
        train(config, tmp_path / "run", init_from=workdir)


def test_all_devices_train_as_one(finished, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "data_parallel", ALL_DEVICES)
    monkeypatch.setattr(jax, "device_count", lambda: len(jax.devices()))
    train(tiny_config(data_dir), tmp_path)
    ours, theirs = losses_by_step(tmp_path), losses_by_step(finished[0])
    assert len(jax.devices()) > 1 and ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)
    config = tiny_config(data_dir, batch_size=12)
    with pytest.raises(UserError, match="batch_size=12: expected a multiple of the 8 devices"):
        train(config, tmp_path / "other")


def test_what_will_not_go_well_is_said_beforehand(data_dir, tmp_path, capsys):
    config = tiny_config(data_dir, steps=1, batch_size=2)
    config.loss.moments = "mixture"
    train(config, tmp_path)
    output = capsys.readouterr().out
    assert "batch_size=2 is below 8: the population's moments" in output
    assert "loss.moments=mixture with --config.loss.variance_target=1.0 favours codes that say nothing" in output


@pytest.fixture
def folder_config(tmp_path):
    """Trains on a folder of sixty pictures of noise."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / f"pictures/{number}.png")
    data = DataConfig(folder=str(tmp_path / "pictures"), data_dir=str(tmp_path / "datasets"))
    return tiny_config(None, data=data, steps=4)


def damage_train_records(config, indices):
    (shard,) = pathlib.Path(config.data.data_dir).rglob("*-train.array_record*")
    content = bytearray(shard.read_bytes())
    images = catalog.load_dataset(prepare_for(config).data, "train")
    for pixels in [images[index].tobytes() for index in indices]:
        content[content.index(pixels) + 100] ^= 0xFF
    shard.write_bytes(content)


def test_a_folder_is_trained_on_and_damaged_records_do_not_stop_it(folder_config, tmp_path, capsys):
    prepare_for(folder_config)
    damage_train_records(folder_config, [5])
    assert train(folder_config, tmp_path / "run") is None
    assert "Warning: 1 images cannot be read, others stand for them; the last: Corrupted" in capsys.readouterr().out
    rows = [row for row in read_metrics(tmp_path / "run") if "damaged_images" in row]
    assert rows
    assert all(row["damaged_images"] == 1 for row in rows)
    assert all(0 <= row["input_wait"] < 10 for row in rows)

    shutil.copy(tmp_path / "pictures/0.png", tmp_path / "pictures/another.png")
    prepared = sorted((tmp_path / "datasets").iterdir())
    with pytest.raises(UserError, match=r"the files in --config\.data\.folder have changed since; to go on") as error:
        train(dataclasses.replace(folder_config, steps=6), tmp_path / "run")
    assert sorted((tmp_path / "datasets").iterdir()) == prepared
    (name,) = re.findall(r"--config\.data\.name=(\S+) instead", str(error.value))
    data = dataclasses.replace(folder_config.data, folder=None, name=name)
    assert train(dataclasses.replace(folder_config, steps=6, data=data), tmp_path / "run") is None


def test_too_many_damaged_records_stop_it(folder_config, tmp_path):
    prepare_for(folder_config)
    damage_train_records(folder_config, [1, 5, 7])
    with pytest.raises(UserError, match=r"is damaged: [23] of 48 images cannot be read so far"):
        train(folder_config, tmp_path / "run")


def test_loading_a_run(finished):
    workdir, _ = finished
    model = rvae_jax.load(workdir)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
    mean, log_var = model.encode(images)
    assert mean.shape == log_var.shape == (3, 16)
    np.testing.assert_array_equal(model.reconstruct(images), model.decode(mean))
    assert model.reconstruct(images).shape == images.shape
    np.testing.assert_array_equal(model.sample(2, seed=1), model.sample(2, seed=1))
    assert not np.array_equal(model.sample(2, seed=1), model.sample(2, seed=2))
    best = min((row["selection/l1"], row["step"]) for row in read_metrics(workdir) if "selection/l1" in row)
    assert model.step == best[1]
    older = rvae_jax.load(workdir, step=4)
    assert older.step == 4
    assert not np.array_equal(older.decode(mean), rvae_jax.load(workdir, step=8).decode(mean))
    with pytest.raises(UserError, match=r"no checkpoint of step 5; there are \[4, 8\]"):
        rvae_jax.load(workdir, step=5)
    with pytest.raises(UserError, match=r"shape \(3, 8, 8, 1\); expected \(n, 16, 16, 1\)"):
        model.encode(images[:, ::2, ::2])
    with pytest.raises(UserError, match=r"expected \(n, 16\)"):
        model.decode(np.zeros((1, 15)))


def test_loaded_weights_are_the_averaged_ones(data_dir, tmp_path):
    config = tiny_config(data_dir, steps=4)
    config.optimizer.ema_decay = 0.9
    train(config, tmp_path)
    _, weights, _ = load_weights(tmp_path)
    loaded = rvae_jax.load(tmp_path).variables["params"]["decoder"]["stem"]["kernel"]
    np.testing.assert_array_equal(loaded, weights["ema_params"]["decoder"]["stem"]["kernel"])
    assert not np.array_equal(loaded, weights["vae"]["params"]["decoder"]["stem"]["kernel"])


@pytest.fixture(scope="module", autouse=True)
def compile_cache(tmp_path_factory):
    """Processes of their own share what they compile, apart from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


# Overrides that make configs/orl.py:tiny compile in seconds.


def command(data_dir, workdir, steps):
    return [
        *(sys.executable, "-m", "rvae_jax.main", f"--workdir={workdir}", "--config=configs/orl.py:tiny", *SMALL),
        *(f"--config.data.data_dir={data_dir}", f"--config.steps={steps}"),
        *("--config.log_every=1", "--config.eval_every=10"),
    ]


def start(data_dir, workdir, steps, after):
    """Starts a run in a process of its own, and returns when it has said ``after``, the last of ``process.said``."""
    process = subprocess.Popen(
        command(data_dir, workdir, steps), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    process.said = ""
    for line in process.stdout:
        process.said += line
        if after in line:
            return process
    raise AssertionError(process.said)


def finish(data_dir, workdir, steps):
    run = subprocess.run(command(data_dir, workdir, steps), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(data_dir, workdir, 40)
    return workdir


def test_signals_save_a_kill_loses_only_the_steps_since_and_the_run_goes_on(undisturbed, data_dir, tmp_path):
    stopped_at = 0
    for number, status, after in ((signal.SIGTERM, 143, 7), (signal.SIGINT, 130, 15)):
        with start(data_dir, tmp_path, 40, after=f"step {after}/40") as process:
            process.send_signal(number)
            rest = process.stdout.read()
        assert process.returncode == status
        stopped_at = int(re.search(rf"Stopped by {number.name} at step (\d+)", rest)[1])
        assert max(Checkpoints(tmp_path, read_only=True).steps()) == stopped_at >= after
    with start(data_dir, tmp_path, 40, after="step 37/40") as process:
        process.kill()
        said = process.said + process.stdout.read()
    assert f"step {stopped_at + 1}/40" in said and f"step {stopped_at}/40" not in said
    assert max(row["step"] for row in read_metrics(tmp_path)) >= 37
    newest = max(Checkpoints(tmp_path, read_only=True).steps())
    assert newest in (20, 30)
    said = finish(data_dir, tmp_path, 40)
    assert f"step {newest + 1}/40" in said and f"step {newest}/40" not in said
    assert_same_run(undisturbed, tmp_path, 40)
    steps = [row["step"] for row in read_metrics(tmp_path) if "loss/total" in row]
    assert steps == list(range(1, 41))
    assert losses_by_step(tmp_path) == losses_by_step(undisturbed)


def test_bad_command_lines_are_one_line(data_dir, tmp_path):
    for flag, expected in (
        ("--config.model.latent=64", "Field latent not found on dataclass <class 'rvae_jax.config.ModelConfig'>"),
        ("--config.model.latent_dim=many", "--config.model.latent_dim=many: invalid literal for int()"),
        ("--config.model.norm=layer", "--config.model.norm=layer: value should be one of <frozen|batch>"),
        ("--config=configs/missing.py", "configs/missing.py"),
        ("--config=configs/orl.py:huge", "variant 'huge' does not exist"),
        ("--config.batch_size=1", "--config.batch_size=1: expected at least 2, for the variance of the population"),
    ):
        run = subprocess.run(
            [*command(data_dir, tmp_path / "run", 1), flag], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert run.returncode == 1
        assert run.stderr.startswith("Error: ") and run.stderr.count("\n") == 1, run.stderr
        assert expected in run.stderr
    assert not (tmp_path / "run").exists()
