"""Published figures of accelerators, and what a training step on them can and cannot be faster than."""

from __future__ import annotations

import dataclasses
import math

from rvae_jax.errors import UserError
from rvae_jax.hardware.memory import USABLE


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What the compiler asks of an NVIDIA GPU that is not there.

    Attributes:
      compute_capability: (major, minor).
      cores: streaming multiprocessors.
      fpus: float32 units of each.
      shared_memory: bytes that each has for its blocks.
      block_shared_memory: bytes of these that one block may have.
      l2_cache: bytes.
      clock_ghz: at most.
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
    """One chip.

    Attributes:
      name: what people call it.
      kind: what JAX calls it (``device_kind``).
      flops: peak of matrix products, 2 FLOP a multiply-add, without sparsity, by the type that they compute in.
      memory: bytes of its memory; of GPUs as CUDA counts them.
      bandwidth: bytes a second between it and its memory.
      link: bytes a second that it sends to its neighbours while it receives as many.
      source: where these are published.
      slices: of TPUs, shapes in chips that there are.
      usable: share of the memory that a program may rely on.
      gpu: of GPUs, the rest of what their compiler asks.
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
        """A GPU as a ``GpuTargetConfigProto`` in text format, which XLA compiles for."""
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
              {_OF_EVERY_GPU}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ {_version(_CUDNN)} }}
            runtime_version {{ {_version(_CUDA)} }}
            device_description_str: "{self.kind}"
        """


# Of the libraries whose programs a GPU's compiler may choose.
_CUDNN, _CUDA = (9, 10, 0), (12, 8, 0)
_OF_EVERY_GPU = """
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
# JAX takes so much of a GPU's memory when it starts, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
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

# TPUs multiply float32 as bfloat16 unless told otherwise (jax_default_matmul_precision), GPUs as TF32. Links are
# published for both directions together, as 3.2 Tbps or 400 GB/s; here is half of that. What CUDA says of GPUs is in
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
    """The chip of a TPU slice such as ``v5e:4x4`` or of GPUs in one machine such as ``h200:8``, and how many there are.

    Raises:
      UserError: there is no such slice or number, or it is not known here.
    """
    name, _, shape = topology.partition(":")
    accelerator = ACCELERATORS.get(name)
    if accelerator is None or (accelerator.gpu is None and not shape):
        slices, gpus = (
            ", ".join(name for name, each in ACCELERATORS.items() if bool(each.gpu) == are_gpus)
            for are_gpus in (False, True)
        )
        raise UserError(
            f"--topology={topology}: expected {slices} with a slice's shape in chips, such as v5e:4x4, or {gpus},"
            " alone or with how many there are in a machine, such as h200:8"
        )
    shapes = ("", *_GPUS_IN_ONE_MACHINE) if accelerator.gpu else accelerator.slices
    if shape not in shapes:
        raise UserError(f"--topology={topology}: expected one of {name}:{' '.join(filter(None, shapes))}")
    return accelerator, math.prod(int(size) for size in (shape or "1").split("x"))


def of_kind(device_kind: str) -> Accelerator | None:
    """The chip that JAX calls so, or None."""
    return next((each for each in ACCELERATORS.values() if each.kind == device_kind), None)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one step.

    Attributes:
      images: of the batch, that it has.
      flops: as the compiler counts them.
      bytes_accessed: from and to its memory, as the compiler counts them.
      bytes_reduced: that it has in all-reduces.
    """

    images: int
    flops: float
    bytes_accessed: float
    bytes_reduced: float


def all_reduce_seconds(size: float, devices: int, link: float) -> float:
    """Least time of an all-reduce over a ring: each device sends, and receives, ``2 (n - 1) / n`` of it."""
    return 2 * (devices - 1) / devices * size / link


def efficiency(work: Work, devices: int, *, flops: float, bandwidth: float, link: float) -> float:
    """Least share of ``devices`` single ones' speed: the exchange comes after all other work, which is at its peak.

    Slower work makes it better, and so does an exchange that goes on beside it. Arguments as in ``predict``.
    """
    alone = max(work.flops / flops, work.bytes_accessed / bandwidth)
    return alone / (alone + all_reduce_seconds(work.bytes_reduced, devices, link))


def predict(work: Work, devices: int, *, flops: float, bandwidth: float, link: float) -> tuple[float, float]:
    """Range of images a second, over all devices.

    The upper end is what the hardware's figures allow: arithmetic, memory and links each at its peak, all three at the
    same time. At the lower end they come one after the other, each at half of its peak.

    Args:
      work: of one device.
      devices: how many of them.
      flops: peak of one device.
      bandwidth: of its memory.
      link: of one device to its neighbours.
    """
    parts = [
        work.flops / flops,
        work.bytes_accessed / bandwidth,
        all_reduce_seconds(work.bytes_reduced, devices, link) if devices > 1 else 0.0,
    ]
    images = work.images * devices
    return images / (2 * sum(parts)), images / max(parts)


def factor_off(predicted: tuple[float, float], measured: float) -> float:
    """By which factor the middle (geometric mean) of a predicted range missed what was measured; at least 1."""
    middle = (predicted[0] * predicted[1]) ** 0.5
    return max(middle / measured, measured / middle)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A step that was measured, to see how good ``predict`` is.

    Attributes:
      machine: which, and by whom.
      what: configuration and batch.
      images_per_second: measured.
      predicted: what ``predict`` says.
    """

    machine: str
    what: str
    images_per_second: float
    predicted: tuple[float, float]


# The author's note gives 13 minutes for 24,000 images of 551 GFLOP, and NVIDIA 35.6 TFLOP/s of TF32; the memory traffic
# is not known and left out. The CPU's figures are those of `python -m rvae_jax.preflight` without a topology, in one
# run each: XLA's convolutions reach a fifth of what its matrix products do there.
MEASURED = (
    Measurement(
        "NVIDIA RTX 3090, the author's TensorFlow program",
        "the paper's network at 256x256, float32",
        30.8,
        predict(Work(1, 551e9, 0.0, 0.0), 1, flops=35.6e12, bandwidth=936e9, link=1.0),
    ),
    Measurement(
        "two cores of a CPU",
        "configs/orl.py, float32",
        54.0,
        predict(Work(8, 5.3e9, 638e6, 0.0), 1, flops=139e9, bandwidth=43.1e9, link=1.0),
    ),
    Measurement(
        "two cores of a CPU",
        "configs/celeba.py with a batch of 4, float32",
        0.231,
        predict(Work(4, 486e9, 11.27e9, 0.0), 1, flops=141e9, bandwidth=39.0e9, link=1.0),
    ),
)
