"""Distances of reconstructions from images: ``*_reconstruction`` is a mean over pixels, ``*_sum``, ``*_nll`` a sum."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays

LikelihoodKind = Literal["gaussian", "laplace"]
ImageDistance = Callable[[jax.Array, jax.Array], jax.Array]

LOG_SCALE_MIN = 0.5 * _arrays.LOG_VARIANCE_FLOOR
LOG_SCALE_MAX = 0.5 * _arrays.LOG_VAR_MAX


def l1_reconstruction(x_hat: jax.Array, x: jax.Array) -> jax.Array:
    """Mean absolute error of each image, ``mean_{h,w,c} |x - x_hat|``.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.

    Returns:
      ``[b]``, in the images' own unit (for images in [-1, 1]: from 0 to 2).

    Raises:
      ValueError: the shapes differ, or have no batch axis.
    """
    return _arrays.mean_over_rest("l1_reconstruction", jnp.abs(_error("l1_reconstruction", x_hat, x)))


def l2_reconstruction(x_hat: jax.Array, x: jax.Array) -> jax.Array:
    """Mean squared error of each image, ``mean_{h,w,c} (x - x_hat)^2``.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.

    Returns:
      ``[b]``, in the square of the images' own unit (for images in [-1, 1]: from 0 to 4).

    Raises:
      ValueError: the shapes differ, or have no batch axis.
    """
    return _arrays.mean_over_rest("l2_reconstruction", jnp.square(_error("l2_reconstruction", x_hat, x)))


def l1_sum(x_hat: jax.Array, x: jax.Array) -> jax.Array:
    """Sum of absolute errors of each image, ``sum_{h,w,c} |x - x_hat|``; ``h w c`` times ``l1_reconstruction``.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.

    Returns:
      ``[b]``, in the images' own unit.

    Raises:
      ValueError: the shapes differ, or have no batch axis.
    """
    return _arrays.sum_over_rest("l1_sum", jnp.abs(_error("l1_sum", x_hat, x)))


def l2_sum(x_hat: jax.Array, x: jax.Array) -> jax.Array:
    """Sum of squared errors of each image, ``sum_{h,w,c} (x - x_hat)^2``; ``h w c`` times ``l2_reconstruction``.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.

    Returns:
      ``[b]``, in the square of the images' own unit.

    Raises:
      ValueError: the shapes differ, or have no batch axis.
    """
    return _arrays.sum_over_rest("l2_sum", jnp.square(_error("l2_sum", x_hat, x)))


def perceptual_reconstruction(x_hat: jax.Array, x: jax.Array, distance: ImageDistance) -> jax.Array:
    """A distance that the caller supplies, such as LPIPS (Zhang et al., 2018), checked and in float32.

    The distance must be differentiable in its first argument. If it stops the gradient there, as code for evaluation
    may, the term trains nothing; stop the gradient of its weights instead.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``, passed to ``distance`` in at least float32.
      x: images, ``[b, h, w, c]``, likewise.
      distance: ``(x_hat, x) -> [b]``.

    Returns:
      ``[b]``, in the distance's unit.

    Raises:
      ValueError: the shapes differ, have no batch axis, or ``distance`` does not give ``[b]``.
    """
    _arrays.require_same_shape("perceptual_reconstruction", x_hat=x_hat, x=x)
    _arrays.require_batch_axis("perceptual_reconstruction", x=x)
    # The images as they are, so that XLA finds what others compute of them, too, such as features.
    result = distance(_arrays.as_float(x_hat), _arrays.as_float(x))
    _arrays.require_shape("perceptual_reconstruction", "distance's result", result, jnp.shape(x)[:1])
    return _arrays.at_least_float32(result)


def gaussian_nll(x_hat: jax.Array, x: jax.Array, log_scale: jax.Array) -> jax.Array:
    """-log N(x; x_hat, scale^2) of each image, ``sum_{h,w,c} 1/2 ((x - x_hat)/scale)^2 + log scale + 1/2 log 2 pi``.

    With ``log_scale`` a learned parameter, or ``optimal_log_scale``, the objective needs no weight between
    reconstruction and KL (sigma-VAE: Rybkin et al., 2021). The sum is over pixels and channels; with a mean, the KL's
    weight would effectively be larger by their number.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.
      log_scale: natural logarithm of the standard deviation, a scalar or of the images' shape (``jnp.broadcast_to``
        others). It is clipped to [-16.1, 20]; beyond, the gradient is the one at the end.

    Returns:
      ``[b]``, nats per image. The density is that of pixels in the images' unit, so the result can be negative.

    Raises:
      ValueError: the shapes do not match.
    """
    standardised, log_scale = _standardise("gaussian_nll", x_hat, x, log_scale)
    per_pixel = 0.5 * jnp.square(standardised) + log_scale + 0.5 * math.log(2 * math.pi)
    return _arrays.sum_over_rest("gaussian_nll", per_pixel)


def laplace_nll(x_hat: jax.Array, x: jax.Array, log_scale: jax.Array) -> jax.Array:
    """-log Laplace(x; x_hat, scale) of each image, ``sum_{h,w,c} |x - x_hat| / scale + log scale + log 2``.

    Up to a constant, ``l1_reconstruction`` with a weight w is this with ``scale = h w c / w``. The paper's 5000 is a
    scale of 39 at 256x256x3, while errors of images in [-1, 1] are near 0.1.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.
      log_scale: natural logarithm of the scale, as in ``gaussian_nll``.

    Returns:
      ``[b]``, nats per image; see ``gaussian_nll``.

    Raises:
      ValueError: the shapes do not match.
    """
    standardised, log_scale = _standardise("laplace_nll", x_hat, x, log_scale)
    per_pixel = jnp.abs(standardised) + log_scale + math.log(2)
    return _arrays.sum_over_rest("laplace_nll", per_pixel)


def optimal_log_scale(
    x_hat: jax.Array, x: jax.Array, *, kind: LikelihoodKind = "gaussian", axis_name: str | None = None
) -> jax.Array:
    """The maximum-likelihood scale of the batch: ``log sqrt(mean (x - x_hat)^2)``, or ``log mean |x - x_hat|``.

    Optimal sigma-VAE (Rybkin et al., 2021, Gaussian). The mean of ``gaussian_nll`` is then ``D/2 (1 + log(2 pi
    scale^2))`` and that of ``laplace_nll`` ``D (1 + log(2 scale))``, with D numbers per image: the log of the error is
    minimised. Stopping this function's gradient changes nothing, since the likelihood is stationary there.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.
      kind: ``gaussian`` or ``laplace``.
      axis_name: mapped axis over which the batch is split into equal parts; the scale is then that of the global batch.

    Returns:
      A scalar, natural logarithm of the scale in the images' unit. It is at least -16.1 (a scale of 1e-7); there it has
      no gradient.

    Raises:
      ValueError: the shapes differ, have no batch axis, or ``kind`` is unknown.
    """
    match kind:
        case "gaussian":
            squares = _arrays.batch_mean(l2_reconstruction(x_hat, x), axis_name)
            return 0.5 * jnp.log(jnp.maximum(squares, _arrays.VARIANCE_FLOOR))
        case "laplace":
            error = _arrays.batch_mean(l1_reconstruction(x_hat, x), axis_name)
            return jnp.log(jnp.maximum(error, _arrays.VARIANCE_FLOOR**0.5))
    raise ValueError(f"optimal_log_scale: kind is {kind!r}, expected 'gaussian' or 'laplace'")


def _error(function: str, x_hat: jax.Array, x: jax.Array) -> jax.Array:
    _arrays.require_same_shape(function, x_hat=x_hat, x=x)
    _arrays.require_batch_axis(function, x=x)
    return _arrays.at_least_float32(x) - _arrays.at_least_float32(x_hat)


def _standardise(function: str, x_hat: jax.Array, x: jax.Array, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The error in units of the scale, and the log of the scale, in the images' shape."""
    error = _error(function, x_hat, x)
    if jnp.ndim(log_scale) > 0:
        _arrays.require_same_shape(function, log_scale=log_scale, x=x)
    log_scale = _arrays.guard(_arrays.at_least_float32(log_scale), LOG_SCALE_MIN, LOG_SCALE_MAX)
    log_scale = jnp.broadcast_to(log_scale, error.shape)
    return error * jnp.exp(-log_scale), log_scale
