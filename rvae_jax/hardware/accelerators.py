"""Published figures of accelerators, and the topologies that they come in."""

from __future__ import annotations

import dataclasses
import math

from rvae_jax.errors import UserError
from rvae_jax.hardware.memory import USABLE


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA must know of an NVIDIA GPU to compile for it without one.

    Attributes:
      compute_capability: (major, minor).
      cores: streaming multiprocessors.
      fpus: float32 units per core.
      shared_memory: bytes of shared memory per core.
      block_shared_memory: largest share of it that one block may use, in bytes.
      l2_cache: bytes.
      clock_ghz: highest clock rate.
    """

    compute_capability: tuple[int, int]
    cores: int
    fpus: int
    shared_memory: int
    block_shared_memory: int
    l2_cache: int
    clock_ghz: float


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """The published figures of one chip.

    Attributes:
      name: common name.
      kind: JAX's name (``device_kind``).
      flops: peak FLOP/s of dense matrix products, 2 FLOP per multiply-add, by data type.
      memory: bytes of device memory; for GPUs as CUDA reports it.
      bandwidth: bytes per second between the chip and its memory.
      link: bytes per second that it sends to its neighbours while it receives as many.
      source: where these figures are published.
      slices: shapes in chips of the available TPU slices; empty for GPUs.
      usable: share of the memory that a program may rely on.
      gpu: what XLA must know besides; None for TPUs.
    """

    name: str
    kind: str
    flops: dict[str, float]
    memory: float
    bandwidth: float
    link: float
    source: str
    slices: tuple[str, ...] = ()
    usable: float = USABLE
    gpu: Gpu | None = None

    @property
    def target_config(self) -> str:
        """The GPU as a ``GpuTargetConfigProto`` in text format, for XLA to compile for."""
        gpu = self.gpu
        return f"""
            gpu_device_info {{
              cuda_compute_capability {{ major: {gpu.compute_capability[0]} minor: {gpu.compute_capability[1]} }}
              core_count: {gpu.cores}
              fpus_per_core: {gpu.fpus}
              shared_memory_per_core: {gpu.shared_memory}
              shared_memory_per_block_optin: {gpu.block_shared_memory}
              l2_cache_size: {gpu.l2_cache}
              clock_rate_ghz: {gpu.clock_ghz}
              device_memory_size: {self.memory}
              memory_bandwidth: {self.bandwidth:.0f}
              {_SHARED_BY_ALL_GPUS}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ {_version(_CUDNN)} }}
            runtime_version {{ {_version(_CUDA)} }}
            device_description_str: "{self.kind}"
        """


# Versions of the libraries whose kernels XLA may choose on a GPU.
_CUDNN, _CUDA = (9, 10, 0), (12, 8, 0)
_SHARED_BY_ALL_GPUS = """
              threads_per_block_limit: 1024
              threads_per_warp: 32
              threads_per_core_limit: 2048
              shared_memory_per_block: 49152
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
"""


def _version(parts: tuple[int, int, int]) -> str:
    return " ".join(f"{name}: {part}" for name, part in zip(("major", "minor", "patch"), parts, strict=True))


_GIB = 2**30
_GPUS_IN_ONE_MACHINE = ("1", "2", "4", "8")
# The share of a GPU's memory that JAX reserves when it starts, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
_JAX_SHARE = 0.75
_HOPPER = Gpu(
    (9, 0),
    cores=132,
    fpus=128,
    shared_memory=228 * 2**10,
    block_shared_memory=227 * 2**10,
    l2_cache=50 * 2**20,
    clock_ghz=1.98,
)
_AMPERE = Gpu(
    (8, 0),
    cores=108,
    fpus=64,
    shared_memory=164 * 2**10,
    block_shared_memory=163 * 2**10,
    l2_cache=40 * 2**20,
    clock_ghz=1.41,
)
_FLAT_SLICES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC_SLICES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

# By default (jax_default_matmul_precision) TPUs multiply float32 as bfloat16, GPUs as TF32. Links are published for
# both directions together, as 3.2 Tbps or 400 GB/s; `link` is half of that. What CUDA reports of a GPU is taken from
# https://github.com/openxla/xla/tree/main/xla/backends/gpu/target_config/specs.
ACCELERATORS = {
    "v5e": Accelerator(
        "TPU v5e",
        "TPU v5 lite",
        {"bfloat16": 197e12, "float32": 197e12},
        memory=16 * _GIB,
        bandwidth=819e9,
        link=200e9,
        source="https://docs.cloud.google.com/tpu/docs/v5e",
        slices=_FLAT_SLICES,
    ),
    "v5p": Accelerator(
        "TPU v5p",
        "TPU v5",
        {"bfloat16": 459e12, "float32": 459e12},
        memory=95 * _GIB,
        bandwidth=2765e9,
        link=600e9,
        source="https://docs.cloud.google.com/tpu/docs/v5p",
        slices=_CUBIC_SLICES,
    ),
    "v6e": Accelerator(
        "TPU v6e",
        "TPU v6 lite",
        {"bfloat16": 918e12, "float32": 918e12},
        memory=32 * _GIB,
        bandwidth=1638e9,
        link=400e9,
        source="https://docs.cloud.google.com/tpu/docs/v6e",
        slices=_FLAT_SLICES,
    ),
    "h100": Accelerator(
        "NVIDIA H100 SXM",
        "NVIDIA H100 80GB HBM3",
        {"bfloat16": 989e12, "float32": 495e12},
        memory=84_942_979_072,
        bandwidth=3350e9,
        link=450e9,
        source="https://www.nvidia.com/en-us/data-center/h100",
        usable=_JAX_SHARE,
        gpu=_HOPPER,
    ),
    "h200": Accelerator(
        "NVIDIA H200 SXM",
        "NVIDIA H200",
        {"bfloat16": 989e12, "float32": 495e12},
        memory=151_397_597_184,
        bandwidth=4800e9,
        link=450e9,
        source="https://www.nvidia.com/en-us/data-center/h200",
        usable=_JAX_SHARE,
        gpu=_HOPPER,
    ),
    "a100": Accelerator(
        "NVIDIA A100 SXM",
        "NVIDIA A100-SXM4-80GB",
        {"bfloat16": 312e12, "float32": 156e12},
        memory=85_100_068_864,
        bandwidth=2039e9,
        link=300e9,
        source="https://www.nvidia.com/en-us/data-center/a100",
        usable=_JAX_SHARE,
        gpu=_AMPERE,
    ),
}


def of_topology(topology: str) -> tuple[Accelerator, int]:
    """The chip of a topology and the number of chips.

    Args:
      topology: a TPU slice such as ``v5e:4x4``, or GPUs in one machine such as ``h200`` or ``h200:8``.

    Raises:
      UserError: the chip is not in ``ACCELERATORS``, or does not come in this shape or number.
    """
    name, _, shape = topology.partition(":")
    accelerator = ACCELERATORS.get(name)
    if accelerator is None or (accelerator.gpu is None and not shape):
        slices, gpus = (
            ", ".join(name for name, each in ACCELERATORS.items() if bool(each.gpu) == are_gpus)
            for are_gpus in (False, True)
        )
        raise UserError(
            f"--topology={topology}: expected {slices} with a slice's shape in chips, such as v5e:4x4, or {gpus}"
            " with the number of GPUs in one machine, such as h200:8 (1 by default)"
        )
    shapes = ("", *_GPUS_IN_ONE_MACHINE) if accelerator.gpu else accelerator.slices
    if shape not in shapes:
        raise UserError(f"--topology={topology}: expected one of {name}:{' '.join(filter(None, shapes))}")
    return accelerator, math.prod(int(size) for size in (shape or "1").split("x"))


def of_kind(device_kind: str) -> Accelerator | None:
    """The chip with this ``device_kind``, or None if it is not in ``ACCELERATORS``."""
    return next((each for each in ACCELERATORS.values() if each.kind == device_kind), None)
