"""What a run reports of its steps: every few of them a row of metrics, and a line on the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import jax
import numpy as np

from rvae_jax.errors import UserError
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.system.units import format_duration
from rvae_jax.training.metric_log import MetricWriter, SilentWriter
from rvae_jax.training.optimizer import learning_rate_schedule
from rvae_jax.training.progress import Progress
from rvae_jax.training.run import Run
from rvae_jax.training.step import Metrics

_LONG_S = 5.0  # without a line on the terminal


class StepLog:
    """Collects the metrics of steps, and writes their means.

    Metrics stay on the device until they are written. A step is prepared while the one before it runs, and no more:
    with steps dispatched far ahead, a signal to stop, the lines on the terminal and memory would wait for all of them.
    """

    def __init__(
        self, run: Run, checkpoints: Checkpoints, first_step: int, writer: MetricWriter | SilentWriter
    ) -> None:
        self._checkpoints = checkpoints
        self._config, self._sources, self._writer = run.config, run.sources, writer
        self._learning_rate = learning_rate_schedule(run.config.optimizer, run.config.steps)
        self._progress = Progress(first_step, run.config.batch_size)
        self._pending: list[tuple[int, Metrics]] = []
        self._input_wait_s = 0.0
        self._pause_s = 0.0
        self._damaged = 0
        self._first_step, self._second_began = first_step, 0.0

    def next_of(self, batches: Iterator[jax.Array]) -> jax.Array:
        """The next batch; the time that it took counts as waiting for input."""
        began = time.monotonic()
        batch = next(batches)
        self._input_wait_s += time.monotonic() - began
        return batch

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step that was dispatched; waits for the step before it."""
        self._pending.append((step, metrics))
        jax.block_until_ready([metrics for _, metrics in self._pending[-2:-1]])
        self._announce(step - 1 - self._first_step)

    def write(self) -> None:
        """Writes the means of the metrics since the last row, if there are any.

        Raises:
          UserError: a metric of a step is not finite.
        """
        if not self._pending:
            return
        steps, rows = zip(*jax.device_get(self._pending), strict=True)
        self._pending.clear()
        for step, row in zip(steps, rows, strict=True):
            self._require_finite(step, row)
        step, config = steps[-1], self._config
        # The last step has every metric; those of texture may be missing before.
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in rows[-1]}
        until, then = self._next_end(step)
        evaluations = until // config.eval_every - step // config.eval_every
        evaluations += until == config.steps and config.steps % config.eval_every > 0
        images_per_second, seconds = self._progress.report(step, until, self._pause_s * evaluations)
        means["learning_rate"] = float(self._learning_rate(step - 1))
        means["images_per_second"] = images_per_second
        means["input_wait"] = self._input_wait_s / len(steps)
        means["damaged_images"] = self._count_damaged()
        self._input_wait_s = 0.0
        self._writer.scalars(step, means)
        print(
            f"step {step}/{config.steps}  loss {means['loss/total']:.1f}  L1 {means['loss/reconstruction']:.4f}"
            f"  {images_per_second:.1f} images/s  {format_duration(seconds)} {then}",
            flush=True,
        )

    def _next_end(self, step: int) -> tuple[int, str]:
        """The step until which steps take the same time, and how a line calls the time until then."""
        texture_start = int(self._config.loss.texture_start)
        if step <= texture_start > 0:
            return texture_start, f"to step {texture_start}, where texture starts"
        return self._config.steps, "left"

    def _announce(self, done: int) -> None:
        """Says after two steps how long they take, where the first row is many seconds away."""
        if done == 1:
            self._second_began = time.monotonic()
        elif done == 2:
            seconds, step = time.monotonic() - self._second_began, self._first_step + done
            if self._config.log_every * seconds > _LONG_S:
                until, then = self._next_end(step)
                remaining = format_duration((until - step) * seconds)
                print(f"step {step}/{self._config.steps}  {seconds:.1f}s a step, {remaining} {then}", flush=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within it, time does not count towards the speed of training."""
        began = time.monotonic()
        yield
        self._pause_s = time.monotonic() - began
        self._progress.skip()

    def _count_damaged(self) -> int:
        """The number of images that could not be read so far; warns of new ones."""
        damaged = [reason for source in self._sources.values() for reason in source.damaged.values()]
        if len(damaged) > self._damaged:
            print(f"Warning: {len(damaged)} images cannot be read and are replaced by others; the last: {damaged[-1]}")
            self._damaged = len(damaged)
        return self._damaged

    def _require_finite(self, step: int, row: Metrics) -> None:
        optimizer = self._config.optimizer
        for name in sorted(row, key=lambda name: (not name.startswith("loss/"), name)):
            if not np.isfinite(row[name]):
                steps = ", ".join(map(str, self._checkpoints.steps()))
                kept = f"checkpoints of steps {steps} are intact" if steps else "there was no checkpoint yet"
                clip_norm = 1000 if optimizer.clip_norm is None else optimizer.clip_norm / 10
                raise UserError(
                    f"step {step}: {name} is {row[name]}; stopped; {kept}. Try"
                    f" --config.optimizer.learning_rate={optimizer.learning_rate / 3:.1g} or"
                    f" --config.optimizer.clip_norm={clip_norm:g}, in a new --workdir"
                )
