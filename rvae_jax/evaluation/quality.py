"""How close reconstructions are to their images, and how sharp and how diverse samples are: the figures of pixels."""

from __future__ import annotations

import functools

import jax
import numpy as np

from rvae_jax.evaluation.material import Label, Material
from rvae_jax.evaluation.metrics import similarity
from rvae_jax.evaluation.results import GenerationFigures, ReconstructionFigures, SampleFigures
from rvae_jax.inference.batching import Batched


class Comparison:
    """Compares images of one size, pair by pair; figures that need larger images are put into ``skipped``.

    Args:
      size: height and width of the images.
      skipped: name of a figure to the reason that it is not measured.
    """

    def __init__(self, size: tuple[int, int], skipped: dict[str, str]) -> None:
        height, width = size
        has_ssim, has_lpips = min(size) >= similarity.SSIM_WINDOW, min(size) >= similarity.LEAST_LPIPS_SIZE
        if not has_ssim:
            skipped["ssim"] = f"images of {height}x{width}; its window is 11x11"
        if not has_lpips:
            skipped["lpips"] = f"images of {height}x{width}; LPIPS needs at least 32x32"
        self.measure = Batched(functools.partial(_measure, has_ssim=has_ssim))
        self.lpips = Batched(similarity.lpips, similarity.load_lpips()) if has_lpips else None

    def sharpness(self, images: np.ndarray) -> float:
        """Mean gradient energy."""
        return self.measure(images, images)["sharpness"].mean()


def _measure(_: None, x: jax.Array, x_hat: jax.Array, *, has_ssim: bool) -> dict[str, jax.Array]:
    values = {
        "l1": similarity.l1(x, x_hat),
        "psnr": similarity.psnr(x, x_hat),
        "sharpness": similarity.sharpness(x),
        "sharpness_hat": similarity.sharpness(x_hat),
    }
    return values | {"ssim": similarity.ssim(x, x_hat)} if has_ssim else values


def measure_reconstruction(
    compare: Comparison, material: Material, label: Label, skipped: dict[str, str]
) -> ReconstructionFigures:
    """Compares reconstructions with their images."""
    images = material.images
    values = compare.measure(images.held_out, material.reconstructions, label=label("PSNR, SSIM"))
    of_training = compare.measure(images.training[images.matched], material.matched_reconstructions)
    equal = np.isinf(values["psnr"]).sum()
    if equal:
        skipped["psnr"] = f"{equal} reconstructions are equal to their image"
    lpips = None
    if compare.lpips is not None:
        lpips = compare.lpips(images.held_out, material.reconstructions, label=label("LPIPS")).mean()
    return ReconstructionFigures(
        l1=values["l1"].mean(),
        l1_training=of_training["l1"].mean(),
        sharpness=values["sharpness_hat"].mean() / values["sharpness"].mean(),
        psnr=None if equal else values["psnr"].mean(),
        ssim=values["ssim"].mean() if "ssim" in values else None,
        lpips=lpips,
    )


def measure_generation(compare: Comparison, material: Material, seed: int, label: Label) -> GenerationFigures:
    """Measures sharpness and diversity of real images and of each sampler's."""
    images = material.images
    held_out = compare.sharpness(images.held_out)

    def figures(name: str, shown: np.ndarray) -> SampleFigures:
        diversity = None
        if compare.lpips is not None and len(shown) > 1:
            half = len(shown) // 2
            order = np.random.default_rng(seed).permutation(len(shown))
            pairs = shown[order[:half]], shown[order[half : 2 * half]]
            diversity = compare.lpips(*pairs, label=label(f"LPIPS: {name}")).mean()
        return SampleFigures(sharpness=compare.sharpness(shown) / held_out, lpips_diversity=diversity)

    sets = {"real": images.training[images.matched], **material.samples}
    return GenerationFigures(**{name: figures(name, shown) for name, shown in sets.items()})
