"""The game with the discriminator: optima, penalties and weights."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from expectations import assert_mean

from rvae_jax import losses

pytestmark = pytest.mark.usefixtures("float64")


KINDS = ["bce", "hinge", "least_squares"]


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [("bce", 2 * math.log(2), math.log(2)), ("hinge", 2, 0), ("least_squares", 1, 1)],
)
def test_losses_at_a_logit_of_zero_have_known_values(kind, discriminator, generator):
    zeros = jnp.zeros((1, 1))
    np.testing.assert_allclose(losses.discriminator_loss(zeros, zeros, kind=kind), [discriminator], rtol=1e-12)
    np.testing.assert_allclose(losses.generator_loss(zeros, kind=kind), [generator], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_players_pull_in_opposite_directions(kind):
    real, fake = np.array([[0.7, -0.4]]), np.array([[0.2, -0.6]])
    by_real, by_fake = jax.grad(lambda *logits: losses.discriminator_loss(*logits, kind=kind)[0], (0, 1))(real, fake)
    by_generator = jax.grad(lambda fake: losses.generator_loss(fake, kind=kind)[0])(fake)
    assert np.all(by_real < 0)
    assert np.all(by_generator < 0)
    above = fake > 0 if kind == "least_squares" else fake > -1
    assert np.all(by_fake[above] > 0)


def _jensen_shannon(p, q):
    return scipy.stats.entropy(p, (p + q) / 2) / 2 + scipy.stats.entropy(q, (p + q) / 2) / 2


# The logits that minimise the discriminator's loss, and the minimum in terms of the densities of images and fakes.
OPTIMA = {
    "bce": (lambda p, q: np.log(p / q), lambda p, q: 2 * math.log(2) - 2 * _jensen_shannon(p, q)),
    "hinge": (lambda p, q: np.sign(p - q), lambda p, q: 2 - np.sum(np.abs(p - q))),
    "least_squares": (lambda p, q: p / (p + q), lambda p, q: np.sum(p * q / (p + q))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_minimum_of_the_discriminator_loss_is_a_distance_of_images_and_fakes(kind):
    p, q = np.random.default_rng(0).dirichlet(np.full(5, 5.0), 2)
    optimum, smallest = OPTIMA[kind]

    def expected(logits):
        """The loss if p and q are the shares of images and fakes at five places."""
        pairs = jnp.stack(jnp.broadcast_arrays(logits[:, None], logits[None, :]))
        of_pairs = losses.discriminator_loss(pairs[0].reshape(-1, 1), pairs[1].reshape(-1, 1), kind=kind)
        return p @ of_pairs.reshape(5, 5) @ q

    best = optimum(p, q)
    np.testing.assert_allclose(expected(best), smallest(p, q), rtol=1e-10)
    for place, step in itertools.product(range(5), (-0.1, 0.1)):
        assert expected(best + step * np.eye(5)[place]) > expected(best) + 1e-5
    same = losses.DECISION_THRESHOLD[kind] * np.ones(5)
    assert np.all((best > same) == (p > q))


def test_lecam_anchors_are_debiased_averages():
    anchors, reals, fakes = losses.init_lecam_anchors(), [1.0, 3.0, -2.0], [-1.0, 0.0, 5.0]
    for real, fake in zip(reals, fakes, strict=True):
        logits = jnp.full((2, 3), real), jnp.full((2, 3), fake)
        penalty, anchors = losses.lecam_penalty(*logits, anchors, decay=0.5)
    expected = [(0.25 * a + 0.5 * b + c) / 1.75 for a, b, c in (reals, fakes)]
    np.testing.assert_allclose(anchors[:2], expected, rtol=1e-12)
    np.testing.assert_allclose(anchors.weight, 0.875)
    np.testing.assert_allclose(penalty, (-2 - expected[1]) ** 2 + (5 - expected[0]) ** 2, rtol=1e-12)


def test_adaptive_weight_makes_both_gradients_equally_long():
    rng = np.random.default_rng(0)
    kernel, hidden, x = rng.normal(size=(4, 12)), rng.normal(size=(5, 4)), rng.normal(size=(5, 12))

    def reconstruction(kernel):
        return jnp.mean(losses.l1_reconstruction(hidden @ kernel, x))

    def generator(kernel):
        return jnp.mean(losses.generator_loss(jnp.sin(hidden @ kernel)))

    gradients = [jax.grad(loss)(kernel) for loss in (reconstruction, generator)]
    weight = losses.adaptive_generator_weight(*gradients)
    np.testing.assert_allclose(np.linalg.norm(weight * gradients[1]), np.linalg.norm(gradients[0]), rtol=1e-4)
    assert abs(weight - 1) > 0.1
    np.testing.assert_allclose(losses.adaptive_generator_weight(gradients[0], 0 * gradients[1]), 1e4)


def test_r1_penalty_equals_the_change_of_the_mean_logit_under_noise():
    rng, samples, step = np.random.default_rng(0), 20_000, 1e-3
    image, first, second = rng.normal(size=12), rng.normal(size=(12, 8)), rng.normal(size=(8, 3))

    def logits(flat, sin):
        return sin(flat @ first) @ second

    noise = step * rng.normal(size=(samples, 12))
    moved = [logits(image + side * noise, np.sin).mean(1) for side in (1, -1)]
    sample = ((moved[0] - moved[1]) / (2 * step)) ** 2
    penalty = losses.r1_penalty(lambda images: logits(images.reshape(1, -1), jnp.sin), image.reshape(1, 2, 2, 3))
    assert_mean(sample / penalty, 1, 0.02)


def test_r1_penalty_of_a_constant_discriminator_is_zero():
    images = np.random.default_rng(0).normal(size=(3, 2, 2, 3))
    np.testing.assert_array_equal(losses.r1_penalty(lambda images: 7 + 0 * images, images), np.zeros(3))
