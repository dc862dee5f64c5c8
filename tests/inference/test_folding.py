import jax
import numpy as np
import pytest
from flax import traverse_util
from reference import relative_error

from rvae_jax.config import ModelConfig
from rvae_jax.inference import folding, samplers
from rvae_jax.models import init_variables, make_models

MODELS = {
    "author's": ModelConfig(
        image_shape=(16, 24, 1),
        latent_dim=8,
        encoder_filters=(4, 6),
        decoder_filters=(6, 1),
        discriminator_filters=(6, 1),
        discriminator_strides=(2, 1),
    ),
    "patches": ModelConfig(image_shape=(16, 16, 3), latent_dim=5, network="patches", widths=(4, 8), blocks=(1, 0)),
    "fixed path": ModelConfig(
        image_shape=(16, 128, 3),
        latent_dim=5,
        network="patches",
        linear_path="fixed",
        widths=(4, 8),
        blocks=(1, 0),
        last_width=4,
    ),
    "trained path": ModelConfig(
        image_shape=(16, 16, 1),
        latent_dim=8,
        linear_path="trained",
        encoder_filters=(4, 6),
        decoder_filters=(6, 1),
        discriminator_filters=(6, 1),
        discriminator_strides=(2, 1),
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """A network with random weights and statistics, and moments that are far from those of N(0, I)."""
    vae, _ = make_models(MODELS[request.param], adversarial=False)
    rng, d = np.random.default_rng(0), vae.config.latent_dim
    variables = init_variables(vae, None, jax.random.key(0))["vae"]
    variables = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.3 * np.abs(rng.normal(size=leaf.shape)), variables)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    mixing = rng.normal(size=(d, d))
    return vae, variables, rng.normal(size=d), mixing @ mixing.T


def test_the_folded_decoder_takes_noise_in_place_of_codes(model):
    vae, variables, mean, covariance = model
    noise = np.random.default_rng(1).normal(size=(6, len(mean)))
    codes = mean + noise @ samplers.root(covariance).T
    decode = jax.jit(lambda variables, z: vae.apply(variables, z, method="decode"))
    expected = decode(variables, codes.astype(np.float32))
    found = decode(folding.fold(variables, mean, covariance), noise.astype(np.float32))
    assert relative_error(found, expected) < 1e-5
    assert relative_error(decode(variables, noise.astype(np.float32)), expected) > 0.1


def test_only_what_a_code_enters_changes(model):
    _, variables, mean, covariance = model
    folded = folding.fold(variables, mean, covariance)
    assert jax.tree.structure(folded) == jax.tree.structure(variables)
    before, after = (traverse_util.flatten_dict(tree, sep="/") for tree in (variables, folded))
    assert all(leaf.shape == before[name].shape and leaf.dtype == np.float32 for name, leaf in after.items())
    changed = {name for name, leaf in after.items() if not np.array_equal(leaf, before[name])}
    assert {name for name in after if name.split("/", 1)[1].startswith(("decoder/dense/", "linear/"))} == changed


def test_the_identity_folds_to_the_same_images(model):
    vae, variables, mean, _ = model
    folded = folding.fold(variables, np.zeros_like(mean), np.eye(len(mean)))
    z = np.random.default_rng(2).normal(size=(3, len(mean))).astype(np.float32)
    signs = samplers.root(np.eye(len(mean)))  # of eigenvectors, which may be in another order
    found = vae.apply(folded, z, method="decode")
    expected = vae.apply(variables, (z @ signs.T).astype(np.float32), method="decode")
    assert relative_error(found, expected) < 1e-5
