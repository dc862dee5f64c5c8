"""Draws the paper's figures, and more, of a trained model: ``python -m rvae_jax.figures --workdir=runs/orl``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rvae_jax import command_line
from rvae_jax.errors import command
from rvae_jax.system import signals


def main() -> None:
    """Draws; exits with status 0 when done, 1 on bad input."""
    parser = argparse.ArgumentParser(prog=command("figures"), description=__doc__)
    command_line.add_model_arguments(parser, workdir="of the run; the pictures are written to figures/ there")
    add = parser.add_argument
    add("--pictures", nargs="+", type=Path, help="your own pictures, folders or archives, in place of held-out images")
    add("--orthogonal", action="store_true", help="make the attribute directions orthogonal")
    add("--output", help="folder for the pictures (figures/ in the work directory)")
    add("--seed", type=int, default=0, help="of the samples (0)")
    arguments = parser.parse_args()
    from tqdm import tqdm  # after --help

    from rvae_jax.drawing import figures
    from rvae_jax.drawing.scene import Scene, read_pictures

    with command_line.exit_on_user_error():
        model = command_line.load_model(arguments.workdir, arguments.step, arguments.data_dir)
        folder = command_line.open_output(arguments.output, model.workdir / figures.FOLDER)
        images = read_pictures(arguments.pictures, model) if arguments.pictures else None
        scene = Scene(model, images, arguments.seed, orthogonal=arguments.orthogonal)
        for name, figure in figures.draw(scene, label="drawing"):
            with tqdm.external_write_mode():  # above the bar
                print(f"{figures.save(folder, name, figure)}: {figure.caption}", flush=True)


if __name__ == "__main__":
    signals.exit_at_once()
    main()
