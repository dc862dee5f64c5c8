"""Looks for bytes on which a reader of foreign files ends badly, by coverage-guided fuzzing with atheris.

    python -m benchmarks.faults.fuzz --folder=runs/fuzz --minutes=10

Each reader gets an equal part of the time, in a process of its own. It begins with small valid files and goes on with
what leads it to other lines of code. An expected end is success or an error of one line. Anything else is a crash: an
exception, more than one line, more than a minute, more than 2.5 GB. Its bytes and its traceback are then in
FOLDER/READER/crashes, a row is printed, and the exit status is 1. The next run begins with what the last one has found.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

from benchmarks import machine
from benchmarks.faults.fuzz import reader as readers
from rvae_jax import command_line
from rvae_jax.errors import UserError

_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)


class Result(NamedTuple):
    """What came of fuzzing one reader; ``crashes`` are the files, one of each kind."""

    reader: str
    executions: int
    corpus: int
    crashes: list[pathlib.Path]


def main() -> None:
    """Fuzzes all readers, or one, and prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder", type=pathlib.Path, default=pathlib.Path("runs/fuzz"), help="for all files (runs/fuzz)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long all readers take together (10)")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer (1)")
    parser.add_argument("--reader", action="append", choices=readers.names(), help="one of them (all)")
    parser.add_argument("--replay", type=pathlib.Path, metavar="FOLDER/READER/crashes/FILE", help="read it once again")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if arguments.replay:
        replay(arguments.replay.resolve())
        return
    names = arguments.reader or readers.names()
    seconds = max(1, round(60 * arguments.minutes / len(names)))
    with command_line.exit_on_user_error():
        results = [fuzz(name, arguments.folder.resolve() / name, seconds, arguments.seed) for name in names]
    print(table(results, seconds))
    sys.exit(any(result.crashes for result in results))


def replay(path: pathlib.Path) -> None:
    """Reads what a reader crashed on; raises what it raised, unless that is mended."""
    reader = readers.find(path.parents[1].name)
    with tempfile.TemporaryDirectory() as folder:
        readers.begin(reader, pathlib.Path(folder))
        readers.attempt(reader, path.read_bytes(), pathlib.Path(folder))


def fuzz(name: str, folder: pathlib.Path, seconds: int, seed: int) -> Result:
    """Fuzzes one reader.

    Args:
      name: of the reader.
      folder: for its files.
      seconds: how long.
      seed: of libFuzzer, which takes 0 for the time of day.

    Raises:
      UserError: it could not begin.
    """
    corpus, crashes, log = (folder / each for each in ("corpus", "crashes", "log.txt"))
    shutil.rmtree(folder / "work", ignore_errors=True)
    for each in (corpus, crashes):
        each.mkdir(parents=True, exist_ok=True)
    for path in crashes.iterdir():  # of an earlier run: they are tried first
        path.unlink() if path.suffix else path.rename(corpus / path.name)
    command = [sys.executable, "-m", "benchmarks.faults.fuzz.one", name, str(folder), str(seconds), str(seed)]
    with log.open("w") as file:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=file, check=False)
    said = log.read_text(errors="replace")
    if (executions := _EXECUTIONS.search(said)) is None:
        raise UserError(f"{name} could not be fuzzed: {(said.splitlines() or ['no word'])[-1]}; see {log}")
    found = sorted(path for path in crashes.iterdir() if not path.suffix)
    for path in found:
        machine.say(f"{name}: {path}: {_reason(path)}")
    return Result(name, int(executions[1]), len([*corpus.iterdir()]), found)


def _reason(path: pathlib.Path) -> str:
    """The last line of the traceback, or libFuzzer's word for what it has seen itself."""
    report = path.with_suffix(".txt")
    return report.read_text().splitlines()[-1][:200] if report.exists() else path.name.partition("-")[0]


def table(results: list[Result], seconds: int) -> str:
    """The results as Markdown."""
    lines = [f"{machine.describe()}; {seconds} s for each reader", ""]
    lines += ["| reader | executions | inputs in the corpus | crashes |", "|---|---|---|---|"]
    lines += [f"| {each.reader} | {each.executions:,} | {each.corpus:,} | {len(each.crashes)} |" for each in results]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
