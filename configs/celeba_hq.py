"""The paper's own setting: CelebA-HQ at 256x256, every choice as the author released it.

    python -m rvae_jax.main --config=configs/celeba_hq.py --workdir=runs/celeba_hq

Data: 30,000 faces, from CelebAMask-HQ's folder or the archive of TFDS's `celeb_a_hq`, which you must have; for
non-commercial research only. Of CelebAMask-HQ, training sees the 24,183 of CelebA's own training partition; else 80 %.

    python -m rvae_jax.prepare celeb_a_hq --from=CelebAMask-HQ --size 256

Cost: 360,000 steps of 20 are 300 epochs; at 551 GFLOP an image, as the author's layers count, 4.0e18 FLOP in all. The
author's own program needs 65 hours for that on one RTX 3090 (30.8 images/s, by the note beside his weights).
Expect: no score to reach, since the author publishes none and we have not run it to its end.

    python -m rvae_jax.main --config=configs/celeba_hq.py:tiny --workdir=runs/celeba_hq_tiny

trains a toy, in a minute on two CPU cores, on images prepared with `--size 32`.
"""

from rvae_jax.config import Config, DataConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny",))
    # The model, the objective and the optimizer are the defaults of Config: the author's.
    config = Config(
        batch_size=20,
        steps=360_000,
        eval_every=6_000,
        data=DataConfig(
            name="celeba_hq",
            train_split="train",
            selection_split="validation[:512]",
            validation_split="validation[512:]+test",
        ),
    )
    if variant == "tiny":
        make_tiny(config)
        config.data.validation_split = "test[:10%]"
    return config
