"""A function of many rows, run in batches on all devices of this process."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from rvae_jax.distributed import sharding


class Batched:
    """A jitted ``function(weights, *rows)`` for any number of rows.

    Args:
      function: the function to jit. It treats each row by itself, and returns a tree of arrays with a leading axis of
        rows.
      weights: its first argument, kept on every device.
      batch_size: largest number of rows that a device has at a time.
    """

    def __init__(self, function: Callable[..., Any], weights: Any = None, batch_size: int = 32) -> None:
        self._layout = sharding.data_parallel("jit", devices=jax.local_devices())
        self._weights = jax.device_put(weights, self._layout.replicated)
        self._function = jax.jit(
            function, out_shardings=self._layout.batch, compiler_options=self._layout.compiler_options
        )
        self._batch_size = batch_size

    def __call__(self, *rows: np.ndarray, label: str | None = None) -> Any:
        """Runs it.

        Args:
          *rows: arrays with equally many rows, at least one.
          label: title of the progress bar, or None for no bar.

        Returns:
          The results of all rows in their order, as NumPy arrays.
        """
        count, devices = len(rows[0]), self._layout.mesh.size
        # Only powers of two, so that few programs are compiled for requests of different sizes.
        size = min(self._batch_size, 1 << math.ceil(math.log2(math.ceil(count / devices)))) * devices
        found, running = [], deque()
        with tqdm(total=count, desc=label, unit=" images", disable=label is None) as progress:

            def fetch() -> None:
                result, length = running.popleft()
                found.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:length], result))
                progress.update(length)

            for start in range(0, count, size):
                parts = [np.asarray(array[start : start + size]) for array in rows]
                # The last batch is padded, so that no other program is compiled for it.
                padded = [np.concatenate([part, part[[-1] * (size - len(part))]]) for part in parts]
                running.append(
                    (self._function(self._weights, *jax.device_put(padded, self._layout.batch)), len(parts[0]))
                )
                if len(running) > 1:  # while one batch runs, the next is prepared
                    fetch()
            while running:
                fetch()
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)
