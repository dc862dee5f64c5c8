"""Colour portraits at 64x64 on two CPU cores."""

from rvae_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, make_tiny, require_variant


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny",))
    steps = 4_000
    config = Config(
        batch_size=32,
        steps=steps,
        log_every=50,
        eval_every=0.2,
        model=ModelConfig(
            image_shape=(64, 64, 3), latent_dim=128, network="patches", linear_path="fixed", input_norm=False
        ),
        loss=LossConfig(adversarial="none"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.02, schedule="cosine", beta1=0.9, ema_decay=0.999),
        data=DataConfig(
            name="portraits",
            train_split="train[:95%]",
            selection_split="train[95%:]",
            validation_split="validation+test",
        ),
    )
    return make_tiny(config) if variant == "tiny" else config
