"""What is not finite does not become finite; empty batches and complex numbers are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from case_parts import arrays_of
from cases import CASES

from rvae_jax import losses

# Arguments that the values do not depend on: means beside a covariance or a variance, and what only has a gradient.
WITHOUT_PART = {
    ("gaussian_total_correlation", 0),
    ("dip_penalty", 0),
    ("active_units", 0),
    ("mixture_elbo of moments", 3),
    ("r1_penalty of a linear discriminator", 0),
}
COUNTS = "correlation_shrinkage"  # of infinitely many codes it is the limit

PLACES = [
    (name, index)
    for name, case in CASES.items()
    for index in range(len(case.arguments))
    if (name, index) not in WITHOUT_PART and not name.startswith(COUNTS)
]


def _with(arrays, index, number):
    """The arguments, with another first number in one of them."""
    changed = [array.copy() for array in arrays]
    changed[index].flat[0] = number
    return changed


@pytest.mark.parametrize(("name", "index"), PLACES)
def test_what_depends_on_a_number_that_is_not_finite_is_not_finite(name, index):
    arrays = arrays_of(CASES[name])
    function = jax.jit(CASES[name].function)
    leaves = jax.tree.leaves(function(*arrays))
    others = [jax.tree.leaves(function(*_with(arrays, index, number))) for number in (0.01, 30.0)]
    depends = [any(not np.array_equal(leaf, other[i]) for other in others) for i, leaf in enumerate(leaves)]
    for number in (np.nan, np.inf, -np.inf):
        finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(function(*_with(arrays, index, number)))]
        assert not all(finite), number
        assert not any(a and b for a, b in zip(depends, finite, strict=True)), number


@pytest.mark.parametrize("loss", [losses.l1_reconstruction, losses.l2_reconstruction, losses.l1_sum, losses.l2_sum])
def test_a_pixel_that_is_not_finite_has_a_gradient_of_nan_and_no_other_has(loss):
    images = np.zeros((2, 2, 2, 1), np.float32)
    for number in (np.nan, np.inf):
        x_hat = images + np.float32(0.5)
        x_hat[1, 0, 1, 0] = number
        gradient = jax.jit(jax.grad(lambda x_hat: jnp.sum(loss(x_hat, images))))(x_hat)
        np.testing.assert_array_equal(np.isnan(gradient), ~np.isfinite(x_hat))


@pytest.mark.parametrize("name", CASES)
def test_complex_numbers_are_refused(name):
    arrays = [jax.ShapeDtypeStruct(argument.shape, np.complex64) for argument in CASES[name].arguments]
    with pytest.raises((ValueError, TypeError)):
        jax.eval_shape(CASES[name].function, *arrays)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, case in CASES.items()
        if name != "kl_by_dimension" and all(argument.shape[:1] == (5,) for argument in case.arguments)
    ],
)
def test_an_empty_batch_is_refused(name):
    arrays = [jax.ShapeDtypeStruct((0, *argument.shape[1:]), np.float32) for argument in CASES[name].arguments]
    with pytest.raises(ValueError, match=r"is empty, with shape \(0, |expected at least 2 rows"):
        jax.eval_shape(CASES[name].function, *arrays)


@pytest.mark.parametrize(("x64", "dtype"), [(False, np.float32), (True, np.float64)])
def test_first_states_are_of_the_default_type(x64, dtype):
    with jax.enable_x64(x64):
        states = (
            losses.init_moments_average(3),
            losses.init_moments_average(3, covariance=True),
            losses.init_means_queue(4, 3).means,
            losses.init_lecam_anchors(),
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {np.dtype(dtype)}
