"""Draws the paper's figures, and more, of a trained model: ``python -m rvae_jax.figures --workdir=runs/orl``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rvae_jax import command_line


def main() -> None:
    """Draws, and turns the outcome into an exit status: 0 done, 1 bad input."""
    parser = argparse.ArgumentParser(prog="python -m rvae_jax.figures", description=__doc__)
    command_line.add_model_arguments(parser, workdir="of the run; the pictures are written to figures/ there")
    add = parser.add_argument
    add("--pictures", nargs="+", type=Path, help="pictures, folders or archives of your own, in place of the held-out")
    add("--orthogonal", action="store_true", help="make the attribute directions orthogonal")
    add("--seed", type=int, default=0, help="of the samples (0)")
    arguments = parser.parse_args()
    from rvae_jax.drawing import figures  # after --help
    from rvae_jax.inference.trained_vae import load

    with command_line.exit_on_user_error():
        model = load(arguments.workdir, arguments.step, arguments.data_dir)
        images = figures.read_pictures(arguments.pictures, model) if arguments.pictures else None
        drawer = figures.Drawer(model, images, arguments.seed, orthogonal=arguments.orthogonal)
        for name, figure in drawer.all():
            print(f"{figures.save(model.workdir / figures.FOLDER, name, figure)}: {figure.caption}", flush=True)


if __name__ == "__main__":
    main()
