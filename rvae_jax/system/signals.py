"""How a command ends by a signal while it has nothing to save."""

import contextlib
import os
import signal
import sys
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def exit_at_once() -> None:
    """Has SIGINT and SIGTERM end this process at once, with status 128 + n and one line.

    Not by an exception: in the midst of an import or of a callback it would be swallowed, or end in a traceback.
    """
    for number in ENDING:
        signal.signal(number, _exit)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _exit(number: int, _: FrameType | None) -> None:
    with contextlib.suppress(Exception):  # it may be in use
        sys.stdout.flush()
    os.write(2, f"Stopped by {signal.Signals(number).name}.\n".encode())
    os._exit(128 + number)
