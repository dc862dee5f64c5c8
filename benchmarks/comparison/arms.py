"""The arms of the comparison, by name, in the order of the table's rows."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from configs.arms import get_config as author_config
from rvae_jax import config as config_lib
from rvae_jax.config import Config

LATENT_DIM = 128  # of the peers, as of our configurations

# Principal components, by the number of them; without any, the mean of the training images.
LINEAR = {"mean_face": 0, "pca_64": 64, "pca_128": 128, "pca_256": 256}

# Programs of others: module of this package and class.
PEERS = {
    "pythae_vae": "pythae_models.PythaeVAE",
    "pythae_vaegan": "pythae_models.PythaeVAEGAN",
    "pytorch_vae": "pytorch_vae.PyTorchVAE",
}
PACKAGES = {"pythae_vae": "pythae", "pythae_vaegan": "pythae", "pytorch_vae": "torch"}  # what each needs


@dataclasses.dataclass(frozen=True)
class Ours:
    """A configuration of ours, as the flags of ``rvae_jax.main`` name it.

    Attributes:
      file: name of a file in ``configs/``.
      variant: its variant, or None.
      changes: fields that differ, by dotted name.
    """

    file: str
    variant: str | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def flags(self) -> list[str]:
        """The flags."""
        variant = "" if self.variant is None else f":{self.variant}"
        changes = [f"--config.{name}={value}" for name, value in self.changes.items()]
        return [f"--config=configs/{self.file}.py{variant}", *changes]

    def config(self) -> Config:
        """What the flags mean."""
        get_config = importlib.import_module(f"configs.{self.file}").get_config
        return config_lib.replace_fields(get_config(self.variant), self.changes)


def _author_networks() -> dict[str, Any]:
    model = author_config("faces-proposed").model
    of_networks = ("network", "encoder_", "decoder_", "norm", "input_norm")
    names = [field.name for field in dataclasses.fields(model) if field.name.startswith(of_networks)]
    return {f"model.{name}": getattr(model, name) for name in names}


OURS = {
    "paper": Ours("arms", "faces-proposed"),
    "baseline": Ours("arms", "faces-baseline"),
    "ours": Ours("portraits"),
    "no_pca": Ours("portraits", changes={"model.linear_path": "none"}),
    "full_covariance": Ours("portraits", changes={"loss.covariance": "full"}),
    "no_lpips": Ours("portraits", changes=config_lib.NO_PERCEPTUAL_TERM),
    "no_discriminator": Ours("portraits", changes=config_lib.NO_DISCRIMINATOR),
    "prior_fakes": Ours("portraits", changes={"loss.prior_fakes": 0.5}),
    "l1": Ours("portraits", "l1"),
    "author_networks": Ours("portraits", changes=_author_networks()),
}

ARMS = [*LINEAR, *PEERS, *OURS]
