"""Command lines of ``rvae_jax.main``: a wrong one ends with one line that says what is wrong, before any work."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ORL = "--config=configs/orl.py:tiny"
RUN = [ORL, "--workdir=unused"]

# The lines are parsed in forks of one process, since flags are parsed once in each.
SCRIPT = """
import json, os, sys, tempfile
from rvae_jax import command_line, main

__doc__ = main.__doc__  # --help shows that of the program
said = []
for line in json.load(sys.stdin):
    with tempfile.TemporaryFile("w+") as output:
        if (child := os.fork()) == 0:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            sys.argv = ["main", *line]
            command_line.run(lambda argv: print("accepted"), main.CONFIG, ["config", "workdir"])
        _, status = os.waitpid(child, 0)
        output.seek(0)
        said.append((os.waitstatus_to_exitcode(status), output.read()))
print(json.dumps(said))
"""

FILES = {
    "raises.py": "def get_config(variant=None):\n    return 1 / 0\n",
    "no_python.py": "this is no python\n",
    "no_function.py": "x = 1\n",
    "no_module.py": "import nothing_such\n",
    "no_config.py": "def get_config(variant=None):\n    return {}\n",
    "text.py": "from rvae_jax.config import Config\ndef get_config(variant=None):\n    c = Config()\n"
    "    c.batch_size = '16'\n    return c\n",
    "unknown.py": "from rvae_jax.config import Config\ndef get_config(variant=None):\n    c = Config()\n"
    "    c.loss.adverserial_weight = 0.0\n    return c\n",
}

WRONG = [
    ([], "--config and --workdir must be given"),
    (["configs/orl.py"], "unexpected argument 'configs/orl.py'; did you mean --config=configs/orl.py?"),
    ([*RUN, "stray"], "unexpected argument 'stray'"),
    ([*RUN, "--hlep"], "Unknown command line flag 'hlep'. Did you mean: help"),
    ([*RUN, "--track=tensorflow"], "value should be one of <wandb|mlflow>"),
    ([*RUN, "--config.data.crop=28"], "--config.data.crop=28: expected a tuple of 2 whole numbers or None"),
    ([*RUN, "--config.data.crop=()"], "--config.data.crop=(): expected a tuple of 2 whole numbers or None"),
    ([*RUN, "--config.data.crop=(28,)"], "--config.data.crop=(28,): expected a tuple of 2 whole numbers or None"),
    ([*RUN, "--config.model.image_shape=32x32x3"], "image_shape='32x32x3': expected a tuple of 3 whole numbers"),
    ([*RUN, "--config.model.image_shape=32"], "image_shape=32: expected a tuple of 3 whole numbers"),
    ([*RUN, "--config.model.encoder_filters=('a','b')"], "expected a tuple of whole numbers, such as (64, 128)"),
    ([*RUN, "--config.optimizer.ema_decay=x"], "--config.optimizer.ema_decay='x': expected a number or None"),
    ([*RUN, "--config.seed=1.5"], "--config.seed=1.5: expected a whole number"),
    ([*RUN, "--config.seed=None"], "--config.seed=None: expected a whole number"),
    ([*RUN, "--config.batch_size=True"], "--config.batch_size=True: expected a whole number"),
    ([*RUN, "--config.model.norm=1"], "--config.model.norm=1: expected 'frozen' or 'batch'"),
    ([*RUN, "--config.data.flip=maybe"], "--config.data.flip=maybe"),
    ([*RUN, "--config.modle.latent_dim=3"], "field modle.latent_dim does not exist; did you mean model?"),
    ([*RUN, "--config.step=10"], "field step does not exist; did you mean steps?"),
    (
        [*RUN, "--config.model.latent=64"],
        "field model.latent does not exist; did you mean latent_dim? there are image_",
    ),
    ([*RUN, "--config.steps.x=1"], "field steps.x does not exist; there are none below it"),
    ([*RUN, "--noconfig.data.flop"], "field data.flop does not exist; did you mean flip?"),
    ([*RUN, "--config.data=3"], "field data is a section; give one of its fields name, folder"),
    ([*RUN, "--config.loss.kl_ramp_steps=3"], "kl_ramp_steps does not exist; it is called loss.kl_ramp now"),
    (["--config=configs/missing.py", "--workdir=unused"], "no such file; the program's own are arms, celeba, "),
    (["--config", "missing", "--workdir=unused"], "--config=missing: no such file"),
    (["--config=configs/orl.py:huge", "--workdir=unused"], "variant 'huge' does not exist"),
    (["--config={raises.py}", "--workdir=unused"], "raises.py, line 2: ZeroDivisionError: division by zero"),
    (["--config={no_python.py}", "--workdir=unused"], "no_python.py, line 1: SyntaxError: invalid syntax"),
    (["--config={no_function.py}", "--workdir=unused"], "has no attribute 'get_config'"),
    (["--config={no_module.py}", "--workdir=unused"], "no_module.py, line 1: ModuleNotFoundError: No module named"),
    (["--config={no_config.py}", "--workdir=unused"], "the configuration is a dict: expected a Config"),
    (["--config={text.py}", "--workdir=unused"], "--config.batch_size='16': expected a whole number"),
    (
        ["--config={unknown.py}", "--workdir=unused"],
        "adverserial_weight does not exist; did you mean adversarial_weight?",
    ),
]

RIGHT = [
    RUN,
    ["--config", "configs/orl.py:tiny", "--workdir", "unused"],
    [*RUN, "--config.data.crop=None", "--config.optimizer.ema_decay=None"],
    [*RUN, "--config.data.crop=(28, 28)", "--config.model.widths=8,16", "--noconfig.data.flip", "--config.seed=1_000"],
    [*RUN, "--config.optimizer.learning_rate=1", "--config.data.name=None", "--config.data.folder=1/2"],
]


@pytest.fixture(scope="module")
def parse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, content in FILES.items():
        (folder / name).write_text(content)

    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def parse(lines, cwd=ROOT):
        for name in FILES:
            lines = [[argument.replace(f"{{{name}}}", str(folder / name)) for argument in line] for line in lines]
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=cwd,
            env=environment,
            input=json.dumps(lines),
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    return parse


def test_a_wrong_command_line_ends_with_one_line(parse):
    for (line, expected), (status, said) in zip(WRONG, parse([line for line, _ in WRONG]), strict=True):
        assert status == 1, (line, said)
        assert said.startswith("Error: ") and said.count("\n") == 1, (line, said)
        assert expected in said, (line, said)


def test_a_right_command_line_is_accepted(parse):
    for line, found in zip(RIGHT, parse(RIGHT), strict=True):
        assert found == [0, "accepted\n"], (line, found)


def test_the_programs_own_configurations_are_found_by_name_in_any_folder(parse, tmp_path):
    lines = [[f"--config={name}", "--workdir=unused"] for name in ("orl", "folder:small", "configs/celeba.py:paper")]
    for line, (status, said) in zip(lines, parse(lines, tmp_path), strict=True):
        assert status == 0, (line, said)
        assert said.startswith(f"Configuration: {ROOT / 'configs'}") and said.endswith("\naccepted\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "orl.py").write_text(
        "from rvae_jax.config import Config\nget_config = lambda _=None: Config()\n"
    )
    assert parse([["--config=configs/orl.py", "--workdir=unused"]], tmp_path) == [[0, "accepted\n"]]


def test_help_is_no_failure(parse):
    (status, said), *_ = parse([["--help"]])
    assert status == 0 and "Trains a model" in said and "--config.FIELD=VALUE" in said
