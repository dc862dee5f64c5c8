"""CelebA at 128x128: 162,770 aligned faces.

    python -m rvae_jax.main --config=configs/celeba.py --workdir=runs/celeba

Data, for non-commercial research only. Prepare it once; this downloads 1.5 GB and writes 10 GB:

    python -m rvae_jax.prepare celeb_a --size 128

The recipe is that of portraits.py, with wider networks for a GPU. We have measured it on portraits at 64x64 only.
`:paper` has the author's networks and objective: 100 epochs are 254,000 steps of 64 images, at 138 GFLOP per image
(counted for the author's layers) 2.2e18 FLOP.
Expect: unknown. The author publishes no score, and we have not trained either to its end.

    python -m rvae_jax.main --config=configs/celeba.py:tiny --workdir=runs/celeba_tiny

trains a toy, in a minute on two CPU cores, on images prepared with `--size 32`.
"""

from configs import portraits
from rvae_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, make_tiny, replace_fields, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", "paper"))
    if variant == "paper":
        return Config(
            batch_size=64,
            steps=254_000,
            eval_every=5_000,
            model=ModelConfig(
                image_shape=(128, 128, 3),
                latent_dim=256,
                encoder_filters=(128,) * 6,
                decoder_filters=(128,) * 5 + (3,),
                input_norm=False,
            ),
            optimizer=OptimizerConfig(warmup=1_000 / 254_000),
            data=_celeba(),
        )
    config = replace_fields(
        portraits.wide((128, 128, 3), latent_dim=256, steps=100_000), {"eval_every": 0.05, "data": _celeba()}
    )
    return make_tiny(config) if variant == "tiny" else config


def _celeba() -> DataConfig:
    return DataConfig(
        name="celeba",
        train_split="train",
        selection_split="validation[:2048]",
        validation_split="test[:2048]",
    )
