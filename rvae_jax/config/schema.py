"""The fields of a run's configuration, with their defaults: the paper's 256x256 setting.

The fields in ``SCHEDULES`` are whole numbers of steps or, below 1, shares of the run's ``steps``; ``schedules`` has the
rounding.

Other modules treat a configuration as constant and change copies (``replace_fields``). The classes are not frozen,
because ``--config.FIELD=VALUE`` and configuration files set attributes.
"""

import dataclasses
from typing import Literal


# Flax expects hashable attributes, and the networks hold one of these.
@dataclasses.dataclass(unsafe_hash=True)
class ModelConfig:
    """The networks; see ``models.VAE`` and ``models.Discriminator``.

    The author's encoder and decoder have R stages each. A stage of the encoder halves the size of the image, and a
    stage of the decoder doubles it, so 2^R must divide the height and the width. Those of patches have L levels, one
    per width, each at half the resolution of the one before, so ``patch_size`` 2^(L-1) must divide them.

    Attributes:
      image_shape: (height, width, channels) of the training images.
      latent_dim: dimensions of the code, at least 2.
      network: ``paper``, the author's, or ``patches``, which work at a ``patch_size``-th of the resolution and below.
      linear_path: whether a linear encoder and decoder lie beside the networks, which start as the principal components
        of the training images: ``none``; ``fixed``, which stay so; or ``trained``.
      patch_size: of ``patches``: pixels a side that become the channels of one position.
      widths: of ``patches``: channels at each level.
      blocks: of ``patches``: residual blocks at each level, in the encoder and in the decoder.
      last_width: of ``patches``: channels of the decoder's last block, at twice the first level's resolution, which
        also sees the linear path's image; 0 for none.
      encoder_filters: f_0 .. f_R, channels of the encoder's stem and after each of its stages.
      decoder_filters: g_0 .. g_R, channels of the decoder's stem and after each of its stages; g_R is the image's.
      encoder_identity_blocks: identity blocks in each stage of the encoder.
      decoder_identity_blocks: identity blocks in each stage of the decoder.
      discriminator: what the discriminator sees: pixels (``patch``, a PatchGAN), feature maps of a network that was
        trained on ImageNet and stays as it is (``vgg16``, ``alexnet``), or both. Each map of logits counts alike.
      discriminator_stages: number of the network's feature maps, from the finest on, that it sees.
      discriminator_head_width: channels of its small network on each of these maps.
      discriminator_filters: channels of the PatchGAN's layers; the last is 1.
      discriminator_strides: strides of the PatchGAN's layers.
      norm: ``frozen``, as in the author's program (inference form, constant statistics), or ``batch``, real BatchNorm.
      input_norm: whether the encoder normalises each image first, as the author's does. The code then cannot represent
        the image's brightness and contrast.
      dtype: type that convolutions compute in. Parameters, statistics, codes and images are always float32.
    """

    image_shape: tuple[int, int, int] = (256, 256, 3)
    latent_dim: int = 512
    network: Literal["paper", "patches"] = "paper"
    linear_path: Literal["none", "fixed", "trained"] = "none"
    patch_size: int = 4
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (1, 1, 1)
    last_width: int = 32
    encoder_filters: tuple[int, ...] = (128, 128, 128, 128, 128, 128, 128)
    decoder_filters: tuple[int, ...] = (128, 128, 128, 128, 128, 128, 3)
    encoder_identity_blocks: int = 2
    decoder_identity_blocks: int = 1
    discriminator: Literal["patch", "vgg16", "alexnet", "patch+vgg16", "patch+alexnet"] = "patch"
    discriminator_stages: int = 4
    discriminator_head_width: int = 64
    discriminator_filters: tuple[int, ...] = (128, 128, 128, 64, 64, 1)
    discriminator_strides: tuple[int, ...] = (2, 2, 2, 1, 1, 1)
    norm: Literal["frozen", "batch"] = "frozen"
    input_norm: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def head_channels(self) -> int:
        """Channels between the author's networks and the code: an eighth of the code's dimensions, at least 1."""
        return max(1, self.latent_dim // 8)

    @property
    def resolutions(self) -> int:
        """Stages or levels of the encoder, each at another resolution."""
        return len(self.encoder_filters) - 1 if self.network == "paper" else len(self.widths)


@dataclasses.dataclass
class LossConfig:
    """The objective; see ``losses``. A weight multiplies a term; a ramp raises its weight linearly from 0 to full.

    Attributes:
      kl: ``population``, the paper's KL of the population of codes plus the variance regularizer, or ``standard``, the
        usual KL of each image.
      moments: moments of the population: ``means`` (the released code's) or ``mixture`` (law of total variance). With
        ``mixture`` and a ``variance_target`` of 1 the two KL terms favour collapse; choose a lower target. The terms
        mmd, sliced and dip compare the same population with N(0, I).
      covariance: of the population: ``diagonal`` (the paper's) or ``full``, so that the population KL sees correlation.
      moments_decay: decay of an average of the moments over the batches, for instance 0.98; with 0, the moments are
        those of one batch.
      adversarial: ``bce`` (the paper's), ``hinge``, ``least_squares``, or ``none`` for no discriminator.
      reconstruction: ``l1``, the mean absolute error, ``l2``, the mean squared error, or the negative log likelihood of
        a ``laplace`` or ``gaussian`` density at its best scale (sigma-VAE), in nats per image.
      reconstruction_weight: of the reconstruction; 1 for a likelihood.
      perceptual: the network whose LPIPS (version 0.1) is added, ``vgg16``, ``alexnet`` or ``none``. AlexNet's alone
        rewards speckles; see docs/objective.md.
      perceptual_weight: of it.
      perceptual_stages: how many of the network's stages it sees, from the first, 1 to 5.
      perceptual_crop: side of a random window of each image that it sees, or 0 for complete images.
      clip: whether the perceptual term and the discriminator see reconstructions and samples clipped to [-1, 1], as
        they are shown; the gradient passes as if they were not clipped.
      population_weight: of the population KL.
      variance_weight: of the variance regularizer; 0.2 is the author's 0.1 x sum, written as a KL.
      variance_target: posterior variance at which the regularizer is zero.
      beta: of the standard KL; used only with ``kl="standard"``.
      free_bits: nats that each dimension of the standard KL has free; used only with ``kl="standard"``.
      mixture_kl_weight: of the Monte Carlo KL of the mixture of the batch's posteriors; with 0, it and each of the next
        four is not computed.
      total_correlation_weight: of the mixture's total correlation, added to either KL: beta - 1 of beta-TCVAE.
      mmd_weight: of the maximum mean discrepancy of the codes and draws from N(0, I).
      sliced_weight: of the test of the codes' characteristic function on 256 random lines.
      dip_weight: of the squared distance of the codes' covariance in the batch from the identity, DIP-VAE-I with
        ``moments="means"``, II with ``mixture``.
      discriminator_crop: side of a random window of each image whose features the discriminator sees, or 0 for those of
        complete images. If it is perceptual_crop, it is the same window, and features of it are computed once.
      adversarial_weight: of the generator's loss and of the discriminator's.
      kl_start: first step with a KL term; steps, or, below 1, a share of the run's steps.
      kl_ramp: from there, until the KL terms have full weight; steps or a share.
      texture_start: first step with the perceptual term and the discriminator; before it, neither is computed or
        trained, and a step takes a fraction of the time; steps or a share.
      adversarial_start: first step at which the VAE is trained against the discriminator, which itself learns from
        ``texture_start`` on; steps or a share.
      adversarial_ramp: from there, until the generator's loss has full weight; steps or a share.
      prior_fakes: share of the fakes, in both players' losses, that are decoded from codes drawn from N(0, I); the rest
        are reconstructions. 0.5 is DC-VAE's. The batch is decoded together with as many codes as are this share of it.
      adaptive_weight: whether ``adversarial_weight`` is relative: 1 makes the generator's gradient in a reconstruction
        as long as that of the reconstruction's terms, each averaged over past steps.
      r1_weight: of R1, the squared gradient of the discriminator at the images, relative to the discriminator's loss;
        gamma/2 in the literature.
      r1_every: steps from one with R1, times this number, to the next.
      lecam_weight: of the LeCam penalty, relative to the discriminator's loss.
      augment: probability of each augmentation of what the discriminator sees; see ``training.augmentation``.
    """

    kl: Literal["population", "standard"] = "population"
    moments: Literal["means", "mixture"] = "means"
    covariance: Literal["diagonal", "full"] = "diagonal"
    moments_decay: float = 0.0
    adversarial: Literal["bce", "hinge", "least_squares", "none"] = "bce"
    reconstruction: Literal["l1", "l2", "gaussian", "laplace"] = "l1"
    reconstruction_weight: float = 5000.0
    perceptual: Literal["none", "vgg16", "alexnet"] = "none"
    perceptual_weight: float = 2500.0
    perceptual_stages: int = 5
    perceptual_crop: int = 0
    clip: bool = False
    population_weight: float = 1.0
    variance_weight: float = 0.2
    variance_target: float = 1.0
    beta: float = 1.0
    free_bits: float = 0.0
    mixture_kl_weight: float = 0.0
    total_correlation_weight: float = 0.0
    mmd_weight: float = 0.0
    sliced_weight: float = 0.0
    dip_weight: float = 0.0
    discriminator_crop: int = 0
    adversarial_weight: float = 100.0
    kl_start: float = 0.0
    kl_ramp: float = 0.0
    texture_start: float = 0.0
    adversarial_start: float = 0.0
    adversarial_ramp: float = 0.0
    prior_fakes: float = 0.0
    adaptive_weight: bool = False
    r1_weight: float = 0.0
    r1_every: int = 16
    lecam_weight: float = 0.0
    augment: float = 0.0


@dataclasses.dataclass
class OptimizerConfig:
    """Adam, for the VAE and for the discriminator; see ``training.optimizer``.

    Attributes:
      learning_rate: after the warm-up.
      discriminator_learning_rate: likewise, of the discriminator; None for the same. Both have the same schedule; the
        discriminator's counts from ``loss.texture_start``.
      warmup: how long the learning rate rises linearly from 0; steps, or, below 1, a share of the run's steps.
      schedule: ``constant``, or ``cosine`` down to 0 at the last step.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to the bias-corrected root of the second moment.
      clip_norm: largest global norm of each network's gradient, or None.
      ema_decay: decay of an exponential average of the VAE's weights, or None. Wherever the VAE is evaluated, the
        average is used.
    """

    learning_rate: float = 1e-4
    discriminator_learning_rate: float | None = None
    warmup: float = 0.0
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
        data set in array_record format with a feature ``image``; ``orl`` prepares itself.
      folder: a folder, zip or tar of pictures to train on. They are prepared once, at the model's size, with the splits
        train, validation and test; ``name`` follows from the folder's.
      data_dir: folder of prepared TFDS data sets, or None for TFDS's own default.
      train_split: training images.
      selection_split: images that choose the best checkpoint; they should not be among the reported ones.
      validation_split: held-out images; they are reported, and no decision uses them.
      crop: (height, width) of the centre crop, of which the largest box of the model's aspect ratio is taken, or None
        for the complete image.
      flip: whether training mirrors half of the images, at random.
      jitter: largest random zoom in training, in or out, as a share of the size; shifts go up to half of it. The author
        uses none; it helps with few images.
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
      batch_size: images per step, over all devices; the population's moments are taken over them.
      steps: length of the run.
      log_every: steps between two rows of metrics.
      eval_every: from one validation to the next, each with pictures and a checkpoint; steps, or, below 1, a share of
        the run's steps. There is always one after the last step.
      keep_checkpoints: how many of the newest checkpoints are kept, besides the best.
      select: which checkpoint is the run's result: ``l1``, the one with the least mean absolute error on the selection
        images, or ``last``. A discriminator and a perceptual term improve the pictures and raise that error: with them
        ``l1`` would choose a checkpoint from before they count.
      resume: what a run goes on from: ``newest``, its newest checkpoint, and an error if that is damaged; or
        ``last_complete``, the newest that is not damaged. The ones that are damaged are renamed then.
      parallel: how the step runs on several devices: ``jit`` over a mesh with global arrays, or ``pmap``; see
        ``distributed.sharding``. Both compute the same.
      shard_optimizer: whether each device keeps only a part of the optimizer's state (ZeRO-1); needs ``jit``.
      accumulate_steps: number of parts into which each device splits its share of the batch, to need less memory. The
        step is still that of the complete batch. Needs ``model.norm="frozen"``.
      remat_stages: number of stages, in the encoder and in the decoder, whose activations are computed again for the
        gradient instead of kept, those with the largest activations first. The step needs less memory, takes longer,
        and computes the same.
      model: the networks.
      loss: the objective.
      optimizer: the optimizer.
      data: the images.
    """

    seed: int = 0
    batch_size: int = 20
    steps: int = 400_000
    log_every: int = 100
    eval_every: float = 5_000
    keep_checkpoints: int = 2
    select: Literal["l1", "last"] = "l1"
    resume: Literal["newest", "last_complete"] = "newest"
    parallel: Literal["jit", "pmap"] = "jit"
    shard_optimizer: bool = False
    accumulate_steps: int = 1
    remat_stages: int = 0
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


# Fields that are numbers of steps, or shares of the run's.
SCHEDULES = (
    "loss.kl_start",
    "loss.kl_ramp",
    "loss.texture_start",
    "loss.adversarial_start",
    "loss.adversarial_ramp",
    "optimizer.warmup",
    "eval_every",
)


# Fields that may change when a run resumes in its work directory. None of them changes what a step computes, except
# that shares and the cosine schedule follow `steps`.
MAY_CHANGE = frozenset(
    {
        "steps",
        "log_every",
        "eval_every",
        "keep_checkpoints",
        "resume",
        "parallel",
        "shard_optimizer",
        "accumulate_steps",
        "remat_stages",
        "data.data_dir",
        "data.folder",
    }
)

# Fields that earlier versions stored by another name.
RENAMED = {
    "loss.kl_start_step": "loss.kl_start",
    "loss.kl_ramp_steps": "loss.kl_ramp",
    "loss.adversarial_start_step": "loss.adversarial_start",
    "loss.adversarial_ramp_steps": "loss.adversarial_ramp",
    "optimizer.warmup_steps": "optimizer.warmup",
}
