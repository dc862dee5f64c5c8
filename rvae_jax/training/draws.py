"""Random numbers of a batch: an image at one place in it meets the same ones, however the batch is laid out."""

from __future__ import annotations

from collections.abc import Callable

import jax


def rows_of_batch(
    draw: Callable[[jax.Array, tuple[int, ...]], jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
    axis_name: str | None,
) -> jax.Array:
    """Draws for the whole batch; under ``axis_name``, returns a device's rows of them.

    Args:
      draw: such as ``jax.random.normal``.
      key: equal on all devices.
      shape: of the result, ``[b, ...]``.
      axis_name: mapped axis over which the batch is split, or None.
    """
    if axis_name is None:
        return draw(key, shape)
    rows = shape[0]
    everything = draw(key, (rows * jax.lax.axis_size(axis_name), *shape[1:]))
    return jax.lax.dynamic_slice_in_dim(everything, rows * jax.lax.axis_index(axis_name), rows)
