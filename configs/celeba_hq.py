"""The paper's own setting: CelebA-HQ at 256x256, every choice as the author released it.

    python -m rvae_jax.main --config=configs/celeba_hq.py --workdir=runs/celeba_hq

Data: 30,000 faces, of TFDS `celeb_a_hq/256`, which takes an archive that you must have; without it, the program says
what to do. For non-commercial research only. Training sees the first 24,000 in TFDS's (shuffled) order.
Cost: 360,000 steps of 20 are 300 epochs; at 551 GFLOP an image, as the author's layers count, 4.0e18 FLOP in all. The
author's own program needs 65 hours for that on one RTX 3090 (30.8 images/s, by the note beside his weights).
Expect: no score to reach, since the author publishes none and we have not run it to its end.

    python -m rvae_jax.main --config=configs/celeba_hq.py:tiny --workdir=runs/celeba_hq_tiny

trains a toy, in a minute on two CPU cores.
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
            name="celeb_a_hq/256",
            train_split="train[:80%]",
            selection_split="train[80%:82%]",
            validation_split="train[82%:]",
        ),
    )
    if variant == "tiny":
        make_tiny(config)
        config.data.validation_split = "train[99%:]"
    return config
