"""How close reconstructions are to their images, and how sharp and how diverse samples are: the figures of pixels."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from rvae_jax.evaluation.material import Label, Material
from rvae_jax.evaluation.metrics import grid, similarity
from rvae_jax.evaluation.results import ReconstructionFigures, SampleFigures
from rvae_jax.inference.batching import Batched

_MOST_VGG_PIXELS = 1 << 17  # in a batch: 32 images of 64x64, whose features by VGG16 take a quarter of a GB


class Comparison:
    """Compares images of one size; figures that need larger images are put into ``skipped``.

    Args:
      real: images that the texture of others is compared with.
      skipped: name of a figure to the reason that it is not measured.
    """

    def __init__(self, real: np.ndarray, skipped: dict[str, str]) -> None:
        height, width = real.shape[1:3]
        least = min(height, width)
        has_ssim, has_lpips = least >= similarity.SSIM_WINDOW, least >= similarity.LEAST_LPIPS_SIZE
        has_grid = least >= grid.LEAST_SIZE
        if not has_ssim:
            skipped["ssim"] = f"images of {height}x{width}; its window is 11x11"
        if not has_lpips:
            skipped["lpips"] = f"images of {height}x{width}; LPIPS needs at least 32x32"
        if not has_grid:
            skipped["grid_energy"] = f"images of {height}x{width}; its window is {grid.LEAST_SIZE}x{grid.LEAST_SIZE}"
        self.measure = Batched(functools.partial(_measure, has_ssim=has_ssim))
        self.lpips = Batched(similarity.lpips, similarity.load_lpips()) if has_lpips else None
        self.lpips_vgg = _lpips_vgg(height * width) if has_lpips else None
        self._texture = Batched(functools.partial(_texture, has_grid=has_grid))
        self._real = self._mean_texture(real)

    def texture(self, images: np.ndarray) -> dict[str, float]:
        """The fields ``sharpness``, ``grid_energy`` and ``seam_energy``, relative to the real images."""
        found, real = self._mean_texture(images), self._real
        figures = {"sharpness": found["sharpness"] / real["sharpness"]}
        if "spectrum" in found:
            figures["grid_energy"] = grid.grid_energy(found["spectrum"], real["spectrum"])
            figures["seam_energy"] = grid.seam_energy(found["seams"], real["sharpness"])
        return figures

    def _mean_texture(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values.mean(axis=0) for name, values in self._texture(images).items()}


def _lpips_vgg(pixels: int) -> Batched:
    batch_size = max(1, min(32, _MOST_VGG_PIXELS // pixels))
    measure = functools.partial(similarity.lpips, network="vgg16")
    return Batched(measure, similarity.load_lpips("vgg16"), batch_size)


def _measure(_: None, x: jax.Array, x_hat: jax.Array, *, has_ssim: bool) -> dict[str, jax.Array]:
    values = {"l1": similarity.l1(x, x_hat), "psnr": similarity.psnr(x, x_hat)}
    return values | {"ssim": similarity.ssim(x, x_hat)} if has_ssim else values


def _texture(_: None, x: jax.Array, *, has_grid: bool) -> dict[str, jax.Array]:
    values = {"sharpness": similarity.sharpness(x)}
    return values | {"spectrum": grid.local_spectrum(x), "seams": grid.seam_profile(x)} if has_grid else values


def measure_reconstruction(
    compare: Comparison, material: Material, label: Label, skipped: dict[str, str]
) -> ReconstructionFigures:
    """Compares reconstructions with their images."""
    images = material.images
    pair = images.held_out, material.reconstructions
    values = compare.measure(*pair, label=label("PSNR, SSIM"))
    of_training = compare.measure(images.training[images.matched], material.matched_reconstructions)
    equal = np.isinf(values["psnr"]).sum()
    if equal:
        skipped["psnr"] = f"{equal} reconstructions are equal to their image"
    perceptual: dict[str, Any] = {}
    if compare.lpips is not None and compare.lpips_vgg is not None:
        perceptual = {
            "lpips": compare.lpips(*pair, label=label("LPIPS")).mean(),
            "lpips_vgg": compare.lpips_vgg(*pair, label=label("LPIPS by VGG16")).mean(),
        }
    return ReconstructionFigures(
        l1=values["l1"].mean(),
        l1_training=of_training["l1"].mean(),
        psnr=None if equal else values["psnr"].mean(),
        ssim=values["ssim"].mean() if "ssim" in values else None,
        **compare.texture(material.reconstructions),
        **perceptual,
    )


def measure_generation(compare: Comparison, material: Material, seed: int, label: Label) -> dict[str, SampleFigures]:
    """Measures texture and diversity of real images (``real``) and of each sampler's."""
    images = material.images

    def figures(name: str, shown: np.ndarray) -> SampleFigures:
        diversity = None
        if compare.lpips is not None and len(shown) > 1:
            half = len(shown) // 2
            order = np.random.default_rng(seed).permutation(len(shown))
            pairs = shown[order[:half]], shown[order[half : 2 * half]]
            diversity = compare.lpips(*pairs, label=label(f"LPIPS: {name}")).mean()
        return SampleFigures(lpips_diversity=diversity, **compare.texture(shown))

    sets = {"real": images.training[images.matched], **material.samples}
    return {name: figures(name, shown) for name, shown in sets.items()}
