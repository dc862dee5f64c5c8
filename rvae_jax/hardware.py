"""Published figures of accelerators, and what a training step on them can and cannot be faster than."""

from __future__ import annotations

import dataclasses
import math

from rvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One chip.

    Attributes:
      name: what people call it.
      kind: what JAX calls it (``device_kind``).
      flops: peak of matrix products, 2 FLOP a multiply-add, without sparsity, by the type that they compute in.
      memory: bytes of its memory.
      bandwidth: bytes a second between it and its memory.
      link: bytes a second that it sends to its neighbours while it receives as many.
      source: where these are published.
      slices: shapes in chips that there are; empty for what comes as single chips.
    """

    name: str
    kind: str
    flops: dict[str, float]
    memory: float
    bandwidth: float
    link: float
    source: str
    slices: tuple[str, ...] = ()


_GIB = 2**30
_FLAT_SLICES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC_SLICES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

# TPUs multiply float32 as bfloat16 unless told otherwise (jax_default_matmul_precision), GPUs as TF32. Links are
# published for both directions together, as 3.2 Tbps or 400 GB/s; here is half of that.
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
        memory=80e9,
        bandwidth=3350e9,
        link=450e9,
        source="https://www.nvidia.com/en-us/data-center/h100",
    ),
    "h200": Accelerator(
        "NVIDIA H200 SXM",
        "NVIDIA H200",
        {"bfloat16": 989e12, "float32": 495e12},
        memory=141e9,
        bandwidth=4800e9,
        link=450e9,
        source="https://www.nvidia.com/en-us/data-center/h200",
    ),
    "a100": Accelerator(
        "NVIDIA A100 SXM",
        "NVIDIA A100-SXM4-80GB",
        {"bfloat16": 312e12, "float32": 156e12},
        memory=80e9,
        bandwidth=2039e9,
        link=300e9,
        source="https://www.nvidia.com/en-us/data-center/a100",
    ),
}


def of_topology(topology: str) -> tuple[Accelerator, int]:
    """The chip of a TPU slice such as ``v5e:4x4``, and how many it has.

    Raises:
      UserError: there is no such slice, or it is not known here.
    """
    generation, _, shape = topology.partition(":")
    accelerator = ACCELERATORS.get(generation)
    if accelerator is None or not accelerator.slices:
        known = ", ".join(name for name, each in ACCELERATORS.items() if each.slices)
        raise UserError(f"--topology={topology}: expected {known} with a slice's shape in chips, such as v5e:4x4")
    if shape not in accelerator.slices:
        raise UserError(f"--topology={topology}: expected one of {generation}:{' '.join(accelerator.slices)}")
    return accelerator, math.prod(int(size) for size in shape.split("x"))


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
