"""How fast a training step can be on hardware with published figures, and how well that prediction has done."""

from __future__ import annotations

import dataclasses
import math

from rvae_jax.hardware.accelerators import ACCELERATORS


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one step.

    Attributes:
      images: its share of the batch.
      flops: FLOPs, as the compiler counts them.
      bytes_accessed: bytes read from and written to its memory, as the compiler counts them.
      bytes_reduced: bytes of its all-reduces.
    """

    images: int
    flops: float
    bytes_accessed: float
    bytes_reduced: float


def all_reduce_seconds(size: float, devices: int, link: float) -> float:
    """Least time of an all-reduce over a ring: each device sends and receives ``2 (n - 1) / n`` times the size."""
    return 2 * (devices - 1) / devices * size / link


def efficiency(work: Work, devices: int, *, flops: float, bandwidth: float, link: float) -> float:
    """Least speed of ``devices`` devices, as a share of that many single ones.

    Assumes that all other work runs at its peak and that the exchange starts only after it. Slower work, or an exchange
    that overlaps with it, makes the efficiency better. Arguments are those of ``predict``.
    """
    alone = max(work.flops / flops, work.bytes_accessed / bandwidth)
    return alone / (alone + all_reduce_seconds(work.bytes_reduced, devices, link))


def predict(work: Work, devices: int, *, flops: float, bandwidth: float, link: float = math.inf) -> tuple[float, float]:
    """Predicts the range of images per second of all devices together.

    At the upper end arithmetic, memory and links run at their peaks, all three at the same time. At the lower end they
    run one after the other, each at half of its peak.

    Args:
      work: of one device.
      devices: how many devices share the batch.
      flops: peak FLOP/s of one device.
      bandwidth: bytes per second of its memory.
      link: bytes per second to its neighbours; not needed for one device.
    """
    parts = (
        work.flops / flops,
        work.bytes_accessed / bandwidth,
        all_reduce_seconds(work.bytes_reduced, devices, link),
    )
    images = work.images * devices
    return images / (2 * sum(parts)), images / max(parts)


def factor_off(predicted: tuple[float, float], measured: float) -> float:
    """The factor, at least 1, between the geometric mean of a predicted range and the measured speed."""
    middle = (predicted[0] * predicted[1]) ** 0.5
    return max(middle / measured, measured / middle)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A measured step, to test ``predict`` with.

    Attributes:
      machine: the accelerator and the program.
      step: network, batch and data type.
      images_per_second: the measured speed.
      predicted: the range that ``predict`` gives.
    """

    machine: str
    step: str
    images_per_second: float
    predicted: tuple[float, float]


_H200 = ACCELERATORS["h200"]

# The author reports 13 minutes for 24,000 images of 551 GFLOP each, NVIDIA 35.6 TFLOP/s of TF32; the memory traffic of
# his program is not known and left out. Speed, work and traffic on the H200 are those of docs/performance.md.
MEASURED = (
    Measurement(
        "NVIDIA RTX 3090, the author's TensorFlow program",
        "the paper's network at 256x256, float32",
        30.8,
        predict(Work(1, 551e9, 0.0, 0.0), 1, flops=35.6e12, bandwidth=936e9),
    ),
    Measurement(
        "NVIDIA H200",
        "configs/celeba_hq.py with a batch of 32, bfloat16",
        740.0,
        predict(Work(32, 32 * 493e9, 32 * 2.66e9, 0.0), 1, flops=_H200.flops["bfloat16"], bandwidth=_H200.bandwidth),
    ),
)
