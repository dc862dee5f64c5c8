"""Networks and runs that compile and train in seconds."""

import dataclasses

from rvae_jax.config import Config, DataConfig, make_tiny

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

# Flags that make configs/orl.py:tiny smaller.
SMALL = [
    "--config.model.image_shape=(16,16,1)",
    "--config.model.encoder_filters=(8,8)",
    "--config.model.decoder_filters=(8,1)",
    "--config.model.discriminator_filters=(8,1)",
    "--config.model.discriminator_strides=(2,1)",
    "--config.model.encoder_identity_blocks=0",
    "--config.model.decoder_identity_blocks=0",
]


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
    config.model.image_shape = (64, 64, 1)
    make_tiny(config)
    config.model.image_shape = (16, 16, 1)
    config.model.encoder_filters, config.model.decoder_filters = (8, 8), (8, 1)
    config.model.discriminator_filters, config.model.discriminator_strides = (8, 1), (2, 1)
    config.model.encoder_identity_blocks, config.model.decoder_identity_blocks = 1, 0
    return dataclasses.replace(config, **{"steps": 8, "log_every": 2, "eval_every": 4} | changes)
