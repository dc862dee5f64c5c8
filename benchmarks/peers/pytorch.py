"""The same networks, losses and step in idiomatic, fast PyTorch.

Uses ``channels_last``, bfloat16 by autocast, ``torch.compile``, the fused Adam and one pass through the VAE for both
players, and reads nothing back between steps. Modules are named as in ``rvae_jax.models``, to match weights by name.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import Peer
from rvae_jax.config import Config

NORM_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


class Norm(nn.BatchNorm2d):
    """Batch normalisation with stored statistics, also in training."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)
        self.eval()

    def train(self, mode: bool = True) -> Norm:
        return super().train(False)


class ConvTranspose(nn.ConvTranspose2d):
    """A transposed 3x3 convolution with stride 2, aligned as Keras's "same"."""

    def __init__(self, filters_in: int, filters_out: int) -> None:
        super().__init__(filters_in, filters_out, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :, :-1, :-1]


class Tri(nn.Module):
    """Three convolutions after norms and ReLUs."""

    def __init__(self, filters_in: int, filters: int, stride: int = 1) -> None:
        super().__init__()
        self.bn_1, self.conv_1 = Norm(filters_in), nn.Conv2d(filters_in, filters, 3, padding=1)
        self.bn_2, self.conv_2 = Norm(filters), nn.Conv2d(filters, filters, 3, padding=1)
        self.bn_3, self.conv_3 = Norm(filters), nn.Conv2d(filters, filters, 1, stride=stride)

    def _tri(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_1(F.relu(self.bn_1(x)))
        x = self.conv_2(F.relu(self.bn_2(x)))
        return self.conv_3(F.relu(self.bn_3(x)))


class Identity(Tri):
    """Residual block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._tri(x)


class Down(Tri):
    """Residual block that halves height and width."""

    def __init__(self, filters_in: int, filters: int) -> None:
        super().__init__(filters_in, filters, stride=2)
        self.bn_4, self.conv_4 = Norm(filters_in), nn.Conv2d(filters_in, filters, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._tri(x) + self.conv_4(F.relu(self.bn_4(x)))


class Up(nn.Module):
    """Residual block that doubles height and width."""

    def __init__(self, filters_in: int, filters: int) -> None:
        super().__init__()
        self.bn_1, self.conv_1 = Norm(filters_in), nn.Conv2d(filters_in, filters, 1)
        self.bn_2, self.convt_2 = Norm(filters), ConvTranspose(filters, filters)
        self.bn_3, self.convt_3 = Norm(filters_in), ConvTranspose(filters_in, filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_1(F.relu(self.bn_1(x)))
        return self.convt_2(F.relu(self.bn_2(h))) + self.convt_3(F.relu(self.bn_3(x)))


class Stages(nn.Module):
    """The stem and stages of an encoder or decoder."""

    def __init__(self, filters_in: int, filters: tuple[int, ...], blocks: int, resize: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(filters_in, filters[0], 3, padding=1)
        for stage, (before, after) in enumerate(itertools.pairwise(filters)):
            parts = {f"identity_{i}": Identity(before, before) for i in range(blocks)}
            parts[resize.__name__.lower()] = resize(before, after)
            self.add_module(f"stage_{stage}", nn.Sequential())
            for name, part in parts.items():
                self.get_submodule(f"stage_{stage}").add_module(name, part)
        self.count = len(filters) - 1

    def _stages(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in range(self.count):
            x = self.get_submodule(f"stage_{stage}")(x)
        return x


class InputNorm(nn.Module):
    """Normalises each channel of each image; ``[H, W]`` parameters."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-3) * self.gamma + self.beta


class Encoder(Stages):
    """Images to features."""

    def __init__(self, config: Config) -> None:
        model = config.model
        super().__init__(model.image_shape[2], model.encoder_filters, model.encoder_identity_blocks, Down)
        self.norm = InputNorm(model.image_shape[:2]) if model.input_norm else nn.Identity()
        self.head = nn.Conv2d(model.encoder_filters[-1], model.latent_dim // 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self._stages(self.norm(x)))


class Decoder(Stages):
    """Codes to images."""

    def __init__(self, config: Config) -> None:
        model = config.model
        filters, channels = model.decoder_filters, model.latent_dim // 8
        super().__init__(channels, filters, model.decoder_identity_blocks, Up)
        height, width = (size >> (len(filters) - 1) for size in model.image_shape[:2])
        self.size = height, width, channels
        self.dense = nn.Linear(model.latent_dim, height * width * channels)
        self.head = nn.Conv2d(filters[-1], model.image_shape[2], 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.dense(z).view(-1, *self.size).permute(0, 3, 1, 2)  # stays channels-last in memory
        return self.head(self._stages(x)).float()


class VAE(nn.Module):
    """Encoder, sampler, decoder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model = config.model
        reduction = 2 ** (len(model.encoder_filters) - 1)
        flat = model.image_shape[0] * model.image_shape[1] // reduction**2 * (model.latent_dim // 8)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.sampler = nn.Module()
        self.sampler.z_mean = nn.Linear(flat, model.latent_dim)
        self.sampler.z_log_var = nn.Linear(flat, model.latent_dim)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.encoder(x).permute(0, 2, 3, 1).flatten(1)
        mean, log_var = self.sampler.z_mean(features).float(), self.sampler.z_log_var(features).float()
        return self.decoder(mean + torch.exp(0.5 * log_var) * noise), mean, log_var


class Discriminator(nn.Module):
    """Images to logits of patches."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model = config.model
        before = model.image_shape[2]
        self.strides = model.discriminator_strides
        for i, (filters, stride) in enumerate(zip(model.discriminator_filters, self.strides, strict=True)):
            layer = nn.Module()
            layer.conv = nn.Conv2d(before, filters, 3, stride=stride, padding=1 if stride == 1 else 0)
            layer.bn = Norm(filters)
            self.add_module(f"layer_{i}", layer)
            before = filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, stride in enumerate(self.strides):
            layer = self.get_submodule(f"layer_{i}")
            x = layer.bn(layer.conv(x if stride == 1 else F.pad(x, (0, 1, 0, 1))))
            if i < len(self.strides) - 1:
                x = F.leaky_relu(x, 0.3)
        return x.float()


class PyTorch(Peer):
    """The training step."""

    name = "PyTorch"
    compiled = True

    def __init__(self, config: Config, arrays: dict[str, np.ndarray]) -> None:
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        self.players = {"vae": VAE(config), "discriminator": Discriminator(config)}
        for name, player in self.players.items():
            for key, value in player.state_dict().items():
                if not key.endswith("num_batches_tracked"):
                    ours = our_name(name, player, key)
                    value.copy_(to_torch(ours, arrays[ours]))
            player.to(self.device, memory_format=torch.channels_last)
        options = config.optimizer
        self.optimizers = [
            torch.optim.Adam(
                player.parameters(), options.learning_rate, (options.beta1, options.beta2), options.epsilon, fused=True
            )
            for player in self.players.values()
        ]
        self.images = torch.from_numpy(arrays["images"]).to(self.device)
        self.noise = torch.from_numpy(arrays["noise"]).to(self.device)
        self._losses = torch.compile(self.losses) if self.compiled else self.losses

    def losses(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of both players' losses, and their terms: reconstruction, KL, regularizer, generator, discriminator."""
        vae, discriminator = self.players["vae"], self.players["discriminator"]
        loss = self.config.loss
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.model.dtype == "bfloat16"):
            x = (images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            x_hat, mean, log_var = vae(x, noise)
            real, fake = discriminator(x), discriminator(x_hat.detach())
            frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
            fake_for_vae = torch.func.functional_call(discriminator, frozen, (x_hat,))
        variance, center = torch.var_mean(mean, 0, correction=0)
        terms = (
            F.l1_loss(x_hat, x),
            0.5 * torch.sum(center**2 + variance - 1 - torch.log(variance)),
            0.5 * torch.mean(torch.sum(torch.exp(log_var) - 1 - log_var, 1)),
            F.softplus(-fake_for_vae).mean(),
            F.softplus(-real).mean() + F.softplus(fake).mean(),
        )
        weights = (loss.reconstruction_weight, loss.population_weight, loss.variance_weight)
        weights += (loss.adversarial_weight, loss.adversarial_weight)
        return sum(weight * term for weight, term in zip(weights, terms, strict=True)), torch.stack(terms).detach()

    def first_step(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        total, terms = self._losses(self.images, self.noise)
        total.backward()
        gradients = {}
        for name, player in self.players.items():
            for key, value in player.named_parameters():
                ours = our_name(name, player, key)
                gradients[ours] = to_numpy(ours, value.grad)
            player.zero_grad()
        names = ("reconstruction", "population_kl", "variance_regularizer", "adversarial", "discriminator")
        return dict(zip(names, terms.tolist(), strict=True)), gradients

    def step(self) -> None:
        noise = torch.randn_like(self.noise)
        total, self.terms = self._losses(self.images, noise)
        total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def describe(self) -> dict[str, Any]:
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None
        return {"versions": {"torch": torch.__version__}, "peak_memory": peak}


class EagerPyTorch(PyTorch):
    """The same without ``torch.compile``."""

    name = "PyTorch, eager"
    compiled = False


def our_name(player: str, module: nn.Module, key: str) -> str:
    """``rvae_jax``'s name of a parameter or statistic."""
    path, _, leaf = key.rpartition(".")
    if isinstance(module.get_submodule(path), Norm):
        leaf = NORM_LEAVES[leaf]
    elif leaf == "weight":
        leaf = "kernel"
    collection = "batch_stats" if leaf.startswith("moving_") else "params"
    return "/".join((player, collection, *path.split("."), leaf))


def to_torch(name: str, array: np.ndarray) -> torch.Tensor:
    """Kernels ``[h, w, in, out] -> [out, in, h, w]`` and ``[in, out] -> [out, in]``; the rest as it is."""
    if name.endswith("/kernel"):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return torch.from_numpy(array.copy())


def to_numpy(name: str, tensor: torch.Tensor) -> np.ndarray:
    """The inverse of ``to_torch``."""
    array = tensor.detach().float().cpu().numpy()
    if name.endswith("/kernel"):
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return array
