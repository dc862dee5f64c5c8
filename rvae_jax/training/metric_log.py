"""The metrics of a run, as JSON lines, as TensorBoard events, and for other trackers."""

from __future__ import annotations

import contextlib
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
from etils import epath

from rvae_jax.system.files import is_remote, write_atomically
from rvae_jax.training.event_file import EventFile
from rvae_jax.training.trackers import Trackers

METRICS_FILE = "metrics.jsonl"
UNREADABLE_FILE = "metrics.unreadable"  # lines that are no rows


class MetricWriter:
    """Writes rows of scalars to ``metrics.jsonl``, TensorBoard and other trackers, and pictures to the last two.

    When a run resumes from step ``first_step``, rows of later steps are dropped, so that no step appears twice. Files
    in an object store cannot be appended to: there, rows appear when they are published.
    """

    def __init__(self, workdir: epath.Path, first_step: int, trackers: Trackers) -> None:
        self._workdir = workdir
        self._trackers = trackers
        self._local = None
        folder = pathlib.Path(workdir)
        if is_remote(workdir):
            self._local = tempfile.TemporaryDirectory(prefix="rvae_jax_")
            folder = pathlib.Path(self._local.name)
            if (workdir / METRICS_FILE).exists():
                (folder / METRICS_FILE).write_bytes((workdir / METRICS_FILE).read_bytes())
        _keep_rows(folder / METRICS_FILE, first_step)
        self._folder = folder
        self._file = (folder / METRICS_FILE).open("a")
        purge_step = first_step + 1 if first_step else None
        self._events = EventFile(folder / "tensorboard", purge_step)

    def __enter__(self) -> MetricWriter:
        """The writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes all files."""
        with contextlib.ExitStack() as stack:  # each of them, also after an error of another
            if self._local is not None:
                stack.callback(self._local.cleanup)
            stack.callback(self.publish)
            stack.callback(self._events.close)
            stack.callback(self._file.close)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one row, and flushes it."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.scalar(step, name, value)
        self._events.flush()
        self._trackers.scalars(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, ``[h, w, c]`` uint8."""
        self._events.image(step, name, image)
        self._trackers.image(step, name, image)

    def publish(self) -> None:
        """Copies all files to the object store, if the work directory is in one."""
        if self._local is None:
            return
        for file in self._folder.rglob("*"):
            if file.is_file():
                write_atomically(self._workdir / file.relative_to(self._folder).as_posix(), file.read_bytes())


class SilentWriter:
    """Has the methods of ``MetricWriter`` and writes nothing: for all processes but the first."""

    def __enter__(self) -> SilentWriter:
        """The writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Does nothing."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Does nothing."""

    def publish(self) -> None:
        """Does nothing."""


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl`` that can be read; an imported run has none."""
    try:
        content = (workdir / METRICS_FILE).read_bytes()
    except FileNotFoundError:
        return []
    return [row for line in content.split(b"\n") if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """The row of a line, or None if it is not one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # of JSON, of the encoding
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("step"), int) and all(map(_is_number, row.values()))
    return row if is_row else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


def _keep_rows(path: pathlib.Path, last_step: int) -> None:
    """Leaves the rows of steps up to ``last_step``; lines that are no rows go to ``UNREADABLE_FILE``."""
    if not path.is_file():
        return
    kept, unreadable = [], []
    *lines, rest = path.read_bytes().split(b"\n")  # a crash may have cut the last line short
    for line in lines:
        row = _row(line)
        if row is None:
            unreadable += [line] if line.strip() else []
        elif row["step"] <= last_step:
            kept.append(line)
    if (row := _row(rest)) is not None and row["step"] <= last_step:
        kept.append(rest)
    if unreadable:
        aside = path.with_name(UNREADABLE_FILE)
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for line in unreadable)
        print(f"{path}: {len(unreadable):,} of {len(lines):,} lines cannot be read; they are in {aside.name} now")
    write_atomically(path, b"".join(line + b"\n" for line in kept))
