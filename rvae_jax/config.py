"""What a run is: nested typed dataclasses, their checks, and their form on disk.

A file in ``configs/`` defines ``get_config(variant=None) -> Config``; ``--config.model.latent_dim=64`` overrides it.
The defaults are the paper's 256x256 setting.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from rvae_jax.errors import UserError


@dataclasses.dataclass
class ModelConfig:
    """The networks; see ``models.VAE`` and ``models.Discriminator``.

    Attributes:
      image_shape: (height, width, channels) of the images that are trained on.
      latent_dim: dimensions of the code.
      encoder_filters: channels of the encoder's stem and after each of its stages.
      decoder_filters: channels of the decoder's stem and after each of its stages; the last is the image's.
      encoder_identity_blocks: identity blocks in each stage of the encoder.
      decoder_identity_blocks: identity blocks in each stage of the decoder.
      discriminator_filters: channels of the discriminator's layers; the last is 1.
      discriminator_strides: strides of the discriminator's layers.
      norm: ``frozen``, the author's effective one (inference form, statistics constant), or ``batch``, real BatchNorm.
      input_norm: whether the encoder first normalises each image, as the author's does. It hides the image's brightness
        and contrast from the code.
      dtype: type that convolutions compute in.
    """

    image_shape: tuple[int, int, int] = (256, 256, 3)
    latent_dim: int = 512
    encoder_filters: tuple[int, ...] = (128, 128, 128, 128, 128, 128, 128)
    decoder_filters: tuple[int, ...] = (128, 128, 128, 128, 128, 128, 3)
    encoder_identity_blocks: int = 2
    decoder_identity_blocks: int = 1
    discriminator_filters: tuple[int, ...] = (128, 128, 128, 64, 64, 1)
    discriminator_strides: tuple[int, ...] = (2, 2, 2, 1, 1, 1)
    norm: Literal["frozen", "batch"] = "frozen"
    input_norm: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass
class LossConfig:
    """The objective; see ``losses``. A weight multiplies a term; a ramp takes its weight linearly from 0 to full.

    Attributes:
      kl: ``population``, the paper's KL of all the codes together plus the variance regularizer, or ``standard``, the
        usual KL of each image.
      moments: moments of the population: ``means`` (the released code's) or ``mixture`` (law of total variance). With
        ``mixture`` and a ``variance_target`` of 1 the two KL terms favour collapse; take a lower one.
      adversarial: ``bce`` (the paper's), ``hinge``, ``least_squares``, or ``none`` for no discriminator.
      reconstruction_weight: of the mean absolute error.
      population_weight: of the population KL.
      variance_weight: of the variance regularizer; 0.2 is the author's 0.1 x sum, written as a KL.
      variance_target: posterior variance at which the regularizer is zero.
      beta: of the standard KL, used with ``kl="standard"`` only.
      adversarial_weight: of the generator's and of the discriminator's loss.
      kl_start_step: first step with a KL term.
      kl_ramp_steps: steps until the KL terms have full weight.
      adversarial_start_step: first step at which the VAE feels the discriminator, which itself learns from step 0.
      adversarial_ramp_steps: steps until the generator's loss has full weight.
    """

    kl: Literal["population", "standard"] = "population"
    moments: Literal["means", "mixture"] = "means"
    adversarial: Literal["bce", "hinge", "least_squares", "none"] = "bce"
    reconstruction_weight: float = 5000.0
    population_weight: float = 1.0
    variance_weight: float = 0.2
    variance_target: float = 1.0
    beta: float = 1.0
    adversarial_weight: float = 100.0
    kl_start_step: int = 0
    kl_ramp_steps: int = 0
    adversarial_start_step: int = 0
    adversarial_ramp_steps: int = 0


@dataclasses.dataclass
class OptimizerConfig:
    """Adam for both players; see ``state.make_optimizer``.

    Attributes:
      learning_rate: after the warm-up.
      warmup_steps: steps in which the learning rate rises linearly from 0.
      schedule: ``constant``, or ``cosine`` down to 0 at the last step.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to the bias-corrected root of the second moment.
      clip_norm: largest global norm of each player's gradient, or None.
      ema_decay: decay of an average of the VAE's weights that is then used wherever the VAE is evaluated, or None.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    beta1: float = 0.5
    beta2: float = 0.999
    epsilon: float = 1e-7
    clip_norm: float | None = None
    ema_decay: float | None = None


@dataclasses.dataclass
class DataConfig:
    """The images; see ``data.catalog`` and ``data.pipeline``.

    Attributes:
      name: a data set that ``rvae_jax.prepare`` made, with or without its size (``celeba``, ``celeba/128``), or a TFDS
        data set in array_record format with a feature ``image``; ``orl`` is ours, and prepares itself.
      folder: a folder, zip or tar of pictures to train on, from which ``name`` then follows: prepared once, at the
        model's size, with the splits train, validation and test.
      data_dir: folder of prepared TFDS data sets, or None for TFDS's own default.
      train_split: images that are trained on.
      selection_split: images that choose the best checkpoint; not among those that are reported.
      validation_split: held-out images; they are reported, and decide nothing.
      crop: (height, width) of the centre crop, of which the largest box of the model's aspect ratio is taken, or None
        for the whole image.
      flip: whether training mirrors half of the images, at random.
      jitter: largest random zoom in training, in or out, as a share of the size; shifts go up to half of it. The author
        has none; it helps where images are few.
    """

    name: str | None = None
    folder: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    selection_split: str = "validation"
    validation_split: str = "test"
    crop: tuple[int, int] | None = None
    flip: bool = True
    jitter: float = 0.0


@dataclasses.dataclass
class Config:
    """One training run.

    Attributes:
      seed: of the weights, the order of the images, their augmentation and the noise.
      batch_size: images a step, over all devices; the population's moments are taken over them.
      steps: length of the run.
      log_every: steps between two rows of metrics.
      eval_every: steps between two evaluations, each with pictures and a checkpoint.
      keep_checkpoints: newest checkpoints that are kept, besides the best.
      parallel: how the step runs on several devices, ``jit`` over a mesh with global arrays, or ``pmap``; see
        ``sharding.DataParallel``. Both compute the same.
      shard_optimizer: whether each device keeps a part of the optimizer's state only (ZeRO-1), with ``jit``.
      accumulate_steps: parts that a device goes through its part of the batch in, to need less memory; the step stays
        that of the whole batch. With ``model.norm="frozen"``.
      remat_stages: stages of the largest activations, in each of encoder and decoder, that are computed again for the
        gradient instead of kept, to need less memory; the step stays the same, and takes longer.
      model: the networks.
      loss: the objective.
      optimizer: the optimizer.
      data: the images.
    """

    seed: int = 0
    batch_size: int = 20
    steps: int = 400_000
    log_every: int = 100
    eval_every: int = 5_000
    keep_checkpoints: int = 2
    parallel: Literal["jit", "pmap"] = "jit"
    shard_optimizer: bool = False
    accumulate_steps: int = 1
    remat_stages: int = 0
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


# What may change when a run goes on in its work directory: none of these decides what a step computes, but `steps`,
# which does only through the cosine schedule.
MAY_CHANGE = frozenset(
    {
        "steps",
        "log_every",
        "eval_every",
        "keep_checkpoints",
        "parallel",
        "shard_optimizer",
        "accumulate_steps",
        "remat_stages",
        "data.data_dir",
        "data.folder",
    }
)


def validate(config: Config, device_count: int) -> None:
    """Checks everything that can be checked without data.

    Args:
      config: the configuration.
      device_count: devices that share a batch.

    Raises:
      UserError: naming the first field that is wrong, what it is, and what would be right.
    """
    for field, choices in literal_fields(config):
        value = get_field(config, field)
        _require(value in choices, field, value, " or ".join(repr(choice) for choice in choices))
    _validate_model(config.model)
    for field in ("steps", "batch_size", "log_every", "eval_every", "keep_checkpoints", "accumulate_steps"):
        value = getattr(config, field)
        _require(value >= 1, field, value, "at least 1")
    stages = len(config.model.encoder_filters) - 1
    _require(
        0 <= config.remat_stages <= stages,
        "remat_stages",
        config.remat_stages,
        f"from 0 to {stages}, the stages that model.encoder_filters has",
    )
    _require(config.batch_size >= 2, "batch_size", config.batch_size, "at least 2, for the variance of the population")
    _require(
        config.batch_size % device_count == 0,
        "batch_size",
        config.batch_size,
        f"a multiple of the {device_count} devices",
    )
    _validate_layout(config, device_count)
    _require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 up to, not including, 2^32")
    for name, value in dataclasses.asdict(config.loss).items():
        if isinstance(value, int | float):
            _require(math.isfinite(value) and value >= 0, f"loss.{name}", value, "a finite number, 0 or more")
    target = config.loss.variance_target
    _require(1e-14 <= target <= 1e14, "loss.variance_target", target, "from 1e-14 to 1e14")
    optimizer = config.optimizer
    for name in ("learning_rate", "epsilon"):
        value = getattr(optimizer, name)
        _require(math.isfinite(value) and value > 0, f"optimizer.{name}", value, "a finite number above 0")
    for name in ("beta1", "beta2", "ema_decay"):
        value = getattr(optimizer, name)
        _require(value is None or 0 <= value < 1, f"optimizer.{name}", value, "from 0 up to, not including, 1")
    _require(
        optimizer.clip_norm is None or optimizer.clip_norm > 0, "optimizer.clip_norm", optimizer.clip_norm, "above 0"
    )
    _require(
        0 <= optimizer.warmup_steps <= config.steps,
        "optimizer.warmup_steps",
        optimizer.warmup_steps,
        f"from 0 to steps={config.steps}",
    )
    crop = config.data.crop
    _require(crop is None or min(crop) >= 1, "data.crop", crop, "(height, width), each at least 1")
    _require(0 <= config.data.jitter < 0.5, "data.jitter", config.data.jitter, "from 0 up to, not including, 0.5")


def require_variant(variant: str | None, known: tuple[str, ...]) -> None:
    """Checks the VARIANT of ``--config=FILE:VARIANT``.

    Raises:
      UserError: it is neither None nor known.
    """
    if variant is not None and variant not in known:
        raise UserError(f"--config: variant {variant!r} does not exist; expected none, or {' or '.join(known)}")


def make_tiny(config: Config) -> Config:
    """Turns a configuration, in place, into one that runs in a minute on two CPU cores; for its variant ``tiny``.

    The objective and the kind of network stay; images of 32x32 pixels, two narrow stages, 100 steps.
    """
    channels = config.model.image_shape[2]
    config.batch_size, config.steps, config.log_every, config.eval_every = 16, 100, 10, 50
    config.model.image_shape = (32, 32, channels)
    config.model.latent_dim = 16
    config.model.encoder_filters, config.model.decoder_filters = (8, 8, 8), (8, 8, channels)
    config.model.discriminator_filters, config.model.discriminator_strides = (8, 8, 1), (2, 2, 1)
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, 0
    return config


def _validate_layout(config: Config, device_count: int) -> None:
    parts = config.accumulate_steps
    if parts > 1:
        _require(
            config.model.norm == "frozen", "accumulate_steps", parts, "1 with model.norm=batch, which needs it all"
        )
        _require(
            config.batch_size % (parts * device_count) == 0,
            "accumulate_steps",
            parts,
            f"a divisor of the {config.batch_size // device_count} images that each device has of a batch",
        )
    if config.shard_optimizer:
        _require(config.parallel == "jit", "shard_optimizer", True, "False with parallel=pmap")


def _validate_model(model: ModelConfig) -> None:
    stages = len(model.encoder_filters) - 1
    for name in ("image_shape", "encoder_filters", "decoder_filters", "discriminator_filters", "discriminator_strides"):
        value = getattr(model, name)
        _require(len(value) >= 1 and min(value) >= 1, f"model.{name}", value, "numbers of at least 1")
    _require(len(model.image_shape) == 3, "model.image_shape", model.image_shape, "(height, width, channels)")
    _require(stages >= 1, "model.encoder_filters", model.encoder_filters, "the stem's and at least one stage's")
    height, width, channels = model.image_shape
    _require(
        height % 2**stages == 0 and width % 2**stages == 0,
        "model.image_shape",
        model.image_shape,
        f"a height and width that {2**stages} divides, since model.encoder_filters has {stages} stages, each of which"
        " halves the size",
    )
    _require(
        len(model.decoder_filters) == stages + 1,
        "model.decoder_filters",
        model.decoder_filters,
        f"{stages + 1} numbers, as many as model.encoder_filters has",
    )
    _require(
        model.decoder_filters[-1] == channels,
        "model.decoder_filters",
        model.decoder_filters,
        f"a list that ends with {channels}, the channels of model.image_shape",
    )
    _require(model.latent_dim >= 8, "model.latent_dim", model.latent_dim, "at least 8")
    for name in ("encoder_identity_blocks", "decoder_identity_blocks"):
        _require(getattr(model, name) >= 0, f"model.{name}", getattr(model, name), "0 or more")
    _require(
        len(model.discriminator_strides) == len(model.discriminator_filters),
        "model.discriminator_strides",
        model.discriminator_strides,
        f"{len(model.discriminator_filters)} numbers, as many as model.discriminator_filters has",
    )
    _require(
        model.discriminator_filters[-1] == 1,
        "model.discriminator_filters",
        model.discriminator_filters,
        "a list that ends with 1, the logit",
    )


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries of JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> Config:
    """The configuration from ``to_dict``'s form; fields that are not given keep their defaults.

    Raises:
      UserError: a field that does not exist.
    """
    return _from_dict(Config, values, "")


def flatten(config: Config) -> dict[str, Any]:
    """Every field's value, of JSON types, by dotted name."""
    return dict(_flatten(to_dict(config)))


def differences(ours: Config, theirs: Config) -> list[str]:
    """Fields in which two configurations differ, by dotted name."""
    ours_flat, theirs_flat = flatten(ours), flatten(theirs)
    return [name for name, value in ours_flat.items() if theirs_flat[name] != value]


def get_field(config: Config, name: str) -> Any:
    """The value of a field by dotted name."""
    return functools.reduce(getattr, name.split("."), config)


def literal_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """The fields that take one of a few words: dotted name and choices."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(field.type):
            yield from literal_fields(getattr(config, field.name), f"{prefix}{field.name}.")
        elif get_origin(field.type) is Literal:
            yield prefix + field.name, get_args(field.type)


def _from_dict(cls: type, values: dict[str, Any], prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise UserError(
                f"configuration field {prefix}{name} does not exist; {cls.__name__} has {', '.join(fields)}"
            )

    def convert(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _from_dict(fields[name].default_factory, value, f"{prefix}{name}.")
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: convert(name, value) for name, value in values.items()})


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _require(condition: bool, field: str, value: Any, expected: str) -> None:
    if not condition:
        raise UserError(f"--config.{field}={value!r}: expected {expected}")
