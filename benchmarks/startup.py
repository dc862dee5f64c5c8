"""Times what a user waits for: the first training step, and ``--help``.

    python -m benchmarks.startup --config=configs/orl.py:tiny

Each start is a new run in a temporary folder, timed by its output. A cold start has an empty cache of compiled
programs, a warm one the cache of the cold start before it. The data is prepared, and files are in the system's cache.
Options that start with ``--config.`` are passed on.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import machine
from rvae_jax.command_line import exit_on_user_error
from rvae_jax.errors import UserError

PROGRAMS = ("main", "prepare", "preflight", "evaluate", "figures", "report", "export", "import_keras")

# The beginning of the line that the program prints after each part of its start.
_LINES = {"imports and data": "Devices: ", "state, input, compilation": "Compiled the step", "first step": "step 1/"}


@dataclasses.dataclass
class Start:
    """The seconds of a start.

    Attributes:
      total: from the command to the line of the first step.
      parts: by part; they add up to ``total``.
      cpu: CPU seconds of all cores, including the system's.
    """

    total: float
    parts: dict[str, float]
    cpu: float


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="FILE:VARIANT, as rvae_jax.main takes it")
    parser.add_argument("--rounds", type=int, default=5, help="cold starts, warm starts and calls of --help (5)")
    parser.add_argument("--json", type=pathlib.Path, help="file to write the figures to")
    arguments, overrides = parser.parse_known_args()
    with exit_on_user_error():
        if arguments.rounds < 1:
            raise UserError(f"--rounds={arguments.rounds}: expected at least 1")
        result = measure([f"--config={arguments.config}", *overrides], arguments.rounds)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(config: list[str], rounds: int) -> dict[str, Any]:
    """Measures and prints.

    Args:
      config: options of ``rvae_jax.main`` for the configuration.
      rounds: number of starts of each kind.

    Returns:
      All figures, for JSON.

    Raises:
      UserError: a program failed.
    """
    starts: dict[str, list[Start]] = {"cold": [], "warm": []}
    helps: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        machine.say("preparing the data")
        start(config, folder / "first", folder / "cache")
        for number in range(1, rounds + 1):
            for kind, found in starts.items():
                found.append(start(config, folder / f"{kind}{number}", folder / f"cache{number}"))
            for program, seconds in helps.items():
                seconds.append(help_seconds(program))
            machine.say(
                f"round {number} of {rounds}: "
                + ", ".join(f"{kind} {found[-1].total:.1f} s" for kind, found in starts.items())
            )
    print(f"{machine.describe()}: seconds, medians and extremes of {rounds}; {' '.join(config)}\n")
    print("| start | to the first step | " + " | ".join(_LINES) + " | CPU seconds |")
    print("|---" * (3 + len(_LINES)) + "|")
    for kind, found in starts.items():
        parts = (f"{statistics.median(each.parts[part] for each in found):.1f}" for part in _LINES)
        total, cpu = (machine.spread([getattr(each, name) for each in found]) for name in ("total", "cpu"))
        print(f"| {kind} | {total} | {' | '.join(parts)} | {cpu} |")
    print("\n| `--help` of | seconds |\n|---|---|")
    for program, seconds in helps.items():
        print(f"| `rvae_jax.{program}` | {machine.spread(seconds, 2)} |")
    return {
        "machine": machine.describe(),
        "config": config,
        "starts": {kind: [dataclasses.asdict(each) for each in found] for kind, found in starts.items()},
        "help": helps,
    }


def start(config: list[str], workdir: pathlib.Path, cache: pathlib.Path) -> Start:
    """Starts a run, and ends it after its first step.

    Args:
      config: options of ``rvae_jax.main`` for the configuration.
      workdir: work directory of the run.
      cache: folder for compiled programs.

    Raises:
      UserError: the program ended before its first step.
    """
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(cache)
    command = [sys.executable, "-u", "-m", "rvae_jax.main", *config, f"--workdir={workdir}", "--config.log_every=1"]
    seen: dict[str, float] = {}
    cpu = machine.cpu_seconds(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as errors:
        before = began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        with process:
            for line in process.stdout:
                for part, beginning in _LINES.items():
                    if line.startswith(beginning):
                        now = time.perf_counter()
                        seen[part], before = now - before, now
                if len(seen) == len(_LINES):
                    break
            process.kill()
        errors.seek(0)
        if len(seen) < len(_LINES):
            raise UserError(f"{' '.join(command)}: {(errors.read().splitlines() or ['no first step'])[-1]}")
    return Start(before - began, seen, machine.cpu_seconds(resource.RUSAGE_CHILDREN) - cpu)


def help_seconds(program: str) -> float:
    """Seconds that a program's ``--help`` takes."""
    began = time.perf_counter()
    result = subprocess.run([sys.executable, "-m", f"rvae_jax.{program}", "--help"], capture_output=True, check=False)
    seconds = time.perf_counter() - began
    if not result.stdout:
        raise UserError(f"rvae_jax.{program} --help printed nothing: {result.stderr.decode()[-300:]}")
    return seconds


if __name__ == "__main__":
    main()
