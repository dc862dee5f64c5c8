"""The VAE and the VAE-GAN of the package pythae, with its own trainers and its own networks for CelebA at 64x64.

Batches, optimizers and weights are pythae's defaults. One choice is not: VAEGAN compares the features of the
discriminator's third layer, as pythae's example for CelebA does; by default it would compare the logit alone.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import VAE, VAEGAN, VAEConfig, VAEGANConfig
from pythae.models.nn.benchmarks.celeba import (
    Decoder_Conv_AE_CELEBA,
    Discriminator_Conv_CELEBA,
    Encoder_Conv_VAE_CELEBA,
)
from pythae.trainers import (
    BaseTrainer,
    BaseTrainerConfig,
    CoupledOptimizerAdversarialTrainer,
    CoupledOptimizerAdversarialTrainerConfig,
)
from pythae.trainers.training_callbacks import TrainingCallback

from benchmarks.comparison.arms import LATENT_DIM
from benchmarks.comparison.cpu_time import Clock
from benchmarks.comparison.torch_model import TorchModel

_EPOCHS = 1_000_000  # the clock ends the training


class _TimeIsUp(Exception):
    pass


class _Stop(TrainingCallback):
    """Counts steps, and leaves pythae's loop when the time is up."""

    def __init__(self, clock: Clock) -> None:
        self.steps = 0
        self._clock = clock

    def on_train_step_end(self, training_config: Any, **_: Any) -> None:
        self.steps += 1
        if self._clock.is_up():
            raise _TimeIsUp


class _Mirrored(BaseDataset):
    """Images, each mirrored or not whenever it is read."""

    def __init__(self, images: np.ndarray, model: TorchModel) -> None:
        self._images, self._model = images, model

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> DatasetOutput:
        image = self._images[index]
        image = image[:, ::-1] if torch.rand(()) < 0.5 else image
        return DatasetOutput(data=self._model.to_tensor(image), labels=torch.zeros(()))


class PythaeVAE(TorchModel):
    """pythae's VAE."""

    packages = ("torch", "pythae", "pydantic")
    low = 0.0
    trainer, options = BaseTrainer, BaseTrainerConfig

    def make(self, shape: tuple[int, ...]) -> VAE:
        """The model for images ``[C, H, W]``."""
        config = VAEConfig(input_dim=shape, latent_dim=LATENT_DIM)
        return VAE(config, Encoder_Conv_VAE_CELEBA(config), Decoder_Conv_AE_CELEBA(config))

    def train(self, images: np.ndarray, clock: Clock) -> tuple[int, int]:
        self.vae = self.make((images.shape[3], *images.shape[1:3]))
        stop = _Stop(clock)
        with tempfile.TemporaryDirectory() as folder:
            options = self.options(output_dir=folder, num_epochs=_EPOCHS, seed=self.seed, no_cuda=True)
            trainer = self.trainer(self.vae, _Mirrored(images, self), training_config=options, callbacks=[stop])
            try:
                trainer.train()
            except _TimeIsUp:
                self.vae.eval()
        batch = options.per_device_train_batch_size
        epochs, rest = divmod(stop.steps, -(-len(images) // batch))  # the last batch of an epoch is smaller
        return epochs * len(images) + rest * batch, stop.steps

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.vae.encoder(x)
        return found.embedding, found.log_covariance

    def images(self, z: torch.Tensor) -> torch.Tensor:
        return self.vae.decoder(z).reconstruction


class PythaeVAEGAN(PythaeVAE):
    """pythae's VAE-GAN."""

    trainer, options = CoupledOptimizerAdversarialTrainer, CoupledOptimizerAdversarialTrainerConfig

    def make(self, shape: tuple[int, ...]) -> VAEGAN:
        """The model for images ``[C, H, W]``."""
        config = VAEGANConfig(input_dim=shape, latent_dim=LATENT_DIM, reconstruction_layer=3)
        networks = Encoder_Conv_VAE_CELEBA(config), Decoder_Conv_AE_CELEBA(config), Discriminator_Conv_CELEBA(config)
        return VAEGAN(config, *networks)
