"""Differentiable augmentation of what the discriminator sees, images and fakes alike (Zhao et al., 2020).

The discriminator then cannot learn its training images by heart, and fakes do not take on the augmentation, since they
are compared with augmented images after they are augmented themselves.
"""

import jax
import jax.numpy as jnp

# Random numbers an image: four decide what is done, six how.
NUMBERS = 10
# Half of the size along each axis, at most an eighth of it, on a scale of [-1, 1], and relative to 1.
CUTOUT, TRANSLATION, BRIGHTNESS, CONTRAST = 0.5, 0.125, 0.2, 0.2


def augment(images: jax.Array, numbers: jax.Array, probability: float) -> jax.Array:
    """Brightness, contrast, translation and cutout, each with a probability; differentiable in the images.

    * brightness: adds a number from -0.2 to 0.2;
    * contrast: multiplies the difference from the image's mean by a number from 0.8 to 1.2;
    * translation: by up to an eighth of the size along each axis, in whole pixels; 0 comes in from outside;
    * cutout: a box of half the size along each axis, centred on any pixel, becomes 0.

    Args:
      images: ``[b, H, W, C]`` in [-1, 1].
      numbers: uniform in [0, 1), ``[b, 10]``.
      probability: from 0 to 1.

    Returns:
      ``[b, H, W, C]``; values may be slightly beyond [-1, 1].

    Raises:
      ValueError: the shape of ``numbers`` is another.
    """
    if numbers.shape != (images.shape[0], NUMBERS):
        raise ValueError(f"augment: numbers have shape {numbers.shape}, expected {(images.shape[0], NUMBERS)}")
    is_done = numbers[:, :4] < probability
    amounts = [2.0 * numbers[:, i] - 1.0 for i in range(4, NUMBERS)]  # from -1 to 1
    brightness, contrast, down, right = (
        jnp.where(is_done[:, kind], amount, 0.0) for kind, amount in zip((0, 1, 2, 2), amounts[:4], strict=True)
    )
    images = images + _per_image(BRIGHTNESS * brightness)
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + (images - mean) * _per_image(1.0 + CONTRAST * contrast)
    images = _translate(images, down, right)
    is_cut = _near(images.shape[1], amounts[4])[:, :, None] & _near(images.shape[2], amounts[5])[:, None, :]
    return jnp.where((is_cut & is_done[:, 3, None, None])[..., None], 0.0, images)


def _translate(images: jax.Array, down: jax.Array, right: jax.Array) -> jax.Array:
    """Moves images by shares ``[b]``, from -1 to 1, of the largest translation.

    As products with matrices of zeros and ones, which accelerators and their gradients do faster than gathers.
    """
    rows, columns = (_moves(size, share) for size, share in zip(images.shape[1:3], (down, right), strict=True))
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("bij,bjwc->biwc", rows, images, precision=exact)
    return jnp.einsum("bij,bhjc->bhic", columns, images, precision=exact)


def _moves(size: int, share: jax.Array) -> jax.Array:
    """Matrices ``[b, size, size]`` that move a vector's entries on by ``share`` of an eighth of the size."""
    # Of equal probability: -n .. n, the ends included.
    most = int(TRANSLATION * size)
    by = jnp.clip(jnp.round(share * (most + 0.5)), -most, most).astype(jnp.int32)
    places = jnp.arange(size)
    return (places[None, :, None] - by[:, None, None] == places[None, None, :]).astype(jnp.float32)


def _near(size: int, centre: jax.Array) -> jax.Array:
    """Whether each place along an axis, from -1 to 1, is in the box around ``centre`` ``[b]``; ``[b, size]``."""
    places = (2.0 * jnp.arange(size, dtype=jnp.float32) + 1.0) / size - 1.0
    return jnp.abs(places[None, :] - centre[:, None]) < CUTOUT


def _per_image(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]
