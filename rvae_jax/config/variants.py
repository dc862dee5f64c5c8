"""Variants of a configuration: those of the files of ``configs/``, and the run before ``loss.texture_start``."""

from rvae_jax.config.forms import replace_fields
from rvae_jax.config.schema import Config
from rvae_jax.errors import UserError

# What must change together, for `replace_fields`.
NO_PERCEPTUAL_TERM = {"loss.perceptual": "none", "loss.perceptual_crop": 0}
NO_DISCRIMINATOR = {
    "loss.adversarial": "none",
    "loss.adversarial_start": 0.0,
    "loss.adversarial_ramp": 0.0,
    "loss.discriminator_crop": 0,
    "loss.prior_fakes": 0.0,
    "loss.adaptive_weight": False,
    "loss.r1_weight": 0.0,
    "loss.lecam_weight": 0.0,
    "loss.augment": 0.0,
    "optimizer.discriminator_learning_rate": None,
}


def require_variant(variant: str | None, known: tuple[str, ...]) -> None:
    """Checks the VARIANT of ``--config=FILE:VARIANT``.

    Raises:
      UserError: it is neither None nor known.
    """
    if variant is not None and variant not in known:
        raise UserError(f"--config: variant {variant!r} does not exist; expected none, or {' or '.join(known)}")


def make_tiny(config: Config) -> Config:
    """Returns the variant ``tiny`` of a configuration, which trains in a minute on two CPU cores.

    The objective and the kind of network stay. Images have 32x32 pixels, the networks two narrow stages, and the run
    100 steps.
    """
    channels = config.model.image_shape[2]
    return replace_fields(
        config,
        {
            "batch_size": 16,
            "steps": 100,
            "log_every": 10,
            "eval_every": 0.5,
            "model.image_shape": (32, 32, channels),
            "model.latent_dim": 16,
            "model.encoder_filters": (8, 8, 8),
            "model.decoder_filters": (8, 8, channels),
            "model.widths": (8, 16),
            "model.blocks": (1, 1),
            "model.last_width": min(config.model.last_width, 8),
            "loss.perceptual_crop": min(config.loss.perceptual_crop, 32),
            "loss.discriminator_crop": min(config.loss.discriminator_crop, 32),
            "model.discriminator_filters": (8, 8, 1),
            "model.discriminator_strides": (2, 2, 1),
            "optimizer.learning_rate": 1e-3,
            "optimizer.warmup": 0.0,
        },
    )


def without_texture(config: Config) -> Config:
    """Returns the configuration without its perceptual term and its discriminator, and without what depends on them."""
    return replace_fields(
        config, NO_PERCEPTUAL_TERM | NO_DISCRIMINATOR | {"loss.clip": False, "loss.texture_start": 0.0}
    )
