import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import flat
from small_networks import normal, random_weights

from rvae_jax.config import ModelConfig
from rvae_jax.models import VAE, Discriminator, make_models

pytestmark = pytest.mark.usefixtures("strict_promotion")


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameter_counts_of_the_paper_network():
    key, image = jax.random.key(0), jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32)
    config = ModelConfig()
    vae = jax.eval_shape(VAE(config).init, key, image, jax.ShapeDtypeStruct((1, 512), np.float32))
    discriminator = jax.eval_shape(Discriminator(config).init, key, image)
    params, stats = vae["params"], vae["batch_stats"]
    expected = {"norm": (131_072, 0), "stem": (3_584, 0), "head": (8_256, 0)}
    expected |= {f"stage_{i}": (954_112, 2_560) for i in range(6)}
    _check_counts(expected, params["encoder"], stats["encoder"])
    _check_counts({"z_mean": (524_800, 0), "z_log_var": (524_800, 0)}, params["sampler"], {})
    expected = {"dense": (525_312, 0), "stem": (73_856, 0), "head": (12, 0), "stage_5": (316_896, 1_286)}
    expected |= {f"stage_{i}": (624_896, 1_536) for i in range(5)}
    _check_counts(expected, params["decoder"], stats["decoder"])
    assert (_count(discriminator["params"]), _count(discriminator["batch_stats"])) == (411_075, 1_026)
    assert (_count(vae), _count(discriminator)) == (10_982_066, 412_101)
    assert _count(params) + _count(discriminator["params"]) == 11_368_815


def _check_counts(expected, params, stats):
    assert {name: (_count(params[name]), _count(stats.get(name, {}))) for name in params} == expected


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_statistics_change_in_batch_mode_in_training_only(norm, train):
    config = ModelConfig(
        image_shape=(8, 8, 1),
        latent_dim=8,
        encoder_filters=(4, 4),
        decoder_filters=(4, 1),
        encoder_identity_blocks=1,
        discriminator_filters=(4, 1),
        discriminator_strides=(2, 1),
        norm=norm,
    )
    x, noise = normal(2, 8, 8, 1), normal(2, 8)
    for network, arguments in ((VAE(config), (x, noise)), (Discriminator(config), (x,))):
        weights = random_weights(network, *arguments)
        _, after = jax.jit(functools.partial(network.apply, train=train, mutable=["batch_stats"]))(weights, *arguments)
        before = flat(weights["batch_stats"])
        changed = [name for name, array in flat(after["batch_stats"]).items() if np.any(array != before[name])]
        assert len(changed) == (len(before) if norm == "batch" and train else 0)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(
            image_shape=(16, 24, 1),
            latent_dim=16,
            encoder_filters=(4, 6, 8, 10),
            decoder_filters=(8, 6, 4, 1),
            encoder_identity_blocks=1,
        ),
        ModelConfig(
            image_shape=(8, 32, 1),
            latent_dim=20,
            encoder_filters=(4, 4, 4, 4),
            decoder_filters=(4, 4, 4, 1),
            encoder_identity_blocks=0,
            decoder_identity_blocks=2,
            input_norm=False,
            norm="batch",
        ),
    ],
    ids=["growing filters", "no identity blocks"],
)
def test_vae_has_the_shapes_of_its_configuration(config):
    vae = VAE(config)
    x, noise = normal(2, *config.image_shape), normal(2, config.latent_dim)
    weights = random_weights(vae, x, noise)
    result, _ = jax.jit(functools.partial(vae.apply, train=True, mutable=["batch_stats"]))(weights, x, noise)
    assert result.x_hat.shape == x.shape
    assert result.mean.shape == result.log_var.shape == (2, config.latent_dim)
    features = jax.eval_shape(lambda weights: vae.apply(weights, x, method=lambda m, x: m.encoder(x)), weights)
    height, width, _ = config.image_shape
    assert features.shape == (2, height // 8, width // 8, config.latent_dim // 8)
    assert ("norm" in weights["params"]["encoder"]) == config.input_norm
    assert all(bool(jnp.isfinite(array).all()) for array in result)


@pytest.mark.parametrize("size", [(16, 24), (9, 13)])
def test_discriminator_makes_patches_of_any_size(size):
    x = normal(2, *size, 1)
    config = ModelConfig(discriminator_filters=(4, 4, 4, 1), discriminator_strides=(2, 2, 2, 1))
    logits, _ = jax.eval_shape(Discriminator(config).init_with_output, jax.random.key(0), x)
    assert logits.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 1)


def test_networks_keep_their_own_configuration():
    config = ModelConfig()
    vae, discriminator = make_models(config, adversarial=True)
    config.latent_dim = 64
    assert vae.config == discriminator.config == ModelConfig()
    assert hash(vae) == hash(VAE(ModelConfig()))
    assert make_models(config, adversarial=False)[1] is None
