"""Stopping a run from outside, without losing it."""

from __future__ import annotations

import signal
from typing import Any


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is only noted, in ``signal``; a second one has its usual effect."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Takes over the two signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Gives them back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._previous[number])
        print(f"{self.signal.name}: saves and stops; once more to stop at once.", flush=True)
