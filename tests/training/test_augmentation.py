"""What the discriminator sees, beside loops over pixels in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvae_jax.training.augmentation import NUMBERS, augment

SHAPE = (6, 16, 24, 3)


def _reference(image, numbers, probability):
    """One image, in float64."""
    done, amounts = numbers[:4] < probability, 2 * numbers[4:] - 1
    image = image.astype(np.float64)
    height, width, _ = image.shape
    if done[0]:
        image = image + 0.2 * amounts[0]
    if done[1]:
        image = image.mean() + (1 + 0.2 * amounts[1]) * (image - image.mean())
    if done[2]:
        moved = np.zeros_like(image)
        down, right = (
            int(np.clip(np.round(amount * (size // 8 + 0.5)), -(size // 8), size // 8))
            for amount, size in zip(amounts[2:4], (height, width), strict=True)
        )
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    moved[row, column] = image[row - down, column - right]
        image = moved
    if done[3]:
        for row in range(height):
            for column in range(width):
                at = (2 * row + 1) / height - 1, (2 * column + 1) / width - 1
                if max(abs(at[0] - amounts[4]), abs(at[1] - amounts[5])) < 0.5:
                    image[row, column] = 0
    return image


def _images_and_numbers(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, shape).astype(np.float32), rng.uniform(size=(shape[0], NUMBERS)).astype(np.float32)


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_augmented_images_equal_the_reference(probability):
    images, numbers = _images_and_numbers()
    expected = [_reference(*each, probability) for each in zip(images, numbers, strict=True)]
    ours = jax.jit(lambda *arrays: augment(*arrays, probability))(images, numbers)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert (np.max(np.abs(ours - images)) > 0.1) == (probability > 0)


def test_each_kind_is_done_with_its_probability_and_moves_by_all_distances():
    count = 4000
    _, numbers = _images_and_numbers(shape=(count, 1, 1, 1))
    images = np.zeros((count, 16, 16, 1), np.float32)
    images[:, 8, 8] = 1
    for kind in range(4):
        only = numbers.copy()
        only[:, [other for other in range(4) if other != kind]] = 1
        changed = np.any(augment(jnp.asarray(images), only, 0.25) != images, axis=(1, 2, 3))
        # Of the moves, one in 25 is none; of the boxes, a quarter covers any one place.
        expected = 0.25 * {2: 24 / 25, 3: 0.25}.get(kind, 1)
        assert changed.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / count))
    numbers[:, [0, 1, 3]] = 1
    places = np.argmax(np.asarray(augment(jnp.asarray(images), numbers, 0.999)).reshape(count, -1), axis=1)
    rows, shares = np.unique(places // 16, return_counts=True)
    assert rows.tolist() == [6, 7, 8, 9, 10]
    np.testing.assert_allclose(shares / count, 0.2, atol=0.03)


def test_gradient_reaches_the_images():
    """The map is affine in them, so that its derivative is a difference, up to rounding."""
    images, numbers = _images_and_numbers(1)
    other = _images_and_numbers(2)[0]
    value, change = jax.jit(lambda *arrays: jax.jvp(lambda x: augment(x, numbers, 0.7), *arrays))((images,), (other,))
    np.testing.assert_allclose(augment(images + other, numbers, 0.7) - value, change, atol=2e-6)
    assert np.mean(change != 0) > 0.5


def test_numbers_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"numbers have shape \(6, 3\), expected \(6, 10\)"):
        augment(jnp.zeros(SHAPE), jnp.zeros((6, 3)), 0.5)
