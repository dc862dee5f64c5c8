"""What a run is: nested typed dataclasses, their checks, and their form on disk.

A file in ``configs/`` defines ``get_config(variant=None) -> Config``; ``--config.model.latent_dim=64`` overrides a field.
The defaults are the paper's 256x256 setting.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any, Literal

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
      moments: moments of the population: ``means`` (the released code's) or ``mixture`` (law of total variance; with
        it the two KL terms favour collapse).
      adversarial: ``bce`` (the paper's), ``hinge``, or ``none`` for no discriminator.
      reconstruction_weight: of the mean absolute error.
      population_weight: of the population KL.
      variance_weight: of the variance regularizer; 0.2 is the author's 0.1 x sum, written as a KL.
      beta: of the standard KL, used with ``kl="standard"`` only.
      adversarial_weight: of the generator's and of the discriminator's loss.
      kl_start_step: first step with a KL term.
      kl_ramp_steps: steps until the KL terms have full weight.
      adversarial_start_step: first step at which the VAE feels the discriminator, which itself learns from step 0.
      adversarial_ramp_steps: steps until the generator's loss has full weight.
    """

    kl: Literal["population", "standard"] = "population"
    moments: Literal["means", "mixture"] = "means"
    adversarial: Literal["bce", "hinge", "none"] = "bce"
    reconstruction_weight: float = 5000.0
    population_weight: float = 1.0
    variance_weight: float = 0.2
    beta: float = 1.0
    adversarial_weight: float = 100.0
    kl_start_step: int = 0
    kl_ramp_steps: int = 0
    adversarial_start_step: int = 0
    adversarial_ramp_steps: int = 0


@dataclasses.dataclass
class OptimizerConfig:
    """Adam for both players; see ``train_state.make_optimizer``.

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
    """The images; see ``data.pipeline``.

    Attributes:
      name: a TFDS data set in array_record format with a feature ``image``; ``orl`` is ours, and prepares itself.
      data_dir: folder of prepared TFDS data sets, or None for TFDS's own default.
      train_split: images that are trained on.
      selection_split: images that choose the best checkpoint; not among those that are reported.
      validation_split: held-out images; they are reported, and decide nothing.
      crop: (height, width) of the centre crop, or None for the largest centred one of the model's aspect ratio.
      flip: whether training mirrors half of the images, at random.
    """

    name: str = "celeb_a_hq"
    data_dir: str | None = None
    train_split: str = "train[:80%]"
    selection_split: str = "train[80%:90%]"
    validation_split: str = "train[90%:]"
    crop: tuple[int, int] | None = None
    flip: bool = True


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
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
