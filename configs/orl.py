"""Real faces on a laptop: the 400 ORL faces, 64x64, grey.

python -m rvae_jax.main --config=configs/orl.py --workdir=runs/orl
"""

from rvae_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", "long"))
    config = Config(
        batch_size=8,
        steps=800,
        log_every=20,
        eval_every=200,
        model=ModelConfig(
            image_shape=(64, 64, 1),
            latent_dim=128,
            encoder_filters=(16, 32, 64, 64, 64),
            decoder_filters=(64, 64, 64, 32, 1),
            encoder_identity_blocks=1,
            discriminator_filters=(32, 32, 32, 16, 16, 1),
            input_norm=False,
        ),
        loss=LossConfig(adversarial_start_step=400, adversarial_ramp_steps=200),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, schedule="cosine"),
        data=DataConfig(
            name="orl", train_split="train[:340]", selection_split="train[340:]", validation_split="validation"
        ),
    )
    return make_tiny(config) if variant == "tiny" else config
