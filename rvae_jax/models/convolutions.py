"""The convolutions of stride 2 and of a single tap, as pure functions whose derivatives are fast on CPUs, too.

What XLA's CPU backend has no fast program for is written as what it has one for, on CPUs only: the choice is made when
a program is compiled for a platform. Both forms are the same function; docs/performance.md has what each is worth.
"""

import functools

import jax
import jax.numpy as jnp

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Pixels whose part of both factors is in a core's cache.
_BLOCK = 256


def convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: str | tuple[int, int]) -> jax.Array:
    """Any convolution without a derivative of its own: ``[b, h, w, in]``, ``[k, k, in, out]``."""
    padding = padding if isinstance(padding, str) else (padding, padding)
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_stride_2(x: jax.Array, kernel: jax.Array, offset: int) -> jax.Array:
    """Convolution of stride 2: ``y[i] = sum_k x[2i + k - offset] kernel[k]``, k = 0..2 along both axes.

    Args:
      x: ``[b, 2h, 2w, in]``; zero beyond its edges.
      kernel: ``[3, 3, in, out]``.
      offset: 0, which is Keras's "same", or 1.

    Returns:
      ``[b, h, w, out]``.
    """
    return convolution(x, kernel, 2, (offset, 1 - offset))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose_stride_2(x: jax.Array, kernel: jax.Array, offset: int = 0) -> jax.Array:
    """Transposed convolution of stride 2: adds ``x[i] kernel[k]`` to ``y[2i + k - offset]``, k = 0..2 along both axes.

    It is the transpose of ``conv_stride_2`` in that one's ``x``, so that each is the other's derivative. Left to
    itself, JAX differentiates a convolution of a dilated input, whose kernel gradient is an order of magnitude slower
    on CPUs.

    Args:
      x: ``[b, h, w, in]``.
      kernel: ``[3, 3, out, in]``.
      offset: 0, which is Keras's "same" and drops the index 2n, or 1, which drops the index -1.

    Returns:
      ``[b, 2h, 2w, out]``.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_add_products, offset=offset),
        default=functools.partial(_convolve_dilated, offset=offset),
    )


def _convolve_dilated(x: jax.Array, kernel: jax.Array, offset: int) -> jax.Array:
    padding = (2 - offset, 1 + offset)
    return jax.lax.conv_transpose(
        x, kernel, (2, 2), (padding, padding), dimension_numbers=_DIMENSIONS, transpose_kernel=True
    )


def _add_products(x: jax.Array, kernel: jax.Array, offset: int) -> jax.Array:
    """One product with all nine taps, then sums of shifted results: no zeros of a dilated input are multiplied."""
    taps = kernel.transpose(3, 0, 1, 2)
    y = jnp.dot(x.reshape(-1, x.shape[-1]), taps.reshape(taps.shape[0], -1))
    y = y.reshape(*x.shape[:-1], *taps.shape[1:])  # [b, h, w, 3, 3, out]
    y = _interleave(y, axis=2, taps=4, offset=offset)  # [b, h, 2w, 3, out]
    return _interleave(y, axis=1, taps=3, offset=offset)


def _interleave(y: jax.Array, axis: int, taps: int, offset: int) -> jax.Array:
    """Adds ``y[i, k]`` to the result's ``2i + k - offset``, i along ``axis`` and k along ``taps``."""
    size = y.shape[axis]
    start, middle, end = (jax.lax.index_in_dim(y, k, taps, keepdims=False) for k in range(3))
    padding = [(0, 0)] * start.ndim
    if offset == 0:  # the end of the pixel before
        padding[axis] = (1, 0)
        both = start + jax.lax.slice_in_dim(jnp.pad(end, padding), 0, size, axis=axis), middle
    else:  # the start of the next pixel
        padding[axis] = (0, 1)
        both = middle, end + jax.lax.slice_in_dim(jnp.pad(start, padding), 1, size + 1, axis=axis)
    return jax.lax.collapse(jnp.stack(both, axis + 1), axis, axis + 2)


def _conv_forward(x: jax.Array, kernel: jax.Array, offset: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_stride_2(x, kernel, offset), (x, kernel)


def _conv_backward(
    offset: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return conv_transpose_stride_2(cotangent, kernel, offset), _gradient_in_kernel(x, kernel, offset, cotangent)


def _conv_transpose_forward(
    x: jax.Array, kernel: jax.Array, offset: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_transpose_stride_2(x, kernel, offset), (x, kernel)


def _conv_transpose_backward(
    offset: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return conv_stride_2(cotangent, kernel, offset), _gradient_in_kernel(cotangent, kernel, offset, x)


def _gradient_in_kernel(large: jax.Array, kernel: jax.Array, offset: int, small: jax.Array) -> jax.Array:
    """Gradient in the kernel; of the two convolutions' input and cotangent, which is large depends on which it is."""
    (gradient,) = jax.linear_transpose(lambda k: convolution(large, k, 2, (offset, 1 - offset)), kernel)(small)
    return gradient


conv_stride_2.defvjp(_conv_forward, _conv_backward)
conv_transpose_stride_2.defvjp(_conv_transpose_forward, _conv_transpose_backward)


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of a single tap: ``[b, h, w, in]`` and ``[in, out]`` to ``[b, h, w, out]``."""
    return _flat_product(x, kernel)


def _flat_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Flattened first: XLA's CPU backend is slow where several axes stay.
    return jnp.dot(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _pointwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return pointwise(x, kernel), (x, kernel)


def _pointwise_backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    kernel_gradient = jax.lax.platform_dependent(x, cotangent, cpu=_sum_over_blocks, default=_sum_over_pixels)
    return _flat_product(cotangent, kernel.T), kernel_gradient


def _sum_over_pixels(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    x, cotangent = (array.reshape(-1, array.shape[-1]) for array in (x, cotangent))
    return jnp.dot(x.T, cotangent)


def _sum_over_blocks(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The same, by blocks of an image's pixels that are transposed first: a long thin product is slow."""
    if x.shape[1] * x.shape[2] % _BLOCK:
        return _sum_over_pixels(x, cotangent)
    x, cotangent = (array.reshape(-1, _BLOCK, array.shape[-1]) for array in (x, cotangent))
    # The barrier keeps the compiler from making one of the transposition and the product.
    transposed = jax.lax.optimization_barrier(x.transpose(0, 2, 1))
    return jnp.sum(jnp.einsum("bip,bpo->bio", transposed, cotangent), axis=0)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)
