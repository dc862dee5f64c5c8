"""CPU time: of a process while it runs, and the number of training steps that fit into a budget of it.

CPU seconds are those of a process from its start on, of all its threads, including the system's.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import time
from collections.abc import Callable

from rvae_jax.errors import UserError

LEAST_STEPS = 10
_POLL_S = 0.05


class Clock:
    """Says when this process has used up its CPU seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def used(self) -> float:
        """CPU seconds so far."""
        return time.process_time()

    def share(self) -> float:
        """Used seconds over those there are, at most 1."""
        return min(1.0, self.used() / self._seconds)

    def is_up(self) -> bool:
        """Whether they are used up."""
        return self.used() >= self._seconds


@dataclasses.dataclass(frozen=True)
class Pace:
    """CPU seconds of a training program: ``start_and_end`` for start, compilation and end, ``step`` for each step."""

    start_and_end: float
    step: float

    def steps(self, seconds: float) -> int:
        """How many steps take ``seconds`` in all; at least ``LEAST_STEPS``."""
        return max(LEAST_STEPS, round((seconds - self.start_and_end) / self.step))


def pace_of(marks: list[tuple[int, float]], total: float, steps: int) -> Pace:
    """The pace of a run.

    Args:
      marks: numbers of steps done, and CPU seconds so far.
      total: CPU seconds of the entire run.
      steps: its steps.

    Raises:
      UserError: there are no two different marks.
    """
    (first, began), (last, ended) = (marks[0], marks[-1]) if marks else ((0, 0.0), (0, 0.0))
    if last <= first or ended <= began:
        raise UserError(f"the timed run of {steps} steps was over before two of its rows were seen; time more steps")
    step = (ended - began) / (last - first)
    return Pace(max(0.0, total - steps * step), step)


def run(
    command: list[str],
    environment: dict[str, str],
    log: pathlib.Path,
    watch: Callable[[float], None] | None = None,
) -> float:
    """Runs a command to its end.

    Args:
      command: program and arguments.
      environment: variables besides this process's.
      log: file for what it prints.
      watch: called many times a second with the CPU seconds so far, which Linux alone tells.

    Returns:
      Its CPU seconds.

    Raises:
      UserError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if watch is not None:
                    watch(_used_by(process.pid))
                time.sleep(_POLL_S)
        except BaseException:  # also of the keyboard
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text().strip().splitlines()[-1:] or ["it printed nothing"]
        raise UserError(f"{' '.join(command)}: ended with status {process.returncode}: {last[0]}; see {log}")
    return usage.ru_utime + usage.ru_stime


def _used_by(pid: int) -> float:
    """CPU seconds of a process so far; Linux alone tells."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise UserError("CPU seconds of another process: expected Linux, where /proc has them") from None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
