"""The paper's setting: CelebA-HQ at 256x256, with every choice as the author released it.

    python -m rvae_jax.main --config=configs/celeba_hq.py --workdir=runs/celeba_hq

Data, for non-commercial research only: 30,000 faces. You need the folder of CelebAMask-HQ, or the archive that TFDS's
`celeb_a_hq` reads. From CelebAMask-HQ, the 24,183 faces of CelebA's own training partition are used for training; from
the archive, 80 %.

    python -m rvae_jax.prepare celeb_a_hq --from=CelebAMask-HQ --size 256

Cost: 300 epochs are 360,000 steps of 20 images. At 551 GFLOP per image, counted for the author's layers, that is
4.0e18 FLOP. The author's program takes 65 hours for it on one RTX 3090 (30.8 images/s, by the note beside his weights).
Expect: unknown. The author publishes no score, and we have not trained this configuration to its end.

    python -m rvae_jax.main --config=configs/celeba_hq.py:tiny --workdir=runs/celeba_hq_tiny

trains a toy, in a minute on two CPU cores, on images prepared with `--size 32`.
"""

from rvae_jax.config import Config, DataConfig, make_tiny, replace_fields, require_variant


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
        return replace_fields(make_tiny(config), {"data.validation_split": "test[:10%]"})
    return config
