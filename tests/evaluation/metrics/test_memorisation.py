import numpy as np
import pytest

from rvae_jax.evaluation.metrics import memorisation


def by_hand(image, training, mirrored):
    """The nearest and the second nearest training image, pixel by pixel."""

    def reduced(image):
        step = max(1, min(image.shape[:2]) // 32)
        height, width = (n // step for n in image.shape[:2])
        return [
            image[y * step : (y + 1) * step, x * step : (x + 1) * step].astype(np.float64).mean(axis=(0, 1)) / 255
            for y in range(height)
            for x in range(width)
        ]

    def distance(a, b):
        return np.sqrt(np.sum(np.square(np.subtract(reduced(a), reduced(b)))))

    sides = [[each, each[:, ::-1]] if mirrored else [each] for each in training]
    found = sorted((min(distance(image, side) for side in two), index) for index, two in enumerate(sides))
    return [near for near, _ in found[:2]], [index for _, index in found[:2]]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [(32, 40, 1), (70, 65, 3)])
def test_nearest_against_brute_force_on_pixels(shape, mirrored):
    rng = np.random.default_rng(0)
    # Large patches, so that images differ in how near they are, and some that are all but their own mirror image.
    patches = rng.integers(0, 256, (14, 4, 4, shape[2]))
    patches[10:] = (patches[10:] + patches[10:, :, ::-1]) // 2
    images = patches.repeat(-(-shape[0] // 4), axis=1).repeat(-(-shape[1] // 4), axis=2)
    images = images[:, : shape[0], : shape[1]].astype(np.uint8)
    training, queries = images[2:], np.concatenate([images[:2], images[4:5, :, ::-1], images[11:12] // 2])
    near, indices = memorisation.nearest_training_images(queries, training, mirrored)
    for row, query in enumerate(queries):
        expected, where = by_hand(query, training, mirrored)
        np.testing.assert_allclose(near[row], expected, atol=2e-3)
        assert list(indices[row]) == where


def test_a_copy_is_found_even_if_it_is_its_own_mirror_image():
    rng = np.random.default_rng(1)
    training = rng.integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    training[0] = training[0, :, ::-1] // 2 + training[0] // 2
    copy = np.clip(training[:1].astype(int) + rng.integers(-3, 4, (1, 32, 32, 1)), 0, 255).astype(np.uint8)
    new = rng.integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    for mirrored in (False, True):
        near, _ = memorisation.nearest_training_images(np.concatenate([copy, new]), training, mirrored)
        found = memorisation.likeness(near)
        assert found[0] < 0.1 and (found[1:] > 0.8).all()
        assert memorisation.copies(np.concatenate([copy, new]), training, mirrored) == 0.25
    mirror = training[3:4, :, ::-1]
    assert memorisation.copies(mirror, training, True) == 1
    assert memorisation.copies(mirror, training, False) == 0


def test_a_single_training_image_is_refused():
    images = np.zeros((2, 32, 32, 1), np.uint8)
    with pytest.raises(ValueError, match="1 training images; expected at least 2"):
        memorisation.nearest_training_images(images, images[:1], False)
