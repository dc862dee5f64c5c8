"""TensorBoard's events, written by the thread that calls: an error of the disk is raised where it happens."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import numpy as np


class EventFile:
    """A new file of events in a folder.

    ``tensorboardX.SummaryWriter`` would write from a thread of its own. After an error that thread is gone, and the run
    waits for it without end.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int | None = None) -> None:
        """Begins the file; TensorBoard hides what files before it have of ``purge_step`` and later."""
        from tensorboardX import event_file_writer, summary  # imports PyTorch if it is installed, which takes seconds
        from tensorboardX.proto import event_pb2

        folder.mkdir(exist_ok=True)
        self._summary, self._event = summary, event_pb2.Event
        self._file = event_file_writer.EventsWriter(str(folder / "events"))
        if purge_step is not None:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(purge_step, file_version="brain.Event:2")
            self._write(purge_step, session_log=started)

    def scalar(self, step: int, name: str, value: float) -> None:
        """Writes a number."""
        self._write(step, summary=self._summary.scalar(name, value))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, ``[h, w, c]`` uint8."""
        self._write(step, summary=self._summary.image(name, image, dataformats="HWC"))

    def flush(self) -> None:
        """Sees to it that all is on the disk."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._event(step=step, wall_time=time.time(), **content))
