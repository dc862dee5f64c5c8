"""The files of configs/, with all their variants."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from etils import epath

import rvae_jax.config
from rvae_jax.errors import UserError
from rvae_jax.storage.workdir import require_same

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.fixture
def load_config(monkeypatch):
    """Loads a file of configs/, and hands out its ``get_config`` and the variants that it knows."""
    known = []
    require = rvae_jax.config.require_variant

    def spy(variant, names):
        known.extend(names if not known else ())  # not those of a configuration that it builds on
        require(variant, names)

    monkeypatch.setattr(rvae_jax.config, "require_variant", spy)
    monkeypatch.syspath_prepend(ROOT)
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)

    def load(path):
        spec = importlib.util.spec_from_file_location(f"config_of_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.get_config()
        return module.get_config, known

    yield load
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        del sys.modules[name]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_variant_of_every_config_is_valid(path, load_config):
    get_config, variants = load_config(path)
    assert "tiny" in variants
    for variant in (None, *variants):
        config = get_config(variant)
        rvae_jax.config.validate(config, device_count=1)
        assert rvae_jax.config.from_dict(rvae_jax.config.to_dict(config)) == config
    with pytest.raises(UserError, match="no-such-variant"):
        get_config("no-such-variant")


def test_a_config_is_read_by_its_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rvae_jax.config.read_file("orl:paper").model.latent_dim == 128
    (tmp_path / "mine.py").write_text(
        "from rvae_jax import config\ndef get_config():\n    return config.Config(steps=3)\n"
    )
    assert rvae_jax.config.read_file("mine.py").steps == 3
    with pytest.raises(UserError, match=r"--config=mime.py: no such file; the program's own are arms, celeba, "):
        rvae_jax.config.read_file("mime.py")


def test_the_paper_config_is_the_default_one(load_config):
    get_config, _ = load_config(ROOT / "configs" / "celeba_hq.py")
    config, default = get_config(), rvae_jax.config.Config()
    assert (config.model, config.loss, config.optimizer) == (default.model, default.loss, default.optimizer)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("steps", [1, 10, 400])
def test_a_run_may_have_any_length(path, steps, load_config):
    get_config, variants = load_config(path)
    for variant in (None, *variants):
        config = rvae_jax.config.replace_fields(get_config(variant), {"steps": steps})
        rvae_jax.config.validate(config, device_count=1)
        loss = rvae_jax.config.in_steps(config).loss
        assert loss.adversarial == "none" or loss.adversarial_start + loss.adversarial_ramp <= steps


# The schedules of these files before they were shares: steps, adversarial start and ramp, warm-up, evaluation.
EARLIER = {
    "orl:paper": (800, 480, 160, 50, 160),
    "arms:orl-proposed": (2_000, 1_200, 400, 50, 400),
    "arms:faces-batch_norm": (3_000, 1_800, 600, 50, 600),
    "arms:faces128-proposed": (20_000, 12_000, 4_000, 500, 2_000),
    "celeba:paper": (254_000, 0, 0, 1_000, 5_000),
}


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_run_is_the_same_run(name, load_config, tmp_path):
    file, _, variant = name.partition(":")
    config = load_config(ROOT / "configs" / f"{file}.py")[0](variant or None)
    stored = rvae_jax.config.to_dict(config)
    steps, start, ramp, warmup, stored["eval_every"] = EARLIER[name]
    loss, optimizer = stored["loss"], stored["optimizer"]
    loss |= {"adversarial_start_step": start, "adversarial_ramp_steps": ramp, "kl_start_step": 0, "kl_ramp_steps": 0}
    optimizer["warmup_steps"] = warmup
    for section, field in [name.split(".") for name in rvae_jax.config.RENAMED.values()]:
        del stored[section][field]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    there = require_same(epath.Path(tmp_path), config)
    assert there.steps == config.steps == steps
    assert rvae_jax.config.in_steps(there) == rvae_jax.config.in_steps(config)
