"""The devices that a step is compiled for: those of this machine, or a topology that may not be here."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util

from rvae_jax.errors import UserError, install
from rvae_jax.hardware import accelerators, memory
from rvae_jax.hardware.accelerators import Accelerator

# TPUs lay out a batch in groups of 8 images. A batch that is not a multiple of 8 takes more time and memory than the
# next multiple.
GROUP = 8
# Larger slices are computed from one of these, of 16 chips, by the number of "x" in their shape.
_REFERENCE = {1: "4x4", 2: "2x2x4"}


@dataclasses.dataclass(frozen=True)
class Target:
    """What a step is compiled for.

    Attributes:
      devices: number of devices.
      topology: such as ``v5e:4x4`` or ``h200:8``; None for the local devices.
      accelerator: the chip of the topology.
      reference: the topology that is compiled for in place of ``topology``, since each chip's program is the same.
    """

    devices: int
    topology: str | None = None
    accelerator: Accelerator | None = None
    reference: str | None = None

    @property
    def is_tpu(self) -> bool:
        """Whether it is a TPU slice."""
        return self.accelerator is not None and self.accelerator.gpu is None

    @property
    def usable(self) -> float:
        """The share of a device's memory that a step may rely on."""
        return self.accelerator.usable if self.accelerator else memory.USABLE


def of_topology(topology: str, *, shard_optimizer: bool) -> Target:
    """A topology as the target.

    Args:
      topology: as ``accelerators.of_topology`` takes it.
      shard_optimizer: whether the optimizer's state is split over the chips, so that a chip's program depends on how
        many there are.

    Raises:
      UserError: the topology is wrong.
    """
    accelerator, devices = accelerators.of_topology(topology)
    reference = topology
    if devices > 16 and not shard_optimizer:
        generation, _, shape = topology.partition(":")
        reference = f"{generation}:{_REFERENCE[shape.count('x')]}"
    return Target(devices, topology, accelerator, reference)


def require_compiler(accelerator: Accelerator) -> None:
    """Raises unless the compiler for a device that may not be here is installed.

    Raises:
      UserError: it is not.
    """
    if accelerator.gpu is None:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(f"--topology: needs the TPU compiler, even without a TPU; {install('tpu')}")
    elif not any("cuda" in plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")):
        raise UserError(f"--topology: needs JAX's CUDA plugin, even without a GPU; {install('cuda')}")
