"""Configurations and weights that the tests of formats share."""

import jax
import numpy as np
from reference import MODEL

from rvae_jax.config import Config, LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.storage import weights

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
    "full size": ModelConfig(),
}


def config_of(name, norm="frozen", dtype="float32", adversarial="bce", ema_decay=None):
    model = ModelConfig(**{**vars(MODELS[name]), "norm": norm, "dtype": dtype})
    return Config(model=model, loss=LossConfig(adversarial=adversarial), optimizer=OptimizerConfig(ema_decay=ema_decay))


def random_weights(config, seed=0):
    """Weights and statistics of which none makes a layer the identity, and no two are equal."""
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
