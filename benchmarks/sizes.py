"""Two networks that a CPU trains in less than a second per step.

python -m benchmarks.train_step --config=benchmarks/sizes.py:64
"""

from rvae_jax.config import Config, ModelConfig, require_variant


def get_config(variant: str | None = None) -> Config:
    """64x64 pixels with a batch of 16, or 32x32 with a batch of 32."""
    require_variant(variant, ("64", "32"))
    if variant == "32":
        model = ModelConfig(
            image_shape=(32, 32, 3),
            latent_dim=64,
            encoder_filters=(32,) * 4,
            decoder_filters=(32,) * 3 + (3,),
            discriminator_filters=(32, 32, 32, 16, 16, 1),
        )
        return Config(batch_size=32, model=model)
    model = ModelConfig(
        image_shape=(64, 64, 3),
        latent_dim=128,
        encoder_filters=(64,) * 5,
        decoder_filters=(64,) * 4 + (3,),
        discriminator_filters=(64, 64, 64, 32, 32, 1),
    )
    return Config(batch_size=16, model=model)
