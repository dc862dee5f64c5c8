"""How a run is laid out over devices: the batch is split, and each device has all of the state.

There is one training step and two styles of running it on every device of every process. Between steps both hold the
same global arrays, so that a run can go on in the other style, and on another number of devices.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rvae_jax.hardware.xla_options import compiler_options

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Data parallelism over a mesh with one axis.

    Attributes:
      mesh: the devices of all processes; those of one process are neighbours.
      style: ``jit``: the step sees the complete batch as one array, and the compiler splits it; the networks have no
        axis name, and all moments and statistics are those of the complete batch. ``pmap``: the step sees one device's
        part of the batch, and averages over the networks' axis name.
      shard_optimizer: whether each device keeps a part of the optimizer's state (ZeRO-1); with ``jit`` only.
    """

    mesh: Mesh
    style: Literal["jit", "pmap"] = "jit"
    shard_optimizer: bool = False

    @property
    def axis_name(self) -> str | None:
        """The axis name for the networks in this style."""
        return AXIS if self.style == "pmap" else None

    @property
    def batch(self) -> NamedSharding:
        """The sharding that splits the leading axis."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def replicated(self) -> NamedSharding:
        """The sharding that puts all of an array on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def compiler_options(self) -> dict[str, str]:
        """XLA's options for programs on these devices, for ``jax.jit`` or ``Lowered.compile``."""
        return compiler_options(self.platform)

    @property
    def platform(self) -> str:
        """``cpu``, ``gpu`` or ``tpu``."""
        return self.mesh.devices.flat[0].platform

    def with_shardings(self, shapes: Any) -> Any:
        """Shapes of a training state, each with the sharding that it has in training."""

        def with_sharding(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
            in_optimizer = any(getattr(key, "name", None) == "opt_state" for key in path)
            sharding = self._of_optimizer(leaf.shape) if in_optimizer else self.replicated
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree_util.tree_map_with_path(with_sharding, shapes)

    def _of_optimizer(self, shape: tuple[int, ...]) -> NamedSharding:
        """Splits the longest axis that the devices divide, if there is one."""
        divisible = [axis for axis, size in enumerate(shape) if size % self.mesh.size == 0]
        if not self.shard_optimizer or not divisible:
            return self.replicated
        longest = max(divisible, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, AXIS))

    def lower(
        self,
        train_step: Callable[..., tuple[Any, Any]],
        state: Any,
        batch: Any,
        key: jax.Array,
        *frozen: Any,
    ) -> jax.stages.Lowered:
        """Traces a training step for these devices; compiled with ``compiler_options``, it is what training calls.

        Args:
          train_step: ``(state, images, key, *frozen) -> (state, metrics)``, see ``step.make_train_step``.
          state: the state, or shapes with shardings; the compiled step donates the state that it is given.
          batch: a batch from ``to_devices``; with ``jit`` its shape is enough.
          key: the run's random key.
          frozen: further arguments, the same on all devices.
        """
        if self.style == "pmap":
            # State and metrics have no leading axis of devices: they come out replicated, as the state went in.
            mapped = jax.pmap(
                train_step,
                AXIS,
                in_axes=(None, 0, None, *(None for _ in frozen)),
                out_axes=None,
                donate_argnums=0,
                devices=list(self.mesh.devices),
            )
            return mapped.lower(state, batch, key, *frozen)
        of_state = jax.tree.map(lambda leaf: leaf.sharding, state)
        return jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(of_state, self.batch, self.replicated, *(self.replicated for _ in frozen)),
            out_shardings=(of_state, self.replicated),
        ).lower(state, batch, key, *frozen)

    def replicate(self, tree: Any) -> Any:
        """Global arrays of a tree of NumPy arrays that all processes have; each device has all of them."""
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(self.replicated, leaf), tree)

    def to_devices(self, batches: Iterable[np.ndarray], ahead: int = 2) -> Iterator[jax.Array]:
        """Global batches, from this process's part of each, put on the devices ``ahead`` batches before their use."""
        waiting: deque[jax.Array] = deque()
        for batch in batches:
            if self.style == "pmap":
                batch = batch.reshape(len(self.mesh.local_devices), -1, *batch.shape[1:])
            waiting.append(self.split(batch))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

    def split(self, rows: np.ndarray) -> jax.Array:
        """The global array of the rows of all processes, of which this one has ``rows``; all have equally many."""
        return jax.make_array_from_process_local_data(self.batch, rows)


def data_parallel(
    style: Literal["jit", "pmap"] = "jit",
    *,
    shard_optimizer: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> DataParallel:
    """Data parallelism over ``devices``, by default all devices of all processes."""
    # The rows of a batch are dealt out in this order, and a process reads neighbouring rows. The order does not matter
    # to an all-reduce over all devices.
    in_order = sorted(jax.devices() if devices is None else devices, key=lambda each: (each.process_index, each.id))
    return DataParallel(Mesh(np.array(in_order), (AXIS,), axis_types=(AxisType.Auto,)), style, shard_optimizer)


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of this process, of a global array that is split by its leading axis."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def describe_devices(devices: Sequence[jax.Device]) -> str:
    """One line such as ``2 x TPU v5e (tpu)``."""
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
