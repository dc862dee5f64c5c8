"""How a run is laid out over devices: the batch is split, the state is whole on each."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def data_parallel() -> tuple[NamedSharding, NamedSharding]:
    """Shardings over all devices: one that splits the leading axis, one that replicates.

    Under ``jit`` with these, the batch is one global array: its moments and statistics are those of the whole batch.
    """
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())


def describe_devices() -> str:
    """One line such as ``2 x TPU v5e (tpu)``."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
