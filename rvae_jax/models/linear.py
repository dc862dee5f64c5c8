"""The linear path beside the networks: a principal component analysis in both directions.

With m the mean image, v_k the components (orthonormal) and s_k the deviations of the images along them::

    encode: z_k = <x - m, v_k> / s_k          decode: x_hat = m + sum_k z_k s_k v_k

so that the codes of the images from which they come have mean 0 and covariance I. docs/objective.md says why this is
where a VAE should start.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from rvae_jax.config import ModelConfig

# Images are reduced to at most this many pixels a side: the components of large ones would need gigabytes.
_LARGEST_SIDE = 64


def reduction(height: int, width: int) -> int:
    """The factor by which images are reduced for the linear path: the least common divisor of their sides that does it.

    If none makes both sides at most 64, it is the largest common divisor.
    """
    common = math.gcd(height, width)
    divisors = [factor for factor in range(1, common + 1) if common % factor == 0]
    return next((factor for factor in divisors if max(height, width) <= factor * _LARGEST_SIDE), common)


class LinearPath(nn.Module):
    """The linear encoder and decoder. All zero until ``training.principal_components`` sets it.

    Its arrays are the mean image, the components and the deviations. They are statistics of the training images: part
    of ``batch_stats`` with ``linear_path="fixed"``, and of ``params`` with ``"trained"``. Images of more than 64 pixels
    a side are averaged over f x f pixels before ``encode``, and enlarged f times after ``decode``, f being
    ``reduction(height, width)``.

    Attributes:
      config: see ``VAE``.
    """

    config: ModelConfig

    def setup(self) -> None:
        height, width, channels = self.config.image_shape
        factor = reduction(height, width)
        shape = (height // factor, width // factor, channels)
        self.mean_image = self._array("mean_image", shape)
        self.components = self._array("components", (self.config.latent_dim, *shape))
        self.deviations = self._array("deviations", (self.config.latent_dim,))

    def _array(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        if self.config.linear_path == "trained":
            return self.param(name, nn.initializers.zeros, shape)
        return self.variable("batch_stats", name, jnp.zeros, shape).value

    def encode(self, x: jax.Array) -> jax.Array:
        """Images ``[b, H, W, C]`` to codes ``[b, latent_dim]``; 0 along a component of deviation 0."""
        height, width, channels = self.mean_image.shape
        factor = self.config.image_shape[0] // height
        if factor > 1:
            x = jnp.mean(x.reshape(x.shape[0], height, factor, width, factor, channels), axis=(2, 4))
        along = _product((x - self.mean_image[None]).reshape(x.shape[0], -1), self._flat_components().T)
        is_used = self.deviations > 0
        scale = jnp.where(is_used, 1.0 / jnp.where(is_used, self.deviations, 1.0), 0.0)
        return along * scale[None]

    def decode(self, z: jax.Array) -> jax.Array:
        """Codes ``[b, latent_dim]`` to images ``[b, H, W, C]``."""
        along = _product(z * self.deviations[None], self._flat_components())
        small = self.mean_image[None] + along.reshape(z.shape[0], *self.mean_image.shape)
        height, width, _ = self.config.image_shape
        return _enlarged(_enlarged(small, height, axis=1), width, axis=2)

    def _flat_components(self) -> jax.Array:
        return self.components.reshape(len(self.components), -1)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    # By default, GPUs and TPUs multiply in TF32 or bfloat16.
    return jnp.matmul(a.astype(jnp.float32), b, precision="highest")


def _enlarged(x: jax.Array, size: int, axis: int) -> jax.Array:
    """Images with ``size`` pixels along an axis, by cubic interpolation."""
    if x.shape[axis] == size:
        return x
    # As a product with a matrix: ``jax.image.resize`` of images cannot be exported for any batch.
    matrix = jax.image.resize(jnp.eye(x.shape[axis]), (size, x.shape[axis]), "cubic", precision="highest")
    x = jnp.moveaxis(x, axis, -1)
    y = _product(x.reshape(-1, x.shape[-1]), matrix.T).reshape(*x.shape[:-1], size)
    return jnp.moveaxis(y, -1, axis)
