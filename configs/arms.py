"""Ablations of the method: the arms of docs/results.md, each trained for the same time.

    python -m rvae_jax.main --config=configs/arms.py:orl-proposed --workdir=runs/orl-proposed
    python -m rvae_jax.main --config=configs/arms.py:faces-baseline --config.data.name=NAME --workdir=runs/baseline

A variant is SCALE-ARM. Scales:
  orl                the 400 ORL faces, which come with `pip install -e '.[demo]'`, at 64x64;
  faces              any prepared set of colour pictures, at 64x64;
  faces128, faces256 the same at 128x128 and 256x256.
`orl` and `faces` have the narrow networks of orl.py, for two CPU cores; the others have the paper's, for a GPU.
A prepared set is split as follows: `train` without its last twentieth trains, the last twentieth chooses the
checkpoint, and `validation` and `test` together are held out.

Arms: `proposed`; `baseline`, the standard VAE; `no_regularizer`; `no_gan`; `mixture`, the moments of the mixture
instead of those of the means, with a variance target of 0.1; `batch_norm`; `input_norm`.

Cost: on two CPU cores, 7 minutes (`orl`) or 19 minutes (`faces`), with or without the discriminator, which takes only
6 % of the step.
Expect: docs/results.md.
"""

from configs import orl
from rvae_jax.config import (
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    make_tiny,
    replace_fields,
    require_variant,
)

SCALES = ("orl", "faces", "faces128", "faces256")
ARMS = {
    "proposed": {},
    "baseline": {"loss.kl": "standard", "loss.adversarial": "none"},
    "no_regularizer": {"loss.variance_weight": 0.0},
    "no_gan": {"loss.adversarial": "none"},
    "mixture": {"loss.moments": "mixture", "loss.variance_target": 0.1},
    "batch_norm": {"model.norm": "batch"},
    "input_norm": {"model.input_norm": True},
}
DEFAULT = "orl-proposed"


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", *(f"{scale}-{arm}" for scale in SCALES for arm in ARMS)))
    scale, arm = (DEFAULT if variant in (None, "tiny") else variant).split("-")
    config = _narrow(scale) if scale in ("orl", "faces") else _paper(int(scale.removeprefix("faces")))
    config = replace_fields(config, ARMS[arm])
    return make_tiny(config) if variant == "tiny" else config


def _narrow(scale: str) -> Config:
    steps, adversarial_weight = (2_000, 5.0) if scale == "orl" else (3_000, 10.0)
    config = orl.get_config("paper")
    changes = {
        "steps": steps,
        "loss.adversarial_weight": adversarial_weight,
        "optimizer.warmup": 50 / steps,
    }
    if scale == "faces":
        changes |= {
            "batch_size": 16,
            "model.image_shape": (64, 64, 3),
            "model.decoder_filters": (*config.model.decoder_filters[:-1], 3),
            "data": _prepared(),
        }
    return replace_fields(config, changes)


def _paper(size: int) -> Config:
    stages = {128: 5, 256: 6}[size]
    return Config(
        batch_size=32,
        steps=20_000,
        eval_every=0.1,
        model=ModelConfig(
            image_shape=(size, size, 3),
            encoder_filters=(128,) * (stages + 1),
            decoder_filters=(128,) * stages + (3,),
            input_norm=False,
            dtype="bfloat16",
        ),
        loss=LossConfig(adversarial_weight=10.0, adversarial_start=0.6, adversarial_ramp=0.2),
        optimizer=OptimizerConfig(warmup=0.025, schedule="cosine", beta1=0.9),
        data=_prepared(),
    )


def _prepared() -> DataConfig:
    return DataConfig(train_split="train[:95%]", selection_split="train[95%:]", validation_split="validation+test")
