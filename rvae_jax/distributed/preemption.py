"""Stopping a run by a signal, after its state is saved."""

from __future__ import annotations

import os
import signal
from typing import Any

from jax.experimental import multihost_utils

from rvae_jax.distributed import processes


class StopRequest:
    """Within it, the first SIGINT or SIGTERM is only noted; the second has its usual effect.

    With several processes a signal to any of them stops all of them before the same step. JAX's preemption service
    does that: it listens for SIGTERM from ``jax.distributed.initialize`` on, and SIGINT is passed on to it.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[int, Any] = {}
        self._is_asked = False

    def __enter__(self) -> StopRequest:
        """Installs the signal handlers."""
        for number in (signal.SIGINT,) if processes.is_several() else (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Restores the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Whether to stop now; the answer is the same in all processes.

        Args:
          step: steps done; each process must ask after every step.
        """
        if processes.is_several() and multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return self.signal is not None

    def _note(self, number: int, _: object) -> None:
        if self._is_asked:
            # The handler stays to here: whoever looks whether a signal ends the command must not take the first for it.
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
            return
        self._is_asked = True
        name = signal.Signals(number).name
        if processes.is_several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = signal.Signals(number)
        print(f"{name}: saving, then stopping; send it again to stop at once.", flush=True)
