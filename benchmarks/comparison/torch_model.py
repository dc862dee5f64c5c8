"""What the models in PyTorch share: images to tensors and back, and encoding and decoding in batches."""

from __future__ import annotations

import abc

import numpy as np
import torch

from benchmarks.comparison.model import Model
from rvae_jax.data.pixels import to_uint8

BATCH = 64


class TorchModel(Model):
    """A VAE in PyTorch, whose images are floats ``[n, C, H, W]``, from ``low`` to 1."""

    packages: tuple[str, ...] = ("torch",)
    low = -1.0

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed

    @abc.abstractmethod
    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and log variances of a batch, in evaluation."""

    @abc.abstractmethod
    def images(self, z: torch.Tensor) -> torch.Tensor:
        """Images of a batch of codes, in evaluation."""

    def to_tensor(self, images: np.ndarray) -> torch.Tensor:
        """uint8 ``[..., H, W, C]`` as floats ``[..., C, H, W]``."""
        x = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).float() / 255
        return x * (1 - self.low) + self.low

    def encode(self, images: np.ndarray, label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            parts = [self.posterior(self.to_tensor(part)) for part in _parts(images)]
        mean, log_var = zip(*parts, strict=True)
        return torch.cat(mean).numpy(), torch.cat(log_var).numpy()

    def decode(self, codes: np.ndarray, label: str | None = None) -> np.ndarray:
        with torch.inference_mode():
            x = torch.cat([self.images(torch.from_numpy(part)) for part in _parts(codes)])
        scaled = (x - self.low) / (1 - self.low) * 2 - 1
        return to_uint8(scaled.movedim(-3, -1).numpy())


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
