"""Feature maps of networks that were trained to classify ImageNet, and the perceptual distance LPIPS between them.

The networks' weights are an argument. They are never trained and belong to no checkpoint.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rvae_jax.models import convolutions
from rvae_jax.models.layers import relu_of_conv

FeatureNetwork = Literal["alexnet", "vgg16"]
# One map per stage, [b, h, w, c] each, as `features` makes them.
Maps = Sequence[jax.Array]


class Stage(NamedTuple):
    """Part of a network: max pooling, then convolutions; the last one's ReLU is a feature map.

    Attributes:
      pool: side of the pooling's window, whose stride is 2; 1 for none.
      convolutions: how many there are.
    """

    pool: int
    convolutions: int


STAGES: dict[str, tuple[Stage, ...]] = {
    "alexnet": (Stage(1, 1), Stage(3, 1), Stage(3, 1), Stage(1, 1), Stage(1, 1)),
    "vgg16": (Stage(1, 2), Stage(2, 2), Stage(2, 3), Stage(2, 3), Stage(2, 3)),
}

# Channels of each stage's map.
CHANNELS = {"alexnet": (64, 192, 384, 256, 256), "vgg16": (64, 128, 256, 512, 512)}

# AlexNet's first convolution; all others have stride 1 and keep the size.
_FIRST_SIZE, _FIRST_STRIDE, _FIRST_PADDING = 11, 4, 2
# Of ImageNet's pixels in [-1, 1], per channel, as LPIPS has them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Added to the length of a pixel's feature vector, as in LPIPS.
_EPSILON = 1e-10


class FeatureWeights(struct.PyTreeNode):
    """Weights of the first stages of a network, and of LPIPS on their maps. A pytree, to be an argument of a program.

    Attributes:
      network: its name.
      convolutions: by stage, kernel ``[k, k, in, out]`` and bias ``[out]`` of each convolution.
      lpips: by stage, the weight of each channel's squared difference, ``[c]``, 0 or more.
    """

    network: FeatureNetwork = struct.field(pytree_node=False)
    convolutions: tuple[tuple[tuple[jax.Array, jax.Array], ...], ...]
    lpips: tuple[jax.Array, ...]


def features(weights: FeatureWeights, images: jax.Array) -> tuple[jax.Array, ...]:
    """Feature maps, ``f / (|f| + 1e-10)`` with ``|f|`` the length of a pixel's vector over the channels.

    The gradient in images is finite everywhere: it is 0 where a pixel's vector is 0. There is none in the weights.

    Args:
      weights: of as many stages as are wanted; no more is computed.
      images: ``[b, h, w, c]`` in [-1, 1], c 1 or 3; a single channel is repeated. The convolutions compute in its type.

    Returns:
      By stage ``[b, h_i, w_i, c_i]`` float32, each pixel of length 1 or 0.

    Raises:
      ValueError: the images have neither 1 nor 3 channels, or are too small for the stages.
    """
    weights = jax.lax.stop_gradient(weights)
    stages = STAGES[weights.network][: len(weights.convolutions)]
    _require_images(weights.network, stages, images.shape)
    shift, scale = (jnp.array(values, images.dtype)[None, None, None, :] for values in (_SHIFT, _SCALE))
    x = (jnp.broadcast_to(images, (*images.shape[:3], 3)) - shift) / scale
    maps = []
    for stage, layers in zip(stages, weights.convolutions, strict=True):
        x = _max_pool(x, stage.pool)
        for kernel, bias in layers:
            y = _convolve(x, jnp.asarray(kernel, x.dtype)) + jnp.asarray(bias, x.dtype)[None, None, None, :]
            x = relu_of_conv(y)
        maps.append(_of_unit_length(x.astype(jnp.float32)))
    return tuple(maps)


def lpips(weights: FeatureWeights, maps: Maps, others: Maps) -> jax.Array:
    """Learned perceptual distance, version 0.1 (Zhang et al., 2018): 0 for equal images.

    ``sum_i mean_pixels sum_c w_ic (f_ic - g_ic)^2`` over stages i and their channels c.

    Args:
      weights: that made the maps.
      maps: of images, by ``features``. The first few of them are enough; the sum is over these.
      others: of other images, equally many.

    Returns:
      ``[b]`` float32, 0 or more.
    """
    distances = [
        jnp.mean(jnp.square(a - b), axis=(1, 2)) @ jax.lax.stop_gradient(jnp.asarray(weight))
        for weight, a, b in zip(weights.lpips[: len(maps)], maps, others, strict=True)
    ]
    return sum(distances)


def least_size(network: FeatureNetwork, stages: int) -> int:
    """Least height and width of an image for the first ``stages`` stages of a network."""
    size = 1
    for stage in reversed(STAGES[network][:stages]):
        size = size if stage.pool == 1 else 2 * (size - 1) + stage.pool
    return (size - 1) * _FIRST_STRIDE + _FIRST_SIZE - 2 * _FIRST_PADDING if network == "alexnet" else size


def crop_corners(key: jax.Array, count: int, image_shape: Sequence[int], size: int) -> jax.Array:
    """Places of random square windows in images: rows and columns of their first pixels, uniform, int32 ``[count, 2]``.

    Args:
      key: a JAX random key.
      count: of images. A batch that is split, over devices or into parts, draws for all of it and then splits the
        corners as the images, so that an image's window does not depend on the layout.
      image_shape: height, width and channels.
      size: of the window; at most height and width.
    """
    highest = jnp.array([image_shape[0] - size + 1, image_shape[1] - size + 1], jnp.int32)
    return jax.random.randint(key, (count, 2), 0, highest[None, :])


def crop(images: jax.Array, corners: jax.Array, size: int) -> jax.Array:
    """The windows of ``crop_corners``: ``[b, h, w, c]`` and ``[b, 2]`` to ``[b, size, size, c]``."""

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (size, size, image.shape[-1]))

    return jax.vmap(window)(images, corners)


def _require_images(network: FeatureNetwork, stages: tuple[Stage, ...], shape: tuple[int, ...]) -> None:
    least = least_size(network, len(stages))
    if len(shape) != 4 or shape[3] not in (1, 3) or min(shape[1:3]) < least:
        raise ValueError(
            f"features: images have shape {shape}; {len(stages)} stages of {network} need [b, h, w, 1 or 3] of at least"
            f" {least}x{least} pixels"
        )


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    size = len(kernel)
    stride, padding = (_FIRST_STRIDE, _FIRST_PADDING) if size == _FIRST_SIZE else (1, size // 2)
    return convolutions.convolve(x, kernel, stride, [(padding, padding)] * 2)


def _max_pool(x: jax.Array, side: int) -> jax.Array:
    """Maxima of windows of stride 2 that lie within the image; as maxima of slices, whose gradient is fast on CPUs."""
    if side == 1:
        return x
    for axis in (1, 2):
        outputs = (x.shape[axis] - side) // 2 + 1
        slices = [jax.lax.slice_in_dim(x, k, k + 2 * outputs - 1, 2, axis) for k in range(side)]
        x = functools.reduce(jnp.maximum, slices)
    return x


def _of_unit_length(x: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    is_zero = squares == 0  # the square root has no derivative there
    length = jnp.sqrt(jnp.where(is_zero, 1.0, squares))
    return jnp.where(is_zero, 0.0, x / (length + _EPSILON))
