"""Your own pictures: a folder, zip or tar of JPEG, PNG, WebP, BMP or TIFF, at 64x64.

    python -m rvae_jax.main --config=configs/folder.py --config.data.folder=PATH --workdir=runs/mine

Data: prepared once, behind the scenes, with 80 % to train on; the rest chooses the checkpoint and is held out. Faces of
your own are not aligned: see docs/data.md.
Cost: 50,000 steps of 64; at 30 GFLOP an image, as benchmarks/train_step.py counts what is compiled, 9.6e16 FLOP in all.
Expect: no score to reach; it depends on your pictures. With fewer than some thousand, samples will not look like much.

    python -m rvae_jax.main --config=configs/folder.py:tiny --config.data.folder=PATH --workdir=runs/mine_tiny

trains a toy at 32x32, in a minute on two CPU cores.
"""

from rvae_jax.config import Config, ModelConfig, OptimizerConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny",))
    config = Config(
        batch_size=64,
        steps=50_000,
        eval_every=2_500,
        model=ModelConfig(
            image_shape=(64, 64, 3),
            latent_dim=128,
            encoder_filters=(128,) * 5,
            decoder_filters=(128,) * 4 + (3,),
            input_norm=False,
        ),
        optimizer=OptimizerConfig(warmup_steps=1_000, ema_decay=0.999),
    )
    return make_tiny(config) if variant == "tiny" else config
