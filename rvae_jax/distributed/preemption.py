"""Stopping a run from outside, without losing it."""

from __future__ import annotations

import os
import signal
from typing import Any

from jax.experimental import multihost_utils

from rvae_jax.distributed import processes


class StopRequest:
    """While entered, a first SIGINT or SIGTERM is only noted; a second one has its usual effect.

    With several processes a signal to any of them stops all of them, before the same step: JAX's preemption service,
    which listens for SIGTERM from ``jax.distributed.initialize`` on, sees to that. SIGINT is passed on to it.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Takes over the signals."""
        for number in (signal.SIGINT,) if processes.is_several() else (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Gives them back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Whether to stop now, the same in all processes.

        Args:
          step: steps done; each process asks after every step.
        """
        if processes.is_several() and multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return self.signal is not None

    def _note(self, number: int, _: object) -> None:
        name = signal.Signals(number).name
        signal.signal(number, self._previous[number])
        if processes.is_several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = signal.Signals(number)
        print(f"{name}: saves and stops; once more to stop at once.", flush=True)
