"""All commands under one name: ``python -m rvae_jax train --config=...``, or ``rvae train --config=...``."""

from __future__ import annotations

import difflib
import runpy
import sys

from rvae_jax import __version__

COMMANDS = {
    "train": ("main", "trains a model, or resumes its training"),
    "prepare": ("prepare", "makes a data set from pictures"),
    "evaluate": ("evaluate", "measures how good a trained model is"),
    "figures": ("figures", "draws the figures of a trained model"),
    "report": ("report", "writes one page on one run or several"),
    "export": ("export", "writes a trained model in another format"),
    "import_keras": ("import_keras", "imports weights of the author's program as a new run"),
    "preflight": ("preflight", "reports memory and speed of a configuration, even on hardware that is not here"),
}


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: rvae COMMAND ...; rvae COMMAND --help says more\n")
        for command, (_, what) in COMMANDS.items():
            print(f"  {command:13} {what}")
        return
    if name == "--version":
        print(f"rvae_jax {__version__}")
        return
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {similar[0]}? there are" if similar else "expected"
        sys.exit(f"Error: {name!r} is not a command; {meant} {', '.join(COMMANDS)}")
    module, _ = COMMANDS[name]
    sys.argv = [f"rvae {name}", *sys.argv[2:]]
    runpy.run_module(f"rvae_jax.{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
