import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_networks import normal, random_weights

from rvae_jax.config import Config, ModelConfig, replace_fields, validate
from rvae_jax.data.pixels import to_uint8
from rvae_jax.errors import UserError
from rvae_jax.evaluation.metrics import grid
from rvae_jax.models import VAE
from rvae_jax.models.patches import channels_to_pixels, pixels_to_channels

SMALL = {"network": "patches", "widths": (4, 8), "blocks": (1, 1), "last_width": 4}


@pytest.mark.parametrize("size", [2, 4])
def test_pixels_and_channels_change_places(size):
    x = normal(2, 8, 12, 3)
    y = pixels_to_channels(x, size)
    assert y.shape == (2, 8 // size, 12 // size, size * size * 3)
    # Position (1, 2), pixel (0, 1) of its patch, channel 2.
    np.testing.assert_array_equal(y[:, 1, 2, 1 * 3 + 2], x[:, size, 2 * size + 1, 2])
    np.testing.assert_array_equal(channels_to_pixels(y, size), x)


@pytest.mark.parametrize(
    ("image_shape", "changes"),
    [
        ((32, 32, 1), {}),
        ((64, 64, 3), {}),
        ((128, 128, 3), {"patch_size": 8}),
        ((256, 192, 3), {"widths": (16, 32, 64, 128), "blocks": (1, 1, 2, 1)}),
        ((512, 512, 4), {"patch_size": 16, "last_width": 0}),
        ((24, 40, 2), {"patch_size": 1, "widths": (4, 4), "blocks": (0, 2), "last_width": 0}),
    ],
)
@pytest.mark.parametrize("linear_path", ["none", "fixed"])
def test_one_rule_makes_networks_for_any_image(image_shape, changes, linear_path):
    model = ModelConfig(image_shape=image_shape, latent_dim=16, network="patches", linear_path=linear_path)
    config = replace_fields(Config(), {"model": model} | {f"model.{name}": value for name, value in changes.items()})
    validate(config, device_count=1)
    vae = VAE(config.model)
    images, codes = jax.ShapeDtypeStruct((2, *image_shape), np.float32), jax.ShapeDtypeStruct((2, 16), np.float32)
    shapes, _ = jax.eval_shape(vae.init_with_output, jax.random.key(0), images, codes)
    assert shapes.x_hat.shape == (2, *image_shape) and shapes.x_hat.dtype == np.float32
    assert shapes.mean.shape == shapes.log_var.shape == (2, 16)


def test_sizes_that_levels_do_not_divide_are_refused_by_name():
    changes = {"model.network": "patches", "model.image_shape": (72, 64, 3)}
    with pytest.raises(
        UserError, match=r"model\.image_shape=\(72, 64, 3\): expected a height and a width divisible by 16"
    ):
        validate(replace_fields(Config(), changes), 1)
    with pytest.raises(UserError, match=r"model.blocks=\(1, 1\): expected 3 numbers from 0 to 100"):
        validate(replace_fields(Config(), {"model.network": "patches", "model.blocks": (1, 1)}), 1)
    with pytest.raises(UserError, match=r"last_width=32: expected 0 with .*patch_size=1: an odd patch"):
        validate(replace_fields(Config(), {"model.network": "patches", "model.patch_size": 1}), 1)
    with pytest.raises(UserError, match="remat_stages=4: expected from 0 to 3, the number of levels"):
        validate(replace_fields(Config(), {"model.network": "patches", "remat_stages": 4}), 1)


def networks(**changes):
    config = ModelConfig(image_shape=(16, 16, 3), latent_dim=8, **SMALL | changes)
    vae, arguments = VAE(config), (normal(2, 16, 16, 3), normal(2, 8))
    return vae, random_weights(vae, *arguments), arguments


def test_recomputing_activations_changes_nothing():
    vae, weights, arguments = networks()
    plain = jax.jit(jax.value_and_grad(_loss(vae, arguments)))(weights["params"])
    again = jax.jit(jax.value_and_grad(_loss(VAE(vae.config, remat_stages=2), arguments)))(weights["params"])
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def _loss(vae, arguments):
    return lambda params: jnp.mean(jnp.square(vae.apply({"params": params}, *arguments).x_hat))


def test_every_weight_takes_part():
    vae, weights, arguments = networks(linear_path="trained")
    gradient = jax.jit(jax.grad(lambda params: _loss(vae, arguments)(params)))(weights["params"])
    idle = [path for path, leaf in jax.tree_util.tree_leaves_with_path(gradient) if not np.any(leaf)]
    assert not idle


def test_bfloat16_computes_nearly_the_same():
    vae, weights, arguments = networks()
    half = VAE(ModelConfig(image_shape=(16, 16, 3), latent_dim=8, dtype="bfloat16", **SMALL))
    a, b = (jax.jit(network.apply)(weights, *arguments) for network in (vae, half))
    assert b.x_hat.dtype == b.mean.dtype == np.float32
    np.testing.assert_allclose(b.x_hat, a.x_hat, atol=0.1 * np.abs(a.x_hat).max())


def smooth_images(count, size, rng):
    """Sums of four waves of at least eight pixels each, in [-1, 1]."""
    place = np.arange(size) / size * 2 * np.pi
    waves = [
        np.cos(down * place[:, None] + right * place[None, :] + rng.uniform(0, 2 * np.pi, (count, 1, 1)))
        for down, right in ((1, 0), (0, 1), (1, 1), (2, -1))
    ]
    return (sum(waves) / 4).astype(np.float32)[..., None]


@pytest.mark.parametrize("trained", [False, True])
def test_no_grid_is_in_what_the_network_makes(trained):
    config = ModelConfig(image_shape=(16, 16, 1), latent_dim=8, **SMALL | {"widths": (32, 64), "last_width": 16})
    vae, rng = VAE(config), np.random.default_rng(0)
    params = vae.init(jax.random.key(0), np.zeros((1, 16, 16, 1)), np.zeros((1, 8)))["params"]
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 300))

    @jax.jit
    def step(params, state, images):
        def error(params):
            return jnp.mean(jnp.abs(vae.apply({"params": params}, images, jnp.zeros((32, 8))).x_hat - images))

        value, gradient = jax.value_and_grad(error)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, errors = optimizer.init(params), []
    for _ in range(300 if trained else 0):
        params, state, error = step(params, state, smooth_images(32, 16, rng))
        errors.append(error)
    assert not trained or errors[-1] < 0.5 * errors[0]
    flat = np.broadcast_to(np.linspace(-0.8, 0.8, 32, dtype=np.float32)[:, None, None, None], (32, 16, 16, 1))
    for images in (flat, smooth_images(32, 16, rng)):
        made = jax.jit(vae.apply)({"params": params}, images, np.zeros((32, 8))).x_hat
        spectra = [np.mean(grid.local_spectrum(to_uint8(np.asarray(each))), axis=0) for each in (made, images)]
        assert grid.grid_energy(*spectra) < 0.1  # the limit of the diagnosis
