"""Networks and runs that compile and train in seconds."""

from rvae_jax.config import Config, DataConfig, make_tiny, replace_fields

TINY = {
    "image_shape": (8, 8, 2),
    "latent_dim": 8,
    "encoder_filters": (4, 6),
    "decoder_filters": (6, 2),
    "encoder_identity_blocks": 0,
    "decoder_identity_blocks": 0,
    "discriminator_filters": (4, 1),
    "discriminator_strides": (2, 1),
}

# Makes configs/orl.py:tiny smaller.
SMALL = ["--config.model.image_shape=(16,16,1)"]


def tiny_config(data_dir, **changes):
    config = Config(
        data=DataConfig(
            name="orl",
            data_dir=data_dir,
            train_split="train[:340]",
            selection_split="train[340:]",
            validation_split="validation",
        )
    )
    small = {
        "model.image_shape": (16, 16, 1),
        "model.encoder_filters": (8, 8),
        "model.decoder_filters": (8, 1),
        "model.encoder_identity_blocks": 1,
        "model.decoder_identity_blocks": 0,
        "model.discriminator_filters": (8, 1),
        "model.discriminator_strides": (2, 1),
        "optimizer.ema_decay": 0.9,
        "steps": 8,
        "log_every": 2,
        "eval_every": 4,
    }
    return replace_fields(make_tiny(config), small | changes)
