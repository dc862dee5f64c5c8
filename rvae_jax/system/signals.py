"""How a command ends by a signal while it has nothing to save."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)
_ending = threading.Lock()


def exit_at_once() -> None:
    """Has SIGINT and SIGTERM end this process at once, with status 128 + n and one line.

    Not by an exception: in the midst of an import or of a callback it would be swallowed, or end in a traceback. Python
    calls a handler only between two of its own instructions, so a thread watches for signals while the main thread
    compiles or computes.
    """
    for number in ENDING:
        signal.signal(number, _exit)
    if sys.platform != "win32":
        _watch()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _watch() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # else its signals would end its parent

    def watch() -> None:
        while number := os.read(reader, 1):
            if signal.getsignal(number[0]) is _exit:
                _exit(number[0], None)

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _exit(number: int, _: FrameType | None) -> None:
    if not _ending.acquire(blocking=False):  # the other thread is here
        return
    with contextlib.suppress(Exception):  # it may be in use
        sys.stdout.flush()
    os.write(2, f"Stopped by {signal.Signals(number).name}.\n".encode())
    os._exit(128 + number)
