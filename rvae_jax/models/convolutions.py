"""The 3x3 and the 1x1 convolutions, as pure functions whose values and derivatives are fast on CPUs and on GPUs.

Where a platform's compiler has no fast program for an operation, the operation is written in another form on this
platform. The choice is made when a program is compiled for it. All forms are the same function; docs/performance.md has
the gain of each.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Number of pixels whose part of both factors fits in a core's cache.
_BLOCK = 256
# For a result with at most this many channels, cuDNN computes many more, of zeros.
_FEW = 4


def conv(x: jax.Array, kernel: jax.Array, stride: int, offset: int) -> jax.Array:
    """3x3 convolution: ``y[i] = sum_k x[s i + k - offset] kernel[k]``, k = 0..2 along both axes.

    Args:
      x: ``[b, s h, s w, in]``; zero beyond its edges.
      kernel: ``[3, 3, in, out]``.
      stride: s, 1 or 2.
      offset: 1, or with a stride of 2 also 0, which is Keras's "same". Along an axis of odd size it is always 1, as in
        Keras.

    Returns:
      ``[b, h, w, out]``, sizes rounded up where s does not divide them.
    """
    if x.shape[1] % stride or x.shape[2] % stride:
        return _convolve(x, kernel, stride, offset)  # with JAX's own derivative
    return _conv(x, kernel, stride, offset)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, stride: int, offset: int) -> jax.Array:
    return _convolve(x, kernel, stride, offset)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, offset: int) -> jax.Array:
    # With a stride of 2 and an offset of 1 no window reaches the padding after the last row. It is there because with
    # equal padding on both sides GPUs need no padded copy of x.
    return convolve(x, kernel, stride, [(1 if size % stride else offset, 1) for size in x.shape[1:3]])


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Convolution with a kernel of any size, with JAX's own derivative.

    Args:
      x: ``[b, h, w, in]``.
      kernel: ``[k, k, in, out]``.
      stride: along both axes.
      padding: zeros before and after each axis.
    """

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS)

    if min(x.shape[1:3]) >= len(kernel):
        return convolution(x, kernel)
    # XLA's CPU backend convolves images that are smaller than the kernel by a plain loop.
    product = functools.partial(_multiply_windows, stride=stride, padding=padding)
    return jax.lax.platform_dependent(x, kernel, cpu=product, default=convolution)


def _multiply_windows(x: jax.Array, kernel: jax.Array, stride: int, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """One product of the kernel with all windows, each copied to one row."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    for axis in (2, 1):
        outputs = (x.shape[axis] - len(kernel)) // stride + 1
        begins = range(len(kernel))
        shifted = [jax.lax.slice_in_dim(x, k, k + stride * (outputs - 1) + 1, stride, axis) for k in begins]
        x = jnp.concatenate(shifted, axis=-1)
    return _flat_product(x, kernel.reshape(-1, kernel.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(x: jax.Array, kernel: jax.Array, stride: int = 2, offset: int = 0) -> jax.Array:
    """Transposed 3x3 convolution: adds ``x[i] kernel[k]`` to ``y[s i + k - offset]``, k = 0..2 along both axes.

    It is the transpose of ``conv`` in ``x``, so that each is the other's derivative. By itself, JAX differentiates a
    convolution of a dilated input, whose kernel gradient is an order of magnitude slower on CPUs.

    Args:
      x: ``[b, h, w, in]``.
      kernel: ``[3, 3, out, in]``.
      stride: s, 1 or 2.
      offset: 1, which drops the index -1, or with a stride of 2 also 0, which is Keras's "same" and drops the index 2n.

    Returns:
      ``[b, s h, s w, out]``.
    """

    def convolve_dilated(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padding = (2 - offset, stride - 1 + offset)
        return jax.lax.conv_transpose(
            x, kernel, (stride, stride), (padding, padding), dimension_numbers=_DIMENSIONS, transpose_kernel=True
        )

    add_products = functools.partial(_add_products, stride=stride, offset=offset)
    # A small x is slow there as it is in `convolve`.
    forms = {"cpu": add_products} if stride == 2 or min(x.shape[1:3]) < len(kernel) else {}
    if kernel.shape[2] <= _FEW:
        forms["cuda"] = add_products
    return jax.lax.platform_dependent(x, kernel, **forms, default=convolve_dilated)


def _add_products(x: jax.Array, kernel: jax.Array, stride: int, offset: int) -> jax.Array:
    """One product with all nine taps, then sums of shifted results, without the zeros of a dilated input."""
    taps = kernel.transpose(3, 0, 1, 2)
    y = _flat_product(x, taps.reshape(taps.shape[0], -1))
    y = y.reshape(*x.shape[:-1], *taps.shape[1:])  # [b, h, w, 3, 3, out]
    y = _scatter(y, axis=2, taps=4, stride=stride, offset=offset)  # [b, h, s w, 3, out]
    return _scatter(y, axis=1, taps=3, stride=stride, offset=offset)


def _scatter(y: jax.Array, axis: int, taps: int, stride: int, offset: int) -> jax.Array:
    """Adds ``y[i, k]`` to the result's ``s i + k - offset``, i along ``axis`` and k along ``taps``."""

    def shifted(part: jax.Array, by: int) -> jax.Array:
        padding = [(0, 0)] * part.ndim
        padding[axis] = (max(by, 0), max(-by, 0))
        begin = max(-by, 0)
        return jax.lax.slice_in_dim(jnp.pad(part, padding), begin, begin + part.shape[axis], axis=axis)

    start, middle, end = (jax.lax.index_in_dim(y, k, taps, keepdims=False) for k in range(3))
    if stride == 1:
        return shifted(start, -1) + middle + shifted(end, 1)
    both = (start + shifted(end, 1), middle) if offset == 0 else (middle, end + shifted(start, -1))
    return jax.lax.collapse(jnp.stack(both, axis + 1), axis, axis + 2)


def _conv_forward(
    x: jax.Array, kernel: jax.Array, stride: int, offset: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(x, kernel, stride, offset), (x, kernel)


def _conv_backward(
    stride: int, offset: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    kernel_gradient = _kernel_gradient(x, kernel, cotangent, stride, offset)
    return conv_transpose(cotangent, kernel, stride, offset), kernel_gradient


def _conv_transpose_forward(
    x: jax.Array, kernel: jax.Array, stride: int, offset: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_transpose(x, kernel, stride, offset), (x, kernel)


def _conv_transpose_backward(
    stride: int, offset: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    kernel_gradient = _kernel_gradient(cotangent, kernel, x, stride, offset)
    return _conv(cotangent, kernel, stride, offset), kernel_gradient


def _kernel_gradient(large: jax.Array, kernel: jax.Array, small: jax.Array, stride: int, offset: int) -> jax.Array:
    """Gradient in the kernel; ``large`` is the input of ``conv``, or the cotangent of ``conv_transpose``."""
    (gradient,) = jax.linear_transpose(lambda kernel: _convolve(large, kernel, stride, offset), kernel)(small)
    return gradient


_conv.defvjp(_conv_forward, _conv_backward)
conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of a single tap: ``[b, h, w, in]`` and ``[in, out]`` to ``[b, h, w, out]``."""

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel[None, None], (1, 1), "VALID", dimension_numbers=_DIMENSIONS)

    return jax.lax.platform_dependent(x, kernel, cuda=convolution, default=_flat_product)


def _flat_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Flattened first, since XLA's CPU backend is slow for products with several batch axes.
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
    """The same, by blocks of an image's pixels that are transposed first; one long thin product would be slow."""
    if x.shape[1] * x.shape[2] % _BLOCK:
        return _sum_over_pixels(x, cotangent)
    x, cotangent = (array.reshape(-1, _BLOCK, array.shape[-1]) for array in (x, cotangent))
    # The barrier keeps the compiler from fusing the transposition into the product.
    transposed = jax.lax.optimization_barrier(x.transpose(0, 2, 1))
    return jnp.sum(jnp.einsum("bip,bpo->bio", transposed, cotangent), axis=0)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)
