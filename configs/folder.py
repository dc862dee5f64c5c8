"""Your own pictures: a folder, zip or tar of JPEG, PNG, WebP, BMP or TIFF, at 64x64.

    python -m rvae_jax.main --config=configs/folder.py:small --config.data.folder=PATH --workdir=runs/mine

Data: prepared automatically at the first start. 80 % of the pictures train; of the rest, one part chooses the
checkpoint and one is held out. Your own photographs of faces are not aligned: see docs/data.md.

`:small` is for some hundred to some ten thousand pictures and two CPU cores: 2,000 steps of 32 images, at 60 to 70
images/s on one core. It starts as the principal components of the pictures, zoomed and shifted at random, and trains on
the mean absolute error alone. With 300 pictures, expect an L1 of 0.101 on other ones (portraits; PCA of the 300 has
0.108); the best checkpoint, which is kept, is then an early one.

    python -m rvae_jax.main --config=configs/folder.py --config.data.folder=PATH --workdir=runs/mine

is the recipe of portraits.py with wider networks, for a GPU. Its cost was not measured: see
`python -m benchmarks.train_step --config=configs/folder.py`.

    python -m rvae_jax.main --config=configs/folder.py:tiny --config.data.folder=PATH --workdir=runs/mine_tiny

trains a toy at 32x32, in a minute on two CPU cores.
"""

from configs import portraits
from rvae_jax.config import Config, DataConfig, make_tiny, replace_fields, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", "small"))
    if variant == "small":
        config = replace_fields(
            portraits.l1(portraits.recipe((64, 64, 3), latent_dim=128, steps=2_000)), {"data": DataConfig(jitter=0.05)}
        )
    else:
        config = replace_fields(
            portraits.wide((64, 64, 3), latent_dim=256, steps=50_000), {"data": DataConfig(), "eval_every": 0.05}
        )
    return make_tiny(config) if variant == "tiny" else config
