"""Evaluates a trained model: ``python -m rvae_jax.evaluate --workdir=runs/orl``."""

from __future__ import annotations

import argparse

from rvae_jax import command_line
from rvae_jax.errors import command, needs
from rvae_jax.system import signals


def main() -> None:
    """Evaluates; exits with status 0 when done, 1 on bad input."""
    parser = argparse.ArgumentParser(prog=command("evaluate"), description=__doc__)
    command_line.add_model_arguments(parser, workdir="of the run; evaluation.json is written there")
    command_line.add_evaluation_arguments(parser)
    parser.add_argument("--output", help="folder for evaluation.json, in place of the work directory")
    arguments = vars(parser.parse_args())
    with needs("evaluate", command=True):  # after --help
        from rvae_jax.evaluation import evaluator
        from rvae_jax.evaluation.table import format_table
    with command_line.exit_on_user_error():
        settings = command_line.evaluation_settings(arguments)
        model = command_line.load_model(arguments["workdir"], arguments["step"], arguments["data_dir"])
        folder = command_line.open_output(arguments["output"], model.workdir)
        measured = evaluator.measure(model, settings)
        print(format_table(measured.evaluation))  # before anything can fail
        path = evaluator.write(model, measured, folder)
    print(f"Wrote {path}")


if __name__ == "__main__":
    signals.exit_at_once()
    main()
