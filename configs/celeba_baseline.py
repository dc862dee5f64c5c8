"""The paper's baseline: the standard VAE, on CelebA at 128x128, otherwise as in celeba.py:paper.

    python -m rvae_jax.main --config=configs/celeba_baseline.py --workdir=runs/celeba_baseline

Data: as in celeba.py.
Cost: 100 epochs are 254,000 steps of 64 images. At 134 GFLOP per image, counted for the author's layers, that is
2.2e18 FLOP.
Expect: blurred reconstructions, which the method is meant to improve on.

    python -m rvae_jax.main --config=configs/celeba_baseline.py:tiny --workdir=runs/celeba_baseline_tiny

trains a toy, in a minute on two CPU cores, on images prepared with `--size 32`.
"""

import dataclasses

from configs import celeba
from rvae_jax.config import Config, LossConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny",))
    loss = LossConfig(kl="standard", beta=1.0, adversarial="none")
    config = dataclasses.replace(celeba.get_config("paper"), loss=loss)
    return make_tiny(config) if variant == "tiny" else config
