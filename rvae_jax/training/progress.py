"""Speed and time left of a run."""

import time


class Progress:
    """Speed and time left, from the steps since the last report.

    Pauses for evaluation do not count towards the speed; ``report`` adds those that are still to come to the time.
    """

    def __init__(self, first_step: int, batch_size: int) -> None:
        self._batch_size = batch_size
        self._mark(first_step)

    def _mark(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def skip(self) -> None:
        """Restarts the clock after a pause."""
        self._mark(self._step)

    def report(self, step: int, until: int, pauses_s: float) -> tuple[float, float]:
        """Images a second since the last report, and seconds to the step ``until``, with the pauses before it."""
        elapsed, steps = time.monotonic() - self._time, step - self._step
        self._mark(step)
        per_step = elapsed / max(steps, 1)
        return self._batch_size / max(per_step, 1e-9), (until - step) * per_step + pauses_s
