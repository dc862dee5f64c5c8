"""A plain convolutional VAE in PyTorch, of the size and with the settings that PyTorch-VAE publishes for VanillaVAE.

Its layers and its KL weight are that project's (MIT, https://github.com/AntixK/PyTorch-VAE); the code is ours. The
learning rate, 2e-3 with a cosine over the budget, is not: with 5e-3 and 0.95 an epoch, as published, a run of minutes
would end at a high rate.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.comparison.arms import LATENT_DIM
from benchmarks.comparison.cpu_time import Clock
from benchmarks.comparison.torch_model import BATCH, TorchModel

CHANNELS = (32, 64, 128, 256, 512)
KL_WEIGHT = 0.00025
LEARNING_RATE = 2e-3


class VAE(nn.Module):
    """Five convolutions of stride 2 down and up, each with batch normalisation; images in [-1, 1].

    The sizes of the image must be multiples of 32.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.size = CHANNELS[-1], height // 32, width // 32
        flat = math.prod(self.size)
        down = [_block(nn.Conv2d(a, b, 3, 2, 1)) for a, b in itertools.pairwise((channels, *CHANNELS))]
        up = [_block(_double(a, b)) for a, b in itertools.pairwise((*CHANNELS[::-1], CHANNELS[0]))]
        self.down, self.up = nn.Sequential(*down, nn.Flatten()), nn.Sequential(*up)
        self.mean, self.log_var = nn.Linear(flat, LATENT_DIM), nn.Linear(flat, LATENT_DIM)
        self.start, self.end = nn.Linear(LATENT_DIM, flat), nn.Conv2d(CHANNELS[0], channels, 3, 1, 1)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and log variances."""
        features = self.down(x)
        return self.mean(features), self.log_var(features)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images."""
        return torch.tanh(self.end(self.up(self.start(z).view(-1, *self.size))))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """The mean squared error over all numbers, plus the weighted KL of each image."""
        mean, log_var = self.encode(x)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = 0.5 * torch.sum(mean**2 + torch.exp(log_var) - 1 - log_var, 1).mean()
        return F.mse_loss(self.decode(z), x) + KL_WEIGHT * kl


def _double(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1)


def _block(resize: nn.Module) -> nn.Sequential:
    return nn.Sequential(resize, nn.BatchNorm2d(resize.out_channels), nn.LeakyReLU())


class PyTorchVAE(TorchModel):
    """Adam, batches of 64; the learning rate falls along a cosine of the used share of the CPU seconds."""

    def train(self, images: np.ndarray, clock: Clock) -> tuple[int, int]:
        self.vae = VAE(*images.shape[1:]).train()
        optimizer = torch.optim.Adam(self.vae.parameters(), LEARNING_RATE)
        rng, batch = np.random.default_rng(self.seed), min(BATCH, len(images))
        steps = 0
        while True:
            order = rng.permutation(len(images))
            for start in range(0, len(order) - batch + 1, batch):
                x = self.to_tensor(images[order[start : start + batch]])
                mirrored = torch.from_numpy(rng.random(batch) < 0.5)
                x[mirrored] = x[mirrored].flip(-1)
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * clock.share()))
                optimizer.zero_grad()
                self.vae.loss(x).backward()
                optimizer.step()
                steps += 1
                if clock.is_up():
                    self.vae.eval()
                    return steps * batch, steps

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vae.encode(x)

    def images(self, z: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(z)
