"""The files of configs/, with all their variants."""

import importlib.util
import sys
from pathlib import Path

import pytest

import rvae_jax.config
from rvae_jax.errors import UserError

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


def test_the_paper_config_is_the_default_one(load_config):
    get_config, _ = load_config(ROOT / "configs" / "celeba_hq.py")
    config, default = get_config(), rvae_jax.config.Config()
    assert (config.model, config.loss, config.optimizer) == (default.model, default.loss, default.optimizer)
