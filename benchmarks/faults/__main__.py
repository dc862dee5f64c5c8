"""Damages runs, exports and data sets at random, kills training, fills its disk, has the system refuse its calls.

    python -m benchmarks.faults --folder=runs/faults --minutes=60

The folder gets a small run on the ORL faces and its exports, then a copy for every trial. A trial that ends badly is
described in failures.jsonl, with the seed that repeats it: a wrong result without a word, lost rows, a traceback, or a
hang of more than a minute and ten times the usual time. results.json and table.md have the counts. The exit status is 1
if there was one. Run nothing else beside it.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.faults import processes, targets, trial
from benchmarks.faults.damage import WAYS
from rvae_jax import command_line
from rvae_jax.errors import UserError

_KILLED, _ON_SMALL_DISK = "a run, killed three times", "a run on a disk that fills"
_REFUSED = "a run, a call of which the system refuses"
_LONGER = 40  # steps of the runs that are killed


def main() -> None:
    """Runs the campaign."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where everything is kept")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it goes on (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; each has the next one (0)")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    # Processes share what they compile, apart from the user's own cache.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    with command_line.exit_on_user_error():
        prepare(folder)
        campaign = Campaign(folder, measure_usual(folder), undisturbed(folder))
        end = time.monotonic() + 60 * arguments.minutes
        seed = arguments.seed
        while time.monotonic() < end:
            campaign.run(seed)
            seed += 1
        campaign.write()
    print(campaign.table(), end="")
    sys.exit(campaign.bad > 0)


def prepare(folder: pathlib.Path) -> None:
    """Makes what is damaged, unless it is there.

    Raises:
      UserError: a command failed.
    """
    whole = folder / "whole"
    if (whole / "done").exists():
        return
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    run, export = whole / targets.RUN, [sys.executable, "-m", "rvae_jax.export", f"--workdir={whole / targets.RUN}"]
    lines = [processes.command(whole, run, targets.STEPS)]
    lines += [[*export, f"--format={name}", f"--output={whole / name}"] for name in ("safetensors", "keras")]
    for line in lines:
        machine.say(" ".join(line[2:4]))
        if (done := subprocess.run(line, capture_output=True, text=True, check=False)).returncode:
            raise UserError(f"{' '.join(line)} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    shutil.copy(run / "config.json", whole / "config.json")
    (whole / "done").touch()


class _Usual(NamedTuple):
    """What a target gives without damage, its memory in bytes, and how long a trial of it may take."""

    result: Any
    memory: int
    limit_s: float


def measure_usual(folder: pathlib.Path) -> dict[str, _Usual]:
    """Uses each target once without damage; what it gives, by its name.

    Raises:
      UserError: one fails.
    """
    usual = {}
    for target in targets.TARGETS:
        machine.say(f"without damage: {target.name}")
        began = time.monotonic()
        found = trial.attempt(target.read, _fresh_copy(folder), limit_s=10 * trial.HANG_S)
        if found.status != 0:
            raise UserError(f"{target.name} failed without damage: {found.said[-1000:]}")
        limit_s = max(trial.HANG_S, 10 * (time.monotonic() - began))
        usual[target.name] = _Usual(found.result, found.peak, limit_s)
    return usual


class _Undisturbed(NamedTuple):
    """A run to its end that nothing disturbs: its folder, its bytes there, and how long it takes."""

    workdir: pathlib.Path
    size: int
    seconds: float


def undisturbed(folder: pathlib.Path) -> _Undisturbed:
    """Trains the run that the others are compared with.

    Raises:
      UserError: it fails.
    """
    machine.say("a run that nothing disturbs")
    began, workdir = time.monotonic(), folder / "undisturbed"
    shutil.rmtree(workdir, ignore_errors=True)
    if (done := processes.train(folder / "whole", workdir, _LONGER)).returncode:
        raise UserError(f"the run that nothing disturbs failed: {done.stderr[-1000:]}")
    size = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file())
    return _Undisturbed(workdir, size, time.monotonic() - began)


def _fresh_copy(folder: pathlib.Path) -> pathlib.Path:
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    return shutil.copytree(folder / "whole", copy)


class Campaign:
    """Trials, one after the other, and their outcomes."""

    def __init__(self, folder: pathlib.Path, usual: dict[str, _Usual], undisturbed: _Undisturbed) -> None:
        self._folder, self._usual, self._undisturbed = folder, usual, undisturbed
        self._counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        self._most_memory: dict[str, int] = {}
        self._process_kinds = [_KILLED]
        self._process_kinds += [_ON_SMALL_DISK] if processes.can_mount() else []
        self._process_kinds += [_REFUSED] if processes.can_inject() else []

    @property
    def bad(self) -> int:
        """The number of trials that ended badly."""
        return sum(count for each in self._counts.values() for name, count in each.items() if name not in trial.GOOD)

    def run(self, seed: int) -> None:
        """One trial."""
        rng = np.random.default_rng(seed)
        choices = [target for target in targets.TARGETS for _ in range(target.weight)] + self._process_kinds
        chosen = choices[rng.integers(len(choices))]
        if isinstance(chosen, str):
            self._run_process(chosen, rng, seed)
        else:
            self._run_damage(chosen, rng, seed)

    def _run_damage(self, target: targets.Target, rng: np.random.Generator, seed: int) -> None:
        copy = _fresh_copy(self._folder)
        files = sorted({path for pattern in target.files for path in copy.glob(pattern) if path.is_file()})
        path = files[rng.integers(len(files))]
        way = list(WAYS)[rng.integers(len(WAYS))]
        WAYS[way](path, rng)
        usual = self._usual[target.name]
        found = trial.attempt(target.read, copy, usual.limit_s)
        outcome = found.outcome(usual.result, target.compare)
        more = found.peak - usual.memory
        self._most_memory[target.name] = max(more, self._most_memory.get(target.name, 0))
        self._note(target.name, outcome, seed, f"{path.relative_to(copy)}: {way}", found.said)

    def _run_process(self, kind: str, rng: np.random.Generator, seed: int) -> None:
        workdir, whole = self._folder / "process", self._folder / "whole"
        what, left = kind, workdir
        if kind == _KILLED:
            outcome = processes.killed(whole, workdir, _LONGER, rng, self._undisturbed.seconds)
        elif kind == _REFUSED:
            outcome, what = processes.refused(whole, workdir, _LONGER, rng)
            left = workdir / "run"
            if outcome is None:  # the run made too few of the calls
                return
        else:
            size = int(self._undisturbed.size * rng.uniform(0.05, 1.2))
            outcome = processes.on_small_disk(whole, workdir, _LONGER, size)
            left = workdir / "kept" / "run"
        if outcome == trial.WHOLE:
            compare = {path: trial.attempt(_result, path) for path in (self._undisturbed.workdir, left)}
            expected, found = (each.result for each in compare.values())
            if found != expected:
                outcome = trial.LOST if found and found[0] == expected[0] else trial.WRONG
        said = (workdir / "said").read_text() if (workdir / "said").exists() else ""
        self._note(kind, outcome, seed, what, said)

    def _note(self, kind: str, outcome: str, seed: int, what: str, said: str) -> None:
        self._counts[kind][outcome] += 1
        if outcome in trial.GOOD:
            return
        machine.say(f"seed {seed}: {kind}: {what}: {outcome}")
        row = {"seed": seed, "kind": kind, "what": what, "outcome": outcome, "said": said[-3000:]}
        with (self._folder / "failures.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def table(self) -> str:
        """The counts, as Markdown."""
        lines = [f"{machine.describe()}", "", f"| what | trials | {' | '.join(trial.ALL)} | memory, GB more |"]
        lines.append("|---" * (len(trial.ALL) + 3) + "|")
        for kind, counts in sorted(self._counts.items()):
            cells = [kind, str(sum(counts.values())), *(str(counts[name]) for name in trial.ALL)]
            cells.append(f"{self._most_memory[kind] / 1e9:.2f}" if kind in self._most_memory else "")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Writes results.json and table.md."""
        content = {"counts": self._counts, "memory": self._most_memory}
        (self._folder / "results.json").write_text(json.dumps(content, indent=1) + "\n")
        (self._folder / "table.md").write_text(self.table())


def _result(workdir: pathlib.Path) -> object:
    return processes.result_of(workdir, _LONGER)


if __name__ == "__main__":
    main()
