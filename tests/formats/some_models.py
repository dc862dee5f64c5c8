"""Configurations and weights that the tests of formats share."""

import dataclasses

import jax
import numpy as np
from etils import epath
from reference import MODEL

from rvae_jax.config import Config, LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.formats.export import safetensors, write
from rvae_jax.inference import samplers
from rvae_jax.models import make_models
from rvae_jax.storage import weights
from rvae_jax.storage.stored_model import StoredModel

MODELS = {
    "square": MODEL,
    "wide and grey": ModelConfig(
        image_shape=(16, 24, 1),
        latent_dim=24,
        encoder_filters=(4, 6, 8),
        decoder_filters=(8, 6, 1),
        encoder_identity_blocks=1,
        decoder_identity_blocks=2,
        discriminator_filters=(6, 1),
        discriminator_strides=(2, 1),
        input_norm=False,
    ),
    "patches": ModelConfig(
        image_shape=(16, 128, 3),
        latent_dim=8,
        network="patches",
        linear_path="fixed",
        widths=(4, 8),
        blocks=(1, 0),
        last_width=4,
        discriminator_filters=(6, 1),
        discriminator_strides=(2, 1),
    ),
    "full size": ModelConfig(),
}


def config_of(name, norm="frozen", dtype="float32", adversarial="bce", ema_decay=None):
    model = ModelConfig(**{**vars(MODELS[name]), "norm": norm, "dtype": dtype})
    return Config(model=model, loss=LossConfig(adversarial=adversarial), optimizer=OptimizerConfig(ema_decay=ema_decay))


def random_weights(config, seed=0):
    """Random weights and statistics, none of which makes a layer the identity."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        return np.abs(values) + 0.5 if leaf.ndim == 1 else values / np.sqrt(np.prod(leaf.shape[:-1]))

    return jax.tree.map(lambda leaf: draw(leaf).astype(np.float32), weights.expected_weights(config))


def assert_same_weights(ours, theirs):
    ours, theirs = weights.flatten(ours), weights.flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name, leaf in theirs.items():
        assert ours[name].dtype == leaf.dtype == np.float32, name
        np.testing.assert_array_equal(ours[name], leaf, err_msg=name)


def model_of(name, folder, **options):
    config = config_of(name, **options)
    return StoredModel(config, random_weights(config), 7, epath.Path(folder), "a test")


def with_random_moments(model, seed=5):
    rng, d = np.random.default_rng(seed), model.config.model.latent_dim
    mixing = rng.normal(size=(d, d)) / np.sqrt(d)
    return dataclasses.replace(model, moments=(rng.normal(size=d), mixing @ mixing.T))


def with_random_mixture(model):
    """Three Gaussians, and the moments of one."""
    parts = [with_random_moments(model, seed).moments for seed in (5, 6, 7)]
    means, covariances = (np.stack(each).astype(np.float32) for each in zip(*parts, strict=True))
    mixture = np.array([0.2, 0.5, 0.3], np.float32), means, covariances
    return dataclasses.replace(model, moments=parts[0], mixture=mixture)


def exported(model, make=safetensors, **options):
    folder = model.folder / "export"
    return folder, list(write(make(model, **options), folder))


def noise_and_its_images(model, prior="fold", count=6):
    """Noise, and the images of the codes that it stands for, in float32."""
    mean, covariance = model.moments
    noise = np.random.default_rng(6).standard_normal((count, len(mean) + (prior == "mixture")), np.float32)
    if prior == "mixture":
        codes = samplers.noise_to_codes(samplers.mixture_transform(samplers.Mixture(*model.mixture)), noise)
    else:
        codes = mean + noise @ samplers.root(covariance).T
    return noise.astype(np.float32), np.asarray(flax(model, "decode", "float32")(codes.astype(np.float32))[0])


def inputs(item, count, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *item)).astype(np.float32)


def flax(model, method, dtype=None):
    config = model.config.model if dtype is None else dataclasses.replace(model.config.model, dtype=dtype)
    vae, _ = make_models(config, adversarial=False)
    variables = weights.evaluation_variables(model.weights)
    return lambda x: jax.tree.leaves(jax.jit(lambda x: vae.apply(variables, x, method=method))(x))
