import ast
import importlib.util
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rvae_jax
import rvae_jax.config
from rvae_jax.errors import UserError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages(rvae_jax.__path__, "rvae_jax."))

# Flax and Optax themselves import absl, so it is blocked for the losses alone; ours do not name it.
OUTSIDE = ["tensorflow", "tensorflow_datasets", "orbax", "grain", "clu", "ml_collections"]
LAYERS = {
    "rvae_jax.losses": ["absl", "flax", "optax", *OUTSIDE],
    "rvae_jax.models": ["optax", *OUTSIDE],
    "rvae_jax.training.state": OUTSIDE,
    "rvae_jax.training.step": OUTSIDE,
}


def _run(script, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("module", LAYERS)
def test_inner_modules_import_without_the_outside_world(module):
    script = "import importlib, sys; sys.modules |= dict.fromkeys(sys.argv[2:]); importlib.import_module(sys.argv[1])"
    result = _run(script, module, *LAYERS[module])
    assert result.returncode == 0, result.stderr
    blocked = _run(script, LAYERS[module][0], *LAYERS[module])
    assert "import of" in blocked.stderr


MAY_IMPORT = {
    "losses": {"jax", "scipy", "rvae_jax.losses"},
    "models": {"jax", "flax", "rvae_jax.models", "rvae_jax.config"},
    "training/state": {"jax", "flax", "optax", "rvae_jax.models", "rvae_jax.config"},
    "training/step": {
        "jax",
        "flax",
        "optax",
        "rvae_jax.models",
        "rvae_jax.config",
        "rvae_jax.losses",
        "rvae_jax.training",
    },
}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_inner_modules_name_only_what_they_may(module):
    paths = [*(ROOT / "rvae_jax" / module).glob("*.py"), *(ROOT / "rvae_jax").glob(f"{module}.py")]
    assert paths
    for name in itertools.chain.from_iterable(map(_imports, paths)):
        parts = name.split(".")
        allowed = MAY_IMPORT[module] | sys.stdlib_module_names
        assert {parts[0], ".".join(parts[:2])} & allowed, name


def test_without_the_training_extra_what_is_missing_is_named():
    result = _run("import runpy, sys; sys.modules['absl'] = None; runpy.run_module('rvae_jax.main')")
    assert result.returncode == 1
    assert result.stderr == "Error: absl is missing; pip install 'rvae_jax[train]'\n"
    result = _run("import sys; sys.modules['optax'] = None; import rvae_jax; rvae_jax.load")
    assert "ImportError: rvae_jax.load needs optax; pip install 'rvae_jax[train]'" in result.stderr


@pytest.mark.parametrize(
    ("program", "module", "missing", "extra"),
    [("evaluate", "evaluation.evaluator", "dm_pix", "evaluate"), ("report", "reporting.page", "jinja2", "evaluate")],
)
def test_without_the_extra_for_judging_it_is_named(program, module, missing, extra):
    hide = f"import sys; sys.modules['{missing}'] = None;"
    result = _run(f"{hide} import runpy; runpy.run_module('rvae_jax.{program}', run_name='__main__')", "--workdir=runs")
    assert result.returncode == 1
    assert result.stderr == f"Error: {missing} is missing; pip install 'rvae_jax[{extra}]'\n"
    result = _run(f"{hide} import rvae_jax.{module}")
    assert f"MissingError: {missing} is missing; pip install 'rvae_jax[{extra}]'" in result.stderr


def test_without_the_extra_for_others_formats_it_is_named(tmp_path):
    hide = "import runpy, sys; sys.modules['h5py'] = None;"
    script = f"{hide} runpy.run_module('rvae_jax.import_keras', run_name='__main__')"
    arguments = ("--config=configs/celeba_hq.py", "--weights=author.weights.h5", f"--workdir={tmp_path}")
    result = _run(script, *arguments)
    assert result.returncode == 1
    assert result.stderr == "Error: h5py is missing; pip install 'rvae_jax[interop]'\n"


HEAVY = ["jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "cv2", "scipy", "sklearn", "matplotlib"]
HEAVY += ["clu", "tensorboardX", "torch", "dm_pix", "onnx", "h5py"]
PROGRAMS = sorted(
    path.stem for path in (ROOT / "rvae_jax").glob("*.py") if '\nif __name__ == "__main__":\n' in path.read_text()
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_nothing_that_takes_long(program):
    script = (
        "import atexit, runpy, sys\n"
        "heavy = sys.argv[2:]\n"
        "atexit.register(lambda: print('loaded:', *sorted(set(heavy) & set(sys.modules))))\n"
        "program, sys.argv[1:] = sys.argv[1], ['--help']\n"
        "runpy.run_module(f'rvae_jax.{program}', run_name='__main__', alter_sys=True)"
    )
    output = _run(script, program, *HEAVY).stdout
    assert "--workdir" in output or "--config" in output or "--size" in output
    assert output.splitlines()[-1] == "loaded:"


def test_base_installation_is_jax_alone():
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    assert [re.match(r"\w+", dependency).group() for dependency in dependencies] == ["jax"]


def test_every_module_imports():
    assert len(MODULES) > 20
    result = _run("import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]", *MODULES)
    assert result.returncode == 0, result.stderr


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
