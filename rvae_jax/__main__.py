"""All commands under one name: ``python -m rvae_jax train --config=...``, or ``rvae train --config=...``."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "train": ("main", "trains, or goes on training"),
    "prepare": ("prepare", "makes a data set of pictures"),
    "evaluate": ("evaluate", "measures how good a trained model is"),
    "figures": ("figures", "draws what a trained model does"),
    "report": ("report", "writes one page about one run or several"),
    "export": ("export", "writes a trained model in another form"),
    "import_keras": ("import_keras", "makes a run of a network that the author's program trained"),
    "preflight": ("preflight", "says what a configuration needs of hardware that may not be here"),
}


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: rvae COMMAND ...; rvae COMMAND --help says more\n")
        for command, (_, what) in COMMANDS.items():
            print(f"  {command:13} {what}")
        return
    if name not in COMMANDS:
        sys.exit(f"Error: {name!r} is not a command; expected {', '.join(COMMANDS)}")
    module, _ = COMMANDS[name]
    sys.argv = [f"rvae {name}", *sys.argv[2:]]
    runpy.run_module(f"rvae_jax.{module}", run_name="__main__")


if __name__ == "__main__":
    main()
