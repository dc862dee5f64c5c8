"""Your own pictures: a folder, zip or tar of JPEG, PNG, WebP, BMP or TIFF, at 64x64.

    python -m rvae_jax.main --config=configs/folder.py --config.data.folder=PATH --workdir=runs/mine

Data: prepared automatically at the first start. 80 % of the pictures train; of the rest, one part chooses the
checkpoint and one is held out. Your own photographs of faces are not aligned: see docs/data.md.
Cost: 50,000 steps of 64 images. At 30 GFLOP per image, counted in the compiled step by benchmarks/train_step.py, that
is 9.6e16 FLOP.
Expect: it depends on your pictures. With fewer than a few thousand, samples will look poor.

    python -m rvae_jax.main --config=configs/folder.py:tiny --config.data.folder=PATH --workdir=runs/mine_tiny

trains a toy at 32x32, in a minute on two CPU cores.
"""

from rvae_jax.config import Config, ModelConfig, OptimizerConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny",))
    config = Config(
        batch_size=64,
        steps=50_000,
        eval_every=0.05,
        model=ModelConfig(
            image_shape=(64, 64, 3),
            latent_dim=128,
            encoder_filters=(128,) * 5,
            decoder_filters=(128,) * 4 + (3,),
            input_norm=False,
        ),
        optimizer=OptimizerConfig(warmup=0.02, ema_decay=0.999),
    )
    return make_tiny(config) if variant == "tiny" else config
