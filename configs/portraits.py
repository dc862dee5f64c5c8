"""Colour portraits of people who do not exist, at 64x64 on two CPU cores; `:128` and `:256` for one GPU.

    python -m rvae_jax.prepare portraits --size 64
    python -m rvae_jax.main --config=configs/portraits.py --workdir=runs/portraits

Data: `prepare` generates 11,000 portraits with the package `random-face` (docs/data.md has the terms and the time that
it takes). Or take any prepared set of colour pictures, with --config.data.name=NAME.

The recipe: start as PCA and leave it untrained; a network that works at a quarter of the resolution and below; the
population KL, averaged over batches. The last 40 % of the run add texture: LPIPS of VGG-16 on random windows, and a
small discriminator on pixels and on VGG's features of the same windows. docs/results.md has what was measured. `:l1` is
without texture.

Cost: 4,000 steps of 32 images take 31 minutes on two cores, the first 2,400 of them 12 minutes; `:l1` takes 27 minutes.
`:128` and `:256` were not measured.
Expect: L1 0.087 on held-out portraits (PCA with as many numbers 0.097; `:l1` 0.085), LPIPS 0.068 (AlexNet) and 0.195
(VGG-16), gradient energy 0.57 of the images', rFID 63, FID of samples from the prior 89.
"""

from rvae_jax.config import (
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    make_tiny,
    replace_fields,
    require_variant,
    without_texture,
)


def get_config(variant: str | None = None) -> Config:
    require_variant(variant, ("tiny", "l1", "128", "256"))
    if variant in ("128", "256"):
        size = int(variant)
        return wide((size, size, 3), latent_dim=2 * size, steps=40_000)
    if variant == "l1":
        return l1(recipe((64, 64, 3), latent_dim=128, steps=6_000))
    config = recipe((64, 64, 3), latent_dim=128, steps=4_000)
    return make_tiny(config) if variant == "tiny" else config


def l1(config: Config) -> Config:
    """A recipe without the perceptual term and the discriminator, and so without what pulls at the codes."""
    return replace_fields(without_texture(config), {"select": "l1", "loss.population_weight": 1.0})


def wide(image_shape: tuple[int, int, int], latent_dim: int, steps: int) -> Config:
    """The same with wider networks, for a GPU; not yet measured."""
    levels = {64: (4, 3), 128: (4, 4), 256: (8, 4)}  # by height: the patch's size, and the number of levels
    patch_size, count = levels[image_shape[0]]
    crop = 64 if image_shape[0] > 64 else 0
    return replace_fields(
        recipe(image_shape, latent_dim, steps),
        {
            "batch_size": 64,
            "log_every": 100,
            "model.patch_size": patch_size,
            "model.widths": (128, 256, 512, 512)[:count],
            "model.blocks": (2,) * count,
            "model.last_width": 64,
            "model.discriminator_filters": (64, 128, 256, 256, 1),
            "model.dtype": "bfloat16",
            "loss.perceptual_stages": 5,
            "loss.perceptual_crop": crop,
            "loss.discriminator_crop": crop,
        },
    )


def recipe(image_shape: tuple[int, int, int], latent_dim: int, steps: int) -> Config:
    """The best that we have measured at 64x64, for images of any size."""
    return Config(
        batch_size=32,
        steps=steps,
        log_every=50,
        eval_every=0.1,
        select="last",
        model=ModelConfig(
            image_shape=image_shape,
            latent_dim=latent_dim,
            network="patches",
            linear_path="fixed",
            discriminator="patch+vgg16",
            discriminator_stages=3,
            discriminator_head_width=32,
            discriminator_filters=(16, 32, 64, 64, 1),
            discriminator_strides=(2, 2, 2, 1, 1),
        ),
        loss=LossConfig(
            population_weight=10.0,
            moments_decay=0.98,
            perceptual="vgg16",
            perceptual_weight=2500.0,
            perceptual_stages=3,
            perceptual_crop=32,
            discriminator_crop=32,
            clip=True,
            adversarial="hinge",
            adversarial_weight=0.6,
            adaptive_weight=True,
            lecam_weight=0.1,
            texture_start=0.6,
            adversarial_start=0.65,
            adversarial_ramp=0.05,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.02, schedule="cosine", beta1=0.9, ema_decay=0.995),
        data=DataConfig(
            name="portraits",
            train_split="train[:95%]",
            selection_split="train[95%:]",
            validation_split="validation+test",
        ),
    )
