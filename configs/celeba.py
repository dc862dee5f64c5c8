"""CelebA at 128x128: 162,770 aligned faces.

    python -m rvae_jax.main --config=configs/celeba.py --workdir=runs/celeba

Data, for non-commercial research only. Prepare it once; this downloads 1.5 GB and writes 10 GB:

    python -m rvae_jax.prepare celeb_a --size 128

Cost: 100 epochs are 254,000 steps of 64 images. At 138 GFLOP per image, counted for the author's layers, that is
2.2e18 FLOP.
Expect: unknown. The author publishes no score, and we have not trained this configuration to its end.

    python -m rvae_jax.main --config=configs/celeba.py:tiny --workdir=runs/celeba_tiny

trains a toy, in a minute on two CPU cores, on images prepared with `--size 32`.
"""

from rvae_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny",))
    steps = 254_000
    config = Config(
        batch_size=64,
        steps=steps,
        eval_every=5_000,
        model=ModelConfig(
            image_shape=(128, 128, 3),
            latent_dim=256,
            encoder_filters=(128,) * 6,
            decoder_filters=(128,) * 5 + (3,),
            input_norm=False,
        ),
        optimizer=OptimizerConfig(warmup=1_000 / steps),
        data=DataConfig(
            name="celeba",
            train_split="train",
            selection_split="validation[:2048]",
            validation_split="test[:2048]",
        ),
    )
    return make_tiny(config) if variant == "tiny" else config
