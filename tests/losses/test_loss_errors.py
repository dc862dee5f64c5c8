"""What raises, and what the messages name."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

from rvae_jax import losses
from rvae_jax.losses import CovarianceMoments, Moments

# Their cases compute on the arrays first, and would fail there.
INDIRECT = ("r1_penalty", "update_means_queue", "update_moments_average of three", "lecam_penalty of three")
DIRECT = [name for name, case in CASES.items() if len(case.arguments) > 1 and not name.startswith(INDIRECT)]


# The lengths may differ: of a queue and the log variances of a batch, and of a batch and a given population.
OF_ANY_BATCH = {
    ("queue_moments mixture", 0),
    ("queue_moments mixture", 1),
    ("anchored_moments means", 2),
    ("anchored_moments of a covariance", 2),
    ("sliced_normality means", 0),
    ("sliced_normality means", 1),
    ("sliced_normality mixture", 2),
}


def _other_shapes(name, index):
    shape = CASES[name].arguments[index].shape
    for axis in range((name, index) in OF_ANY_BATCH, len(shape)):
        yield (*shape[:axis], 2 if shape[axis] == 1 else 1, *shape[axis + 1 :])
    yield (1, *shape)
    if shape:
        yield shape[1:]


MISMATCHES = [
    pytest.param(name, index, shape, id=f"{name}, argument {index} of shape {shape}")
    for name in DIRECT
    for index in range(len(CASES[name].arguments))
    for shape in _other_shapes(name, index)
]


@pytest.mark.parametrize(("name", "index", "shape"), MISMATCHES)
def test_shapes_that_do_not_match_are_named(name, index, shape):
    arrays = [jax.ShapeDtypeStruct(argument.shape, np.float32) for argument in CASES[name].arguments]
    arrays[index] = jax.ShapeDtypeStruct(shape, np.float32)
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError) as error:
        jax.eval_shape(CASES[name].function, *arrays)
    function, _, message = str(error.value).partition(": ")
    assert function in losses.__all__, error.value
    named = set(re.findall(r"\((?:\d+,? ?)*\)", message))
    assert len(named) >= (2 if len(shape) == len(CASES[name].arguments[index].shape) else 1), error.value


def _ones(*shape):
    return jnp.ones(shape)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: losses.gaussian_kl(x, x), (3,)),
        (losses.variance_regularizer, (3,)),
        (losses.variance_regularizer, (2, 3, 4)),
        (losses.batch_moments, (3,)),
        (losses.batch_moments, (2, 3, 4)),
        (functools.partial(losses.batch_covariance, shrinkage=0.1), (3,)),
        (losses.population_shape, (3,)),
        (lambda x: losses.population_kl(Moments(x, x)), (2, 3)),
        (lambda x: losses.population_kl(CovarianceMoments(x, x)), (3, 3)),
        (lambda x: losses.gaussian_total_correlation(CovarianceMoments(x, x)), (3, 3)),
        (lambda x: losses.dip_penalty(CovarianceMoments(x, x)), (3, 3)),
        (lambda x: losses.batch_norm_kl_bound(Moments(x, x)), (2, 3)),
        (lambda x: losses.active_units(Moments(x, x)), (2, 3)),
        (lambda x: losses.combine_moments(Moments(x, x)), (3,)),
        (lambda x: losses.shrink_covariance(CovarianceMoments(x, x), 0.1), (3, 3)),
        (lambda x: losses.anchored_moments(Moments(x, x), x), (3,)),
        (lambda x: losses.mixture_kl(x, x, x), (3,)),
        (lambda x: losses.mutual_information(x, x, x), (3,)),
        (lambda x: losses.kl_decomposition(x, x, x, dataset_size=9), (3,)),
        (lambda x: losses.free_bits_kl(x, x, free_nats=1.0), (3,)),
        (lambda x: losses.imq_mmd(x, x), (3,)),
        (lambda x: losses.sliced_normality(x, None, _ones(2, 3)), (3,)),
        (lambda x: losses.sliced_normality(_ones(2, 3), None, x), (3,)),
        (lambda x: losses.mixture_elbo(x, x, x), (3,)),
        (lambda x: losses.beta_vae(x, x, x), (3,)),
        (lambda x: losses.update_means_queue(losses.init_means_queue(5, 3), x), (3,)),
        (lambda x: losses.queue_moments(losses.init_means_queue(5, 3), x), (3,)),
    ],
)
def test_shape_with_a_wrong_number_of_axes_is_named(function, shape):
    with pytest.raises(ValueError, match="axes, got shape") as error:
        function(jnp.ones(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: losses.l1_reconstruction(x, x),
        lambda x: losses.l2_reconstruction(x, x),
        lambda x: losses.perceptual_reconstruction(x, x, lambda a, b: a),
        lambda x: losses.gaussian_nll(x, x, x),
        lambda x: losses.laplace_nll(x, x, x),
        lambda x: losses.optimal_log_scale(x, x),
        lambda x: losses.discriminator_loss(x, x),
        lambda x: losses.lecam_penalty(x, x, losses.init_lecam_anchors(), decay=0.9),
        lambda x: losses.r1_penalty(lambda images: images, x),
        lambda x: losses.r1_penalty(jnp.sum, jnp.stack([x, x])),
        losses.generator_loss,
        losses.fake_loss,
    ],
)
def test_scalar_in_place_of_a_batch_raises(function):
    with pytest.raises(ValueError, match="batch axis"):
        function(jnp.ones(()))


@pytest.mark.parametrize(
    "function",
    [
        lambda kind: losses.discriminator_loss(_ones(2, 3), _ones(2, 3), kind=kind),
        lambda kind: losses.generator_loss(_ones(2, 3), kind=kind),
        lambda kind: losses.fake_loss(_ones(2, 3), kind=kind),
        lambda kind: losses.optimal_log_scale(_ones(2, 3), _ones(2, 3), kind=kind),
        lambda kind: losses.mixture_elbo(_ones(2), _ones(2, 3), _ones(2, 3), moments=kind),
        lambda kind: losses.kl_decomposition(*[_ones(2, 3)] * 3, dataset_size=9, weighting=kind),
    ],
)
def test_unknown_kind_raises(function):
    with pytest.raises(ValueError, match="wasserstein"):
        function("wasserstein")


@pytest.mark.parametrize(
    ("function", "name", "allowed", "forbidden"),
    [
        (
            lambda number: losses.lecam_penalty(_ones(2), _ones(2), losses.init_lecam_anchors(), decay=number),
            "decay",
            [0, 0.999],
            [-0.1, 1, 1.0, 1.5, np.nan],
        ),
        (
            lambda number: losses.update_moments_average(
                losses.init_moments_average(3), Moments(_ones(3), _ones(3)), decay=number
            ),
            "decay",
            [0, 0.999],
            [-0.1, 1, 1.0, 1.5, np.nan],
        ),
        (
            lambda number: losses.batch_covariance(_ones(2, 3), shrinkage=number),
            "shrinkage",
            [0, 0.5, 1],
            [-0.1, 1.1, np.nan],
        ),
        (
            lambda number: losses.shrink_covariance(CovarianceMoments(_ones(3), _ones(3, 3)), number),
            "shrinkage",
            [0, 0.5, 1],
            [-0.1, 1.1, np.nan],
        ),
        (lambda number: losses.random_directions(jax.random.key(0), int(number), 3), "count", [1, 5], [0, -1]),
        (lambda number: losses.correlation_shrinkage(number, 3), "count", [0, 1e9], [-0.1, np.nan]),
        (
            lambda number: losses.codes_in_average(losses.init_moments_average(3), 4, decay=number),
            "decay",
            [0, 0.999],
            [-0.1, 1, 1.0, np.nan],
        ),
        (
            lambda number: losses.variance_regularizer(_ones(2, 3), target=number),
            "target",
            [1e-14, 1, 1e14],
            [0, -1.0, 1e-15, 1e15, np.nan],
        ),
        (
            lambda number: losses.mixture_elbo(_ones(2), _ones(2, 3), _ones(2, 3), variance_target=number),
            "target",
            [0.5],
            [0, -1.0, np.nan],
        ),
        (
            lambda number: losses.free_bits_kl(_ones(2, 3), _ones(2, 3), free_nats=number),
            "free_nats",
            [0, 2],
            [-0.1, np.nan],
        ),
        (
            lambda number: losses.kl_decomposition(*[_ones(3, 2)] * 3, dataset_size=number),
            "dataset_size",
            [3, 10**9],
            [2, 0, -1],
        ),
    ],
)
@pytest.mark.parametrize("of_type", [float, np.float64, np.float32])
def test_numbers_out_of_range_raise(function, name, allowed, forbidden, of_type):
    for number in allowed:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(function(number)))
    for number in forbidden:
        for other in (number, of_type(number)):
            shown = "|".join(re.escape(text) for text in (str(other), f"{other:g}"))
            with pytest.raises(ValueError, match=f"{name} (is|=) ({shown})"):
                function(other)


def test_states_of_another_size_raise():
    queue, average = losses.init_means_queue(5, 3), losses.init_moments_average(3)
    for shape in ((2, 4), (2, 1), (6, 3)):
        with pytest.raises(ValueError, match="update_means_queue"):
            losses.update_means_queue(queue, jnp.ones(shape))
    for shape in ((2, 4), (2, 1)):
        with pytest.raises(ValueError, match=r"queue_moments.*\(2, 3\)"):
            losses.queue_moments(queue, jnp.ones(shape))
    for shape in ((4,), (1,), (2, 3), ()):
        with pytest.raises(ValueError, match=r"update_moments_average.*\(3,\)"):
            losses.update_moments_average(average, Moments(jnp.ones(shape), jnp.ones(shape)), decay=0.5)


@pytest.mark.parametrize("number", [3, 1])
def test_moments_of_another_size_than_the_codes_raise(number):
    for moments in (Moments(_ones(number), _ones(number)), CovarianceMoments(_ones(number), jnp.eye(number))):
        with pytest.raises(ValueError, match="mixture_elbo"):
            losses.mixture_elbo(_ones(5), _ones(5, 4), _ones(5, 4), moments=moments)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1,)])
def test_weights_must_be_scalars(shape):
    arrays = _ones(5), _ones(5, 4), _ones(5, 4)
    with jax.numpy_rank_promotion("allow"):
        for name in ("reconstruction_weight", "population_weight", "variance_weight"):
            with pytest.raises(ValueError, match="mixture_elbo"):
                losses.mixture_elbo(*arrays, **{name: jnp.ones(shape)})
        with pytest.raises(ValueError, match="beta_vae"):
            losses.beta_vae(*arrays, beta=jnp.ones(shape))


def test_gradients_of_different_trees_raise():
    tree = {"kernel": _ones(2, 3), "bias": _ones(3)}
    for other in ({"kernel": _ones(2, 3)}, [_ones(2, 3), _ones(3)], {**tree, "bias": _ones(1)}):
        with pytest.raises(ValueError, match="adaptive_generator_weight"):
            losses.adaptive_generator_weight(tree, other)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5, 1)])
def test_a_distance_or_a_discriminator_of_another_batch_raises(shape):
    images = _ones(5, 2, 2, 1)
    with pytest.raises(ValueError, match=r"perceptual_reconstruction.*\(5,\)"):
        losses.perceptual_reconstruction(images, images, lambda x_hat, x: jnp.ones(shape))
    if shape and shape[0] != 5:
        with pytest.raises(ValueError, match=r"r1_penalty.*\(5,\)"):
            losses.r1_penalty(lambda images: jnp.ones(shape), images)


@pytest.mark.parametrize("shapes", [[(1, 3), (4, 3)], [(4, 3), (1, 3)]])
def test_mmd_of_a_single_code_raises(shapes):
    with pytest.raises(ValueError, match="at least 2 rows"):
        losses.imq_mmd(*map(jnp.ones, shapes))


def test_sliced_test_of_a_single_code_raises():
    with pytest.raises(ValueError, match=r"sliced_normality: expected at least 2 codes, got mean \(1, 3\)"):
        losses.sliced_normality(_ones(1, 3), None, _ones(4, 3))


def test_error_for_an_average_in_place_of_moments_says_what_to_pass():
    average = losses.init_moments_average(3)
    for function in (
        losses.population_kl,
        lambda moments: losses.mixture_elbo(_ones(2), _ones(2, 3), _ones(2, 3), moments=moments),
    ):
        with pytest.raises(
            TypeError, match=r"MomentsAverage, expected .* pass anchored_moments\(average.moments, mean\)"
        ):
            function(average)


def test_a_batch_of_another_type_than_the_average_raises():
    average = losses.init_moments_average(3, covariance=True)
    with pytest.raises(TypeError, match="moments is a Moments, expected CovarianceMoments as in the average"):
        losses.update_moments_average(average, Moments(_ones(3), _ones(3)), decay=0.5)


def test_scalar_logits_are_named():
    with pytest.raises(ValueError, match="discriminator_loss: real_logits must have a leading batch axis"):
        losses.discriminator_loss(_ones(), _ones())
    with pytest.raises(ValueError, match="generator_loss: fake_logits must have a leading batch axis"):
        losses.generator_loss(_ones())
