import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import normal

from rvae_jax.config import ModelConfig
from rvae_jax.models import VAE, init_variables
from rvae_jax.models.linear import LinearPath, reduction

SHAPE, DIMENSIONS = (8, 12, 2), 8


def test_images_are_reduced_to_at_most_64_pixels_a_side():
    sizes = {(64, 64): 1, (65, 65): 5, (128, 128): 2, (256, 192): 4, (96, 64): 2, (512, 512): 8, (130, 130): 5}
    assert {size: reduction(*size) for size in sizes} == sizes
    assert reduction(67, 128) == 1  # nothing divides both


def path_and_variables(image_shape=SHAPE, components_shape=SHAPE):
    path = LinearPath(ModelConfig(image_shape=image_shape, latent_dim=DIMENSIONS, linear_path="fixed"))
    flat, _ = np.linalg.qr(normal(int(np.prod(components_shape)), DIMENSIONS))
    arrays = {
        "mean_image": normal(*components_shape, seed=1),
        "components": flat.T.reshape(DIMENSIONS, *components_shape),
        "deviations": np.abs(normal(DIMENSIONS, seed=2)) + 0.1,
    }
    return path, {"batch_stats": arrays}


def test_linear_path_is_the_analysis_and_the_synthesis_of_its_components():
    path, variables = path_and_variables()
    arrays, x = variables["batch_stats"], normal(5, *SHAPE, seed=3)
    flat = arrays["components"].reshape(DIMENSIONS, -1).astype(np.float64)
    codes = (x - arrays["mean_image"]).reshape(5, -1) @ flat.T / arrays["deviations"]
    np.testing.assert_allclose(path.apply(variables, x, method="encode"), codes, rtol=1e-4, atol=1e-5)
    images = arrays["mean_image"] + ((codes * arrays["deviations"]) @ flat).reshape(5, *SHAPE)
    np.testing.assert_allclose(path.apply(variables, codes, method="decode"), images, rtol=1e-4, atol=1e-5)
    # The codes of what codes decode to are these codes.
    again = path.apply(variables, path.apply(variables, codes, method="decode"), method="encode")
    np.testing.assert_allclose(again, codes, rtol=1e-4, atol=1e-4)


def test_a_direction_without_deviation_has_code_zero_and_finite_gradients():
    path, variables = path_and_variables()
    variables["batch_stats"]["deviations"][3] = 0.0
    x = normal(2, *SHAPE)
    codes = path.apply(variables, x, method="encode")
    assert np.all(codes[:, 3] == 0) and np.all(codes[:, 2] != 0)
    gradient = jax.grad(lambda x: jnp.sum(path.apply(variables, x, method="encode")))(x)
    assert np.isfinite(gradient).all()


def test_large_images_pass_through_a_small_path():
    path, variables = path_and_variables((128, 128, 2), (64, 64, 2))
    x = normal(2, 64, 64, 2)
    large = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    small_path, _ = path_and_variables((64, 64, 2), (64, 64, 2))
    np.testing.assert_allclose(
        path.apply(variables, large, method="encode"), small_path.apply(variables, x, method="encode"), atol=1e-4
    )
    codes = normal(2, DIMENSIONS)
    small = small_path.apply(variables, codes, method="decode")
    np.testing.assert_allclose(
        path.apply(variables, codes, method="decode"), jax.image.resize(small, (2, 128, 128, 2), "cubic"), atol=1e-4
    )


@pytest.mark.parametrize("network", ["paper", "patches"])
@pytest.mark.parametrize("linear_path", ["fixed", "trained"])
def test_networks_add_nothing_to_the_linear_path_at_the_start(network, linear_path):
    config = ModelConfig(
        image_shape=SHAPE,
        latent_dim=DIMENSIONS,
        network=network,
        linear_path=linear_path,
        encoder_filters=(4, 4),
        decoder_filters=(4, 2),
        widths=(4, 8),
        blocks=(1, 1),
        patch_size=2,
        last_width=4,
    )
    vae = VAE(config)
    variables = init_variables(vae, None, jax.random.key(0))["vae"]
    place = "params" if linear_path == "trained" else "batch_stats"
    arrays = path_and_variables()[1]["batch_stats"]
    assert jax.tree.map(jnp.shape, variables[place]["linear"]) == jax.tree.map(jnp.shape, arrays)
    variables[place] = {**variables[place], "linear": arrays}
    x = normal(3, *SHAPE)
    result = jax.jit(vae.apply)(variables, x, np.zeros((3, DIMENSIONS), np.float32))
    path = LinearPath(ModelConfig(image_shape=SHAPE, latent_dim=DIMENSIONS, linear_path="fixed"))
    codes = path.apply({"batch_stats": arrays}, x, method="encode")
    np.testing.assert_allclose(result.mean, codes, atol=1e-5)
    np.testing.assert_array_equal(result.log_var, 0.0)
    expected = path.apply({"batch_stats": arrays}, codes, method="decode")
    np.testing.assert_allclose(result.x_hat, expected, atol=1e-5)
    # The networks do take part: every weight but those before a zero has a gradient.
    gradient = jax.grad(
        lambda params: jnp.sum(jnp.square(vae.apply({**variables, "params": params}, x, normal(3, 8)).x_hat))
    )(variables["params"])
    assert np.any(gradient["decoder"]["head"]["kernel"]) and np.any(gradient["sampler"]["z_mean"]["kernel"])
    assert ("linear" in gradient) == (linear_path == "trained")
