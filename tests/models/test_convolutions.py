import functools

import jax
import numpy as np
import pytest
from reference import relative_error
from small_networks import DIMENSIONS, assert_close, normal

from rvae_jax.models.convolutions import conv, conv_transpose, convolve, pointwise

pytestmark = pytest.mark.usefixtures("strict_promotion")


def _conv_transpose_by_loop(x, kernel):
    batch, height, width, _ = x.shape
    y = np.zeros((batch, 2 * height + 1, 2 * width + 1, kernel.shape[2]), np.float64)
    for i, j, k, m in np.ndindex(height, width, 3, 3):
        y[:, 2 * i + k, 2 * j + m] += np.float64(x[:, i, j]) @ np.float64(kernel[k, m]).T
    return y[:, :-1, :-1]


def _conv_transpose_gradients_by_loop(x, kernel, cotangent):
    x_bar, kernel_bar = np.zeros(x.shape), np.zeros(kernel.shape)
    padded = np.pad(np.float64(cotangent), ((0, 0), (0, 1), (0, 1), (0, 0)))
    for i, j, k, m in np.ndindex(*x.shape[1:3], 3, 3):
        here = padded[:, 2 * i + k, 2 * j + m]
        x_bar[:, i, j] += here @ np.float64(kernel[k, m])
        kernel_bar[k, m] += here.T @ np.float64(x[:, i, j])
    return x_bar, kernel_bar


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 4), (7, 3)])
def test_transposed_convolution_and_its_gradients_equal_jax_and_a_loop(size):
    x, kernel = normal(2, *size, 3), normal(3, 3, 5, 3, seed=1)
    cotangent = normal(2, 2 * size[0], 2 * size[1], 5, seed=2)

    def plain(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=DIMENSIONS, transpose_kernel=True)

    @functools.partial(jax.jit, static_argnums=0)
    def pull(function, x, kernel):
        y, backward = jax.vjp(function, x, kernel)
        return y, *backward(cotangent)

    by_loop = _conv_transpose_by_loop(x, kernel), *_conv_transpose_gradients_by_loop(x, kernel, cotangent)
    ours, jaxs = pull(conv_transpose, x, kernel), pull(plain, x, kernel)
    for mine, theirs, looped in zip(ours, jaxs, by_loop, strict=True):
        assert relative_error(mine, theirs) <= 2e-6
        assert relative_error(mine, looped) <= 2e-6


def _pull(function, cotangent, *arguments):
    y, backward = jax.vjp(function, *arguments)
    return y, *backward(cotangent)


@functools.cache
def _arguments(stride, offset, channels, size):
    """Input and cotangent of the convolution, and the kernel."""
    height, width = size
    large, small = normal(2, height * stride, width * stride, channels), normal(2, height, width, 5, seed=1)
    return large, small, normal(3, 3, channels, 5, seed=2)


@functools.cache
def _results_of_jax(stride, offset, channels, size):
    """Values and gradients of the convolution and of its transpose, as JAX itself computes them on every platform."""
    large, small, kernel = _arguments(stride, offset, channels, size)

    def plain(large, kernel):
        padding = (offset, 2 - stride if offset == 1 else 1)
        return jax.lax.conv_general_dilated(
            large, kernel, (stride, stride), (padding, padding), dimension_numbers=DIMENSIONS
        )

    def plain_transpose(small, kernel):
        return jax.linear_transpose(lambda large: plain(large, kernel), large)(small)[0]

    return (
        jax.jit(functools.partial(_pull, plain))(small, large, kernel),
        jax.jit(functools.partial(_pull, plain_transpose))(large, small, kernel),
    )


@pytest.mark.parametrize(("channels", "size"), [(3, (4, 3)), (6, (4, 3)), (3, (1, 2))])
@pytest.mark.parametrize(("stride", "offset"), [(1, 1), (2, 0), (2, 1)])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_convolutions_are_each_others_derivative(as_on, platform, stride, offset, channels, size):
    expected = _results_of_jax(stride, offset, channels, size)
    large, small, kernel = _arguments(stride, offset, channels, size)
    as_on(platform)

    @jax.jit
    def ours(large, small, kernel):
        return (
            _pull(lambda x, k: conv(x, k, stride, offset), small, large, kernel),
            _pull(lambda x, k: conv_transpose(x, k, stride, offset), large, small, kernel),
        )

    jax.tree.map(functools.partial(assert_close, tolerance=2e-6), ours(large, small, kernel), expected)


@pytest.mark.parametrize(("size", "offset"), [((5, 7), 0), ((5, 7), 1), ((5, 6), 0), ((5, 6), 1)])
def test_windows_of_stride_2_are_placed_right_for_even_and_odd_sizes(size, offset):
    x, kernel = normal(2, *size, 3), normal(3, 3, 3, 5, seed=1)
    # Every second pixel of the centred convolution of stride 1: from the second on where the size is even and the
    # offset is 0, otherwise from the first.
    begin = [1 if length % 2 == 0 and offset == 0 else 0 for length in size]
    full = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)
    assert_close(conv(x, kernel, 2, offset), full[:, begin[0] :: 2, begin[1] :: 2], 2e-6)


@pytest.mark.parametrize("size", [(3, 4), (16, 32)])
def test_pointwise_convolution_and_its_gradients_equal_numpy(size):
    x, kernel, cotangent = normal(2, *size, 5), normal(5, 6, seed=1), normal(2, *size, 6, seed=2)
    found = jax.jit(functools.partial(_pull, pointwise))(cotangent, x, kernel)
    of_kernel = np.einsum("bhwi,bhwo->io", np.float64(x), np.float64(cotangent))
    jax.tree.map(functools.partial(assert_close, tolerance=2e-6), found, (x @ kernel, cotangent @ kernel.T, of_kernel))


def test_a_program_for_one_platform_has_no_convolutions_of_another():
    x, kernel = normal(1, 4, 4, 3), normal(3, 3, 5, 3)
    text = jax.jit(conv_transpose).lower(x, kernel).as_text()
    assert "dot_general" in text
    assert "convolution" not in text


def test_images_smaller_than_the_kernel_are_not_convolved_on_cpus():
    def gradients(x, kernel):
        return jax.vjp(lambda x, kernel: conv(x, kernel, 1, 1), x, kernel)[1](x)

    for size, convolutions in ((3, 2), (2, 0)):
        text = jax.jit(gradients).lower(normal(1, size, size, 4), normal(3, 3, 4, 4)).as_text()
        assert text.count("stablehlo.convolution") == convolutions


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 2), (5, 2, 1), (4, 3, 1)])
def test_products_of_windows_equal_a_convolution(kernel, stride, padding):
    x, kernel, paddings = normal(2, 4, 3, 3), normal(kernel, kernel, 3, 5, seed=1), [(padding, padding)] * 2
    expected = jax.lax.conv_general_dilated(x, kernel, (stride, stride), paddings, dimension_numbers=DIMENSIONS)
    assert_close(convolve(x, kernel, stride, paddings), expected, 2e-6)
