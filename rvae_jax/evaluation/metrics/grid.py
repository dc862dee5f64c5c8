"""Whether images have a grid that their network made: a pattern of period 2 or 4, or seams between cells of that size.

``local_spectrum`` and ``seam_profile`` give values for each image; ``grid_energy`` and ``seam_energy`` take the means
of these over a set of images.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rvae_jax.data.pixels import to_float

LEAST_SIZE = 16  # height and width, of one window
_BINS = 8  # frequencies k/8 cycles per pixel
_STRIDE = 8
_CELL = 4
_WINDOW = np.hanning(LEAST_SIZE + 1)[:-1].astype(np.float32)
_LEAST_POWER = 1e-12  # a flat image's logarithm is finite
_LEAST_REAL = (7 / 127.5) ** 2  # of real images, as of noise of 7 levels: beside smoother ones half a level would count

# Frequencies of patterns of period 2 and 4 in eighths, one of each pair (k, l) and (-k, -l). (2, 0) and (0, 2) are left
# out: pictures have edges along the axes, and so have more there than beside it.
_LINES = ((2, 2), (2, 6), (2, 4), (4, 2), (4, 0), (0, 4), (4, 4))
_BESIDE = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]


def local_spectrum(images: jax.Array) -> jax.Array:
    """Energy at the frequencies ``(k/8, l/8)`` cycles per pixel, ``[n, 8, 8]``.

    ``P[k, l] = mean |F[k, l]|^2 / sum w^2``, where F is the Fourier transform of 16x16 pixels times the Hann window w,
    and the mean is over channels and over such squares, 8 pixels apart. White noise of variance v has P = v.

    Args:
      images: uint8 ``[n, h, w, c]``, at least 16x16; measured on the scale of [-1, 1].

    Raises:
      ValueError: the images are smaller.
    """
    if min(images.shape[1:3]) < LEAST_SIZE:
        raise ValueError(f"images have shape {images.shape}; expected at least {LEAST_SIZE}x{LEAST_SIZE} pixels")
    x = _folded(_folded(to_float(images), axis=1), axis=2)
    return jnp.mean(jnp.square(jnp.abs(jnp.fft.fft2(x))), axis=(1, 2, 3)) / np.sum(np.square(_WINDOW)) ** 2


def _folded(x: jax.Array, axis: int) -> jax.Array:
    """Windows along an axis, as a last axis whose transform of 8 points is every second value of that of 16."""
    starts = np.arange(0, x.shape[axis] - LEAST_SIZE + 1, _STRIDE)
    parts = jnp.moveaxis(jnp.take(x, np.add.outer(starts, np.arange(LEAST_SIZE)), axis=axis), axis + 1, -1)
    parts *= _WINDOW.reshape([1] * (parts.ndim - 1) + [-1])
    return parts.reshape(*parts.shape[:-1], LEAST_SIZE // _BINS, _BINS).sum(axis=-2)


def grid_energy(spectrum: np.ndarray, real: np.ndarray) -> float:
    """Energy at the frequencies of patterns of period 2 and 4 in excess of that beside them, relative to real images'.

    ``sum g (P - P_beside) / sum g P_real`` over the frequencies (k/4, l/4), where P_beside is the geometric mean of P
    at the eight frequencies around each, and ``g = sin^2(pi k/4) + sin^2(pi l/4)`` turns energy into gradient energy.
    About 0 for white noise, and for a power of the frequency, whose logarithm is harmonic: so for photographs. The
    denominator is at least that of white noise of 7 levels of 255, so that a checkerboard of half a level, which nobody
    sees, stays below 0.1 beside images however smooth.

    Args:
      spectrum: mean of ``local_spectrum`` over the images.
      real: the same over real images.
    """
    logarithm = np.log(np.maximum(np.asarray(spectrum, np.float64), _LEAST_POWER))
    excess = energy = least = 0.0
    for k, l in _LINES:  # noqa: E741
        beside = np.exp(np.mean([logarithm[(k + a) % _BINS, (l + b) % _BINS] for a, b in _BESIDE]))
        weight = np.square(np.sin(np.pi * k / _BINS)) + np.square(np.sin(np.pi * l / _BINS))
        weight *= 1 if {k, l} <= {0, _BINS // 2} else 2  # (-k, -l) has the same energy
        excess += weight * (spectrum[k, l] - beside)
        energy += weight * real[k, l]
        least += weight * _LEAST_REAL
    return float(excess / max(energy, least))


def seam_profile(images: jax.Array) -> jax.Array:
    """How much the gradient energy between two columns (or rows) exceeds that of its neighbours, by position in a cell.

    With ``e[i]`` the mean of ``(x[i+1] - x[i])^2``, the mean of ``e[i] - (e[i-1] + e[i+1]) / 2`` over all ``i`` with
    the same remainder of 4, ``[n, 2, 4]``: of rows, then of columns.

    Args:
      images: uint8 ``[n, h, w, c]``, at least 16x16; measured on the scale of [-1, 1].
    """
    x = to_float(images)
    profiles = []
    for axis, other in ((1, 2), (2, 1)):
        e = jnp.mean(jnp.square(jnp.diff(x, axis=axis)), axis=(other, 3))
        excess = e[:, 1:-1] - (e[:, :-2] + e[:, 2:]) / 2
        profiles.append(jnp.stack([excess[:, i::_CELL].mean(axis=1) for i in range(_CELL)], axis=1))
    return jnp.stack(profiles, axis=1)


def seam_energy(profile: np.ndarray, real_sharpness: float) -> float:
    """Gradient energy at the seams between cells in excess of that beside them, over real images' gradient energy.

    The sum of the profile's positive values, divided by 4. 0 without seams; 1 if the images are constant in cells of
    2x2 or 4x4 and have the real images' gradient energy, which counts as at least that of noise of 7 levels of 255.

    Args:
      profile: mean of ``seam_profile`` over the images.
      real_sharpness: mean of ``similarity.sharpness`` over real images.
    """
    energy = max(float(real_sharpness), 4 * _LEAST_REAL)  # white noise of variance v has 4 v
    return float(np.maximum(np.asarray(profile, np.float64), 0.0).sum() / _CELL / energy)
