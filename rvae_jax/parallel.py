"""How a run is laid out over devices: the batch is split, the state is whole on each."""

from collections import deque
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def data_parallel() -> tuple[NamedSharding, NamedSharding]:
    """Shardings over all devices: one that splits the leading axis, one that replicates.

    Under ``jit`` with these, the batch is one global array: its moments and statistics are those of the whole batch.
    """
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())


def to_devices(batches: Iterable[np.ndarray], sharding: NamedSharding, ahead: int = 2) -> Iterator[jax.Array]:
    """Global batches from each process's part of them, put on the devices ``ahead`` of their use."""
    waiting: deque[jax.Array] = deque()
    for batch in batches:
        waiting.append(jax.make_array_from_process_local_data(sharding, batch))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def describe_devices() -> str:
    """One line such as ``2 x TPU v5e (tpu)``."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
