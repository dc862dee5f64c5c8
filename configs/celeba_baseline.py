"""What the paper compares with: the standard VAE, on CelebA at 128x128. All else is as in celeba.py.

    python -m rvae_jax.main --config=configs/celeba_baseline.py --workdir=runs/celeba_baseline

Data: as celeba.py.
Cost: 254,000 steps of 64 are 100 epochs; at 134 GFLOP an image, as the author's layers count, 2.2e18 FLOP in all.
Expect: blurred reconstructions. That is its purpose.

    python -m rvae_jax.main --config=configs/celeba_baseline.py:tiny --workdir=runs/celeba_baseline_tiny

trains a toy, in a minute on two CPU cores, on images prepared with `--size 32`.
"""

from configs import celeba
from rvae_jax.config import Config, LossConfig


def get_config(variant: str | None = None) -> Config:
    config = celeba.get_config(variant)
    config.loss = LossConfig(kl="standard", beta=1.0, adversarial="none")
    return config
