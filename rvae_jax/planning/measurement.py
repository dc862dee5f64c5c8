"""Times a compiled step, and the two kinds of work that bound it, on the local devices.

JAX is imported where it is used: the preflight's own process must not start it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rvae_jax.config import Config

if TYPE_CHECKING:
    import jax

    from rvae_jax.distributed.sharding import DataParallel
    from rvae_jax.training.program import Program

_TIMED_SECONDS = 3.0


def measure_step(config: Config, layout: DataParallel, compiled: jax.stages.Compiled, program: Program) -> float:
    """Seconds of the fastest of several steps on random images."""
    import jax
    import numpy as np

    from rvae_jax.training.frozen import load_frozen

    rng = np.random.default_rng(0)
    state = _random_state(program, layout, rng)
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=layout.replicated)()
    images = rng.integers(0, 256, (config.batch_size, *config.model.image_shape), np.uint8)
    (batch,) = layout.to_devices([images])
    frozen, seconds = layout.replicate(load_frozen(config)), []
    while len(seconds) < 3 or sum(seconds) < _TIMED_SECONDS:
        began = time.monotonic()
        state, _ = jax.block_until_ready(compiled(state, batch, key, *frozen))
        seconds.append(time.monotonic() - began)
    return min(seconds[1:])


def _random_state(program: Program, layout: DataParallel, rng: Any) -> Any:
    """A state with random weights; the program of the real first state would take as long to compile as the step."""
    import jax
    import numpy as np

    shapes = program.state_shapes()
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    for player in (state.vae, state.discriminator):
        for leaf in jax.tree.leaves(player and player.params):
            leaf[...] = rng.normal(0, 0.05, leaf.shape)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, layout.with_shardings(shapes))
    return jax.tree.map(jax.device_put, state, shardings)


def measure_peaks(dtype: str) -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes per second of a copy, on one device."""
    import jax
    import jax.numpy as jnp

    device = jax.local_devices()[0]
    size = 2048 if device.platform == "cpu" else 8192
    # Random numbers, since GPUs multiply ones faster than data: by a fifth on an H200.
    matrix = jax.device_put(jax.random.normal(jax.random.key(0), (size, size), dtype), device)
    product = jax.jit(lambda matrix: jnp.matmul(matrix, matrix))
    vector = jax.device_put(jnp.ones(2**26, jnp.float32), device)
    # In place, since allocating the result would take time in each call.
    copy = jax.jit(lambda vector: vector + 1, donate_argnums=0)
    return 2 * size**3 / _least_seconds(product, matrix), 2 * vector.nbytes / _least_seconds(copy, vector)


def _least_seconds(function: Callable[[Any], Any], array: Any) -> float:
    """Seconds of the fastest of ten calls; a function that consumes its argument gets its own last result."""
    import jax

    seconds = []
    for _ in range(11):
        began = time.monotonic()
        result = jax.block_until_ready(function(array))
        seconds.append(time.monotonic() - began)
        array = result if array.is_deleted() else array
    return min(seconds[1:])
