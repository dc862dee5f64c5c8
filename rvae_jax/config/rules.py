"""What a configuration must fulfil: everything that can be checked without data."""

import math

from rvae_jax.config.forms import get_field
from rvae_jax.config.schedules import steps_of
from rvae_jax.config.schema import SCHEDULES, Config
from rvae_jax.config.types import require_types
from rvae_jax.errors import UserError

# Limits far beyond any use. A configuration that somebody else has written can then not keep the program busy for ever.
_MOST = 1 << 16  # sides of an image, channels, latent dimensions
_MOST_BLOCKS = 100
_MOST_STAGES = 32


def validate(config: Config, device_count: int) -> None:
    """Checks everything that can be checked without data.

    Args:
      config: the configuration.
      device_count: number of devices that share a batch.

    Raises:
      UserError: names the first wrong field, its value, and what is expected.
    """
    validate_networks(config)
    _check_run(config, device_count)
    _check_loss(config)
    _check_adversary(config, device_count)
    _check_optimizer(config)
    _check_schedules(config)
    _check_data(config)


def validate_networks(config: Config) -> None:
    """Checks what the networks are built from: all that using a stored model needs, whoever made it.

    Raises:
      UserError: as ``validate``.
    """
    require_types(config)
    _check_encoder_and_decoder(config)
    _check_discriminator(config)


def _check_encoder_and_decoder(config: Config) -> None:
    model = config.model
    _require_sizes(config, "model.image_shape")
    _require(
        config,
        "model.latent_dim",
        2 <= model.latent_dim <= _MOST,
        f"at least 2, as metrics compare dimensions, and at most {_MOST:,}",
    )
    if model.network == "paper":
        _check_stages(config)
    else:
        _check_levels(config)


def _check_levels(config: Config) -> None:
    model = config.model
    _require_sizes(config, "model.widths")
    levels = len(model.widths)
    _require(
        config,
        "model.blocks",
        len(model.blocks) == levels and 0 <= min(model.blocks) <= max(model.blocks) <= _MOST_BLOCKS,
        f"{levels} numbers from 0 to {_MOST_BLOCKS}, as many as model.widths has",
    )
    _require(config, "model.patch_size", model.patch_size >= 1, "at least 1")
    _require(config, "model.last_width", 0 <= model.last_width <= _MOST, f"from 0 to {_MOST:,}")
    _require(
        config,
        "model.last_width",
        model.last_width == 0 or model.patch_size % 2 == 0,
        f"0 with model.patch_size={model.patch_size}: an odd patch has no half",
    )
    factor = model.patch_size * 2 ** (levels - 1)
    _require(
        config,
        "model.image_shape",
        model.image_shape[0] % factor == 0 and model.image_shape[1] % factor == 0,
        f"a height and a width divisible by {factor}, since model.patch_size is {model.patch_size} and each of the"
        f" {levels} levels of model.widths has half the resolution of the one before",
    )


def _check_stages(config: Config) -> None:
    model = config.model
    for name in ("encoder_filters", "decoder_filters"):
        _require_sizes(config, f"model.{name}")
    height, width, channels = model.image_shape
    stages = len(model.encoder_filters) - 1
    _require(config, "model.encoder_filters", stages >= 1, "one number for the stem and at least one for a stage")
    _require(
        config,
        "model.image_shape",
        height % 2**stages == 0 and width % 2**stages == 0,
        f"a height and a width divisible by {2**stages}, since model.encoder_filters has {stages} stages, and each of"
        " them halves the size",
    )
    _require(
        config,
        "model.decoder_filters",
        len(model.decoder_filters) == stages + 1,
        f"{stages + 1} numbers, as many as model.encoder_filters has",
    )
    _require(
        config,
        "model.decoder_filters",
        model.decoder_filters[-1] == channels,
        f"a list that ends with {channels}, the channels of model.image_shape",
    )
    for name in ("encoder_identity_blocks", "decoder_identity_blocks"):
        _require(config, f"model.{name}", 0 <= getattr(model, name) <= _MOST_BLOCKS, f"from 0 to {_MOST_BLOCKS}")


def _check_discriminator(config: Config) -> None:
    _require(config, "model.discriminator_stages", 1 <= config.model.discriminator_stages <= 5, "from 1 to 5")
    width = config.model.discriminator_head_width
    _require(config, "model.discriminator_head_width", 1 <= width <= _MOST, f"from 1 to {_MOST:,}")
    _require(
        config,
        "model.discriminator",
        config.model.discriminator == "patch" or config.model.image_shape[2] in (1, 3),
        "'patch' with images that have neither 1 nor 3 channels",
    )
    filters, strides = config.model.discriminator_filters, config.model.discriminator_strides
    for name in ("discriminator_filters", "discriminator_strides"):
        _require_sizes(config, f"model.{name}")
    _require(
        config,
        "model.discriminator_strides",
        len(strides) == len(filters),
        f"{len(filters)} numbers, as many as model.discriminator_filters has",
    )
    _require(config, "model.discriminator_filters", filters[-1] == 1, "a list that ends with 1, the logit")


def _check_run(config: Config, device_count: int) -> None:
    for field in ("steps", "batch_size", "log_every", "keep_checkpoints", "accumulate_steps"):
        _require(config, field, 1 <= getattr(config, field) < 2**31, "at least 1 and less than 2^31")
    stages = config.model.resolutions
    counted_in = "stages in model.encoder_filters" if config.model.network == "paper" else "levels in model.widths"
    _require(
        config, "remat_stages", 0 <= config.remat_stages <= stages, f"from 0 to {stages}, the number of {counted_in}"
    )
    _require(config, "batch_size", config.batch_size >= 2, "at least 2, for the variance of the population")
    _require(config, "batch_size", config.batch_size % device_count == 0, f"a multiple of the {device_count} devices")
    if config.accumulate_steps > 1:
        _require(
            config,
            "accumulate_steps",
            config.model.norm == "frozen",
            "1 with model.norm=batch, whose statistics need the complete batch",
        )
        _require(
            config,
            "accumulate_steps",
            config.batch_size % (config.accumulate_steps * device_count) == 0,
            f"a divisor of {config.batch_size // device_count}, the images of a batch that each device has",
        )
    if config.shard_optimizer:
        _require(config, "shard_optimizer", config.parallel == "jit", "False with parallel=pmap")
    _require(config, "seed", 0 <= config.seed < 2**32, "at least 0 and less than 2^32")


def _check_loss(config: Config) -> None:
    for name, value in vars(config.loss).items():
        if isinstance(value, int | float):
            _require(config, f"loss.{name}", math.isfinite(value) and value >= 0, "a finite number, 0 or more")
    loss = config.loss
    _require(config, "loss.variance_target", 1e-14 <= loss.variance_target <= 1e14, "from 1e-14 to 1e14")
    _require(config, "loss.moments_decay", loss.moments_decay < 1, "at least 0 and less than 1")
    if loss.kl == "standard":
        without = "with loss.kl=standard, which has no term of the population's moments"
        _require(config, "loss.covariance", loss.covariance == "diagonal", f"diagonal {without}")
        _require(config, "loss.moments_decay", loss.moments_decay == 0, f"0 {without}")
    _require(
        config,
        "loss.free_bits",
        loss.free_bits == 0 or loss.kl == "standard",
        "0 with loss.kl=population, which has no KL of single images",
    )
    _check_perceptual(config)
    if loss.reconstruction in ("gaussian", "laplace"):
        of_kind = f"1 with loss.reconstruction={loss.reconstruction}"
        _require(
            config,
            "loss.reconstruction_weight",
            loss.reconstruction_weight == 1,
            f"{of_kind}, a likelihood that finds its own scale; weigh the other terms instead",
        )
        _require(config, "accumulate_steps", config.accumulate_steps == 1, f"{of_kind}, whose scale is the batch's")


def _check_perceptual(config: Config) -> None:
    loss, (height, width, channels) = config.loss, config.model.image_shape
    if loss.perceptual == "none":
        _require(config, "loss.perceptual_crop", loss.perceptual_crop == 0, "0 with loss.perceptual=none")
        return
    _require(
        config,
        "loss.perceptual",
        min(height, width) >= 32 and channels in (1, 3),
        f"none with images of {height}x{width} and {channels} channels; its networks need 32x32 and 1 or 3 channels",
    )
    _require(config, "loss.perceptual_stages", 1 <= loss.perceptual_stages <= 5, "from 1 to 5")
    _check_window(config, "loss.perceptual_crop")


def _check_window(config: Config, field: str) -> None:
    size, least = get_field(config, field), min(config.model.image_shape[:2])
    _require(
        config,
        field,
        size == 0 or 32 <= size <= least,
        f"0 for complete images, or from 32 to {least}, the shorter side of model.image_shape",
    )


# What needs a discriminator, and the value that asks for none of it.
_NEEDS_DISCRIMINATOR = {
    "prior_fakes": 0.0,
    "adaptive_weight": False,
    "r1_weight": 0.0,
    "lecam_weight": 0.0,
    "augment": 0.0,
}


def _check_adversary(config: Config, device_count: int) -> None:
    loss = config.loss
    for name, off in _NEEDS_DISCRIMINATOR.items():
        _require(
            config,
            f"loss.{name}",
            loss.adversarial != "none" or getattr(loss, name) == off,
            f"{off} with loss.adversarial=none, since there is no discriminator",
        )
    _require(
        config,
        "loss.clip",
        not loss.clip or loss.perceptual != "none" or loss.adversarial != "none",
        "False with loss.perceptual=none and loss.adversarial=none, whose terms see clipped images",
    )
    sees_features = loss.adversarial != "none" and config.model.discriminator != "patch"
    _require(
        config,
        "loss.discriminator_crop",
        loss.discriminator_crop == 0 or sees_features,
        "0, since there is no discriminator on the features of a frozen network",
    )
    _check_window(config, "loss.discriminator_crop")
    _require(config, "loss.r1_every", loss.r1_every >= 1, "at least 1")
    _require(
        config,
        "loss.r1_weight",
        loss.r1_weight == 0 or config.model.norm == "frozen",
        "0 with model.norm=batch, where the logits of an image depend on other images",
    )
    _require(
        config,
        "loss.r1_weight",
        loss.r1_weight == 0 or config.model.discriminator == "patch",
        f"0 with model.discriminator={config.model.discriminator}, since R1 is of pixels",
    )
    _require(config, "loss.augment", loss.augment <= 1, "from 0 to 1")
    _require(config, "loss.prior_fakes", loss.prior_fakes < 1, "at least 0 and less than 1")
    images = config.batch_size // (device_count * config.accumulate_steps)
    codes = loss.prior_fakes * images
    _require(
        config,
        "loss.prior_fakes",
        abs(codes - round(codes)) < 1e-6 and (codes > 0.5 or loss.prior_fakes == 0),
        f"a share that makes a whole number of the {images} images that are processed together, such as"
        f" {max(1, round(codes)) / max(images, 1):g}",
    )


def _check_optimizer(config: Config) -> None:
    optimizer = config.optimizer
    for name in ("learning_rate", "epsilon"):
        value = getattr(optimizer, name)
        _require(config, f"optimizer.{name}", math.isfinite(value) and value > 0, "a finite number above 0")
    rate = optimizer.discriminator_learning_rate
    _require(
        config,
        "optimizer.discriminator_learning_rate",
        rate is None or (math.isfinite(rate) and rate > 0),
        "a finite number above 0",
    )
    _require(
        config,
        "optimizer.discriminator_learning_rate",
        rate is None or config.loss.adversarial != "none",
        "None with loss.adversarial=none, since there is no discriminator",
    )
    for name in ("beta1", "beta2", "ema_decay"):
        value = getattr(optimizer, name)
        _require(config, f"optimizer.{name}", value is None or 0 <= value < 1, "at least 0 and less than 1")
    _require(config, "optimizer.clip_norm", optimizer.clip_norm is None or optimizer.clip_norm > 0, "above 0")


def _check_schedules(config: Config) -> None:
    for field in SCHEDULES:
        value = get_field(config, field)
        is_length = math.isfinite(value) and 0 <= value < 2**31 and (value < 1 or value == int(value))
        _require(config, field, is_length, "a whole number of steps, or, below 1, a share of the run's steps")
    _require(config, "eval_every", config.eval_every > 0, "above 0")
    within = f"steps={config.steps}, or, below 1, a share of them"
    _require(config, "optimizer.warmup", config.optimizer.warmup <= config.steps, f"at most {within}")
    starts = {
        "kl_start": "a weight of 0 leaves a KL term out",
        "texture_start": "loss.perceptual=none and loss.adversarial=none leave texture out",
    }
    if config.loss.adversarial != "none":
        starts["adversarial_start"] = "loss.adversarial=none leaves the discriminator out"
    for name, otherwise in starts.items():
        is_before_the_end = steps_of(getattr(config.loss, name), config.steps) < config.steps
        _require(config, f"loss.{name}", is_before_the_end, f"less than {within}; {otherwise}")
    loss = config.loss
    _require(
        config,
        "loss.texture_start",
        loss.texture_start == 0 or loss.perceptual != "none" or loss.adversarial != "none",
        "0 with loss.perceptual=none and loss.adversarial=none, as there is no texture to start",
    )
    texture, adversarial = (steps_of(start, config.steps) for start in (loss.texture_start, loss.adversarial_start))
    _require(
        config,
        "loss.adversarial_start",
        loss.adversarial == "none" or adversarial >= texture,
        f"at least loss.texture_start={loss.texture_start:g}, before which there is no discriminator",
    )


def _check_data(config: Config) -> None:
    crop, jitter = config.data.crop, config.data.jitter
    _require(config, "data.crop", crop is None or min(crop) >= 1, "(height, width), each at least 1")
    _require(config, "data.jitter", 0 <= jitter < 0.5, "at least 0 and less than 0.5")


def _require_sizes(config: Config, field: str) -> None:
    value = get_field(config, field)
    is_usual = 1 <= len(value) <= _MOST_STAGES and 1 <= min(value) <= max(value) <= _MOST
    _require(config, field, is_usual, f"at most {_MOST_STAGES} numbers from 1 to {_MOST:,}")


def _require(config: Config, field: str, condition: bool, expected: str) -> None:
    if not condition:
        raise UserError(f"--config.{field}={get_field(config, field)!r}: expected {expected}")
