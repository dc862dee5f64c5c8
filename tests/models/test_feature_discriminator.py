import functools

import jax
import jax.numpy as jnp
import numpy as np
from reference import flat
from small_networks import assert_close, normal

from rvae_jax.models.feature_discriminator import FeatureDiscriminator

DISCRIMINATOR = FeatureDiscriminator(channels=4)


def _maps(seed=0):
    return normal(2, 5, 6, 3, seed=seed), normal(2, 1, 2, 7, seed=seed + 1)


def _head_in_numpy(params, projection, x):
    x = np.float64(x) @ np.float64(projection)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    kernel = np.float64(params["conv"]["kernel"])
    y = sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))
    y = y + np.float64(params["conv"]["bias"])
    y = np.where(y > 0, y, 0.3 * y)
    return y @ np.float64(params["logit"]["kernel"][0, 0]) + np.float64(params["logit"]["bias"])


def test_logits_equal_numpy():
    maps = _maps()
    variables = DISCRIMINATOR.init(jax.random.key(0), maps)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables["params"])
    logits = jax.jit(DISCRIMINATOR.apply)(variables | {"params": params}, maps)
    for i, (found, x) in enumerate(zip(logits, maps, strict=True)):
        projection = variables["batch_stats"][f"stage_{i}"]["projection"]
        assert found.shape == (*x.shape[:3], 1)
        assert_close(found, _head_in_numpy(params[f"stage_{i}"], projection, x), 1e-5)


def test_projections_come_from_the_key_and_are_not_trained():
    maps = _maps()
    variables, again = (DISCRIMINATOR.init(jax.random.key(0), x) for x in (maps, _maps(seed=3)))
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    projections = flat(variables["batch_stats"])
    assert {name: leaf.shape for name, leaf in projections.items()} == {
        "stage_0/projection": (3, 4),
        "stage_1/projection": (7, 4),
    }
    other = flat(DISCRIMINATOR.init(jax.random.key(1), maps)["batch_stats"])
    assert all(np.abs(other[name] - leaf).min() > 0 for name, leaf in projections.items())
    assert "projection" not in " ".join(flat(variables["params"]))
    _, updates = DISCRIMINATOR.apply(variables, maps, train=True, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_a_projected_pixel_has_a_mean_square_of_one():
    wide = FeatureDiscriminator(channels=64)
    variables = jax.jit(wide.init)(jax.random.key(0), (np.zeros((1, 1, 1, 256), np.float32),))
    pixels = normal(500, 256)
    pixels /= np.linalg.norm(pixels, axis=-1, keepdims=True)
    projected = pixels @ np.asarray(variables["batch_stats"]["stage_0"]["projection"])
    assert abs(np.mean(projected**2) - 1) < 0.05


def test_all_weights_and_all_maps_have_a_gradient():
    maps = _maps()
    variables = DISCRIMINATOR.init(jax.random.key(0), maps)

    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(params, maps):
        return sum(jnp.mean(jnp.square(each)) for each in DISCRIMINATOR.apply(variables | {"params": params}, maps))

    of_params, of_maps = gradient(variables["params"], maps)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_params))
    assert all(np.abs(leaf).min() > 0 for leaf in of_maps)
