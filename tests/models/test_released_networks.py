"""The networks against the author's program: values recorded from it, and its initialisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import FIXTURE, LOSSES, flat, relative_error, under, variables
from small_networks import convolution_outputs, networks, random_weights, vae_variables

from rvae_jax.config import ModelConfig
from rvae_jax.models import Discriminator
from rvae_jax.models.encoder import InputNorm
from rvae_jax.models.layers import Conv, ConvTranspose, Dense, Norm, PointwiseConv

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.fixture(scope="module")
def inference():
    """Every output of the networks on the author's inputs, blocks included, by the reference's names."""
    vae, discriminator = networks()
    capture = {"capture_intermediates": True, "mutable": ["intermediates"]}

    @jax.jit
    def forward(weights, discriminator_weights, x, noise, z):
        result, encoder = vae.apply(weights, x, noise, **capture)
        x_hat, decoder = vae.apply(weights, z, method="decode", **capture)
        encoder, decoder = encoder["intermediates"]["encoder"], decoder["intermediates"]["decoder"]
        outputs = {
            "encoder_features": encoder["__call__"][0],
            "z_mean": result.mean,
            "z_log_var": result.log_var,
            "x_hat": result.x_hat,
            "decoder_z_given": x_hat,
            "dis_logits_x": discriminator.apply(discriminator_weights, x),
        }
        outputs["encoder_mid/00_norm"] = encoder["norm"]["__call__"][0][:1]
        outputs["encoder_mid/01_stem"] = encoder["stem"]["__call__"][0][:1]
        blocks = [encoder[f"stage_{s}"][name] for s in range(3) for name in ("identity_0", "identity_1", "down")]
        for i, block in enumerate(blocks):
            outputs[f"encoder_mid/{i + 2:02d}_block{i}"] = block["__call__"][0][:1]
        blocks = [decoder[f"stage_{s}"][name] for s in range(3) for name in ("identity_0", "up")]
        for i, block in enumerate(blocks):
            outputs[f"decoder_mid/block{i}"] = block["__call__"][0][:1]
        return outputs

    inputs = FIXTURE["in/x"], FIXTURE["in/eps"], FIXTURE["in/z_given"]
    return forward(vae_variables(), variables("discriminator/"), *inputs)


@pytest.mark.parametrize("name", under(FIXTURE, "out/"))
def test_forward_equals_the_released_code(inference, name, record_property):
    error = relative_error(inference[name], FIXTURE[f"out/{name}"])
    record_property("error", error)
    assert error <= 2e-6


@pytest.fixture(scope="module")
def training():
    """Outputs with batch statistics and the moving statistics after, encoder and decoder each run once."""
    vae, _ = networks(norm="batch")

    @jax.jit
    def forward(weights, x, z):
        features, encoder = vae.apply(weights, x, True, method=lambda vae, *x: vae.encoder(*x), mutable=["batch_stats"])
        x_hat, decoder = vae.apply(weights, z, True, method="decode", mutable=["batch_stats"])
        after = {"encoder": encoder["batch_stats"]["encoder"], "decoder": decoder["batch_stats"]["decoder"]}
        return {"encoder_features": features, "decoder_z_given": x_hat, "moving_after": after}

    return flat(forward(vae_variables(), FIXTURE["in/x"], FIXTURE["in/z_given"]))


def test_batch_norm_in_training_equals_the_released_code(training, record_property):
    expected = under(FIXTURE, "train_mode/")
    assert training.keys() == expected.keys()
    errors = {name: relative_error(training[name], array) for name, array in expected.items()}
    record_property("error", max(errors.values()))
    assert max(errors.values()) <= 5e-6, max(errors, key=errors.get)


def test_batch_norm_in_evaluation_equals_the_frozen_norm(inference):
    vae, discriminator = networks(norm="batch")
    mean, log_var = jax.jit(functools.partial(vae.apply, method="encode"))(vae_variables(), FIXTURE["in/x"])
    logits = jax.jit(discriminator.apply)(variables("discriminator/"), FIXTURE["in/x"])
    assert relative_error(mean, inference["z_mean"]) <= 2e-6
    assert relative_error(log_var, inference["z_log_var"]) <= 2e-6
    assert relative_error(logits, inference["dis_logits_x"]) <= 2e-6


def test_vae_encodes_samples_and_decodes_as_the_released_code(inference):
    assert relative_error(inference["x_hat"], FIXTURE["step/x_hat"]) <= 2e-6


LAYERS = {
    "conv3_s1_same": (Conv(5), "x"),
    "conv3_s2_same": (Conv(5, 2), "x"),
    "conv3_s2_same_odd": (Conv(5, 2), "x_odd"),
    "conv1_s2_same": (PointwiseConv(5, 2), "x"),
    "conv1_s2_same_odd": (PointwiseConv(5, 2), "x_odd"),
    "convT3_s2_same": (ConvTranspose(5), "x"),
    "ln_axis12": (InputNorm(), "x"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_the_released_layer(name):
    layer, x = LAYERS[name]
    arrays = under(LOSSES, f"layer/{name}/")
    expected = arrays.pop("out")
    assert relative_error(layer.apply({"params": arrays}, LOSSES[f"layer/{x}"]), expected) <= 1e-6


@pytest.mark.parametrize(("mode", "train"), [("frozen", False), ("frozen", True), ("batch", False), ("batch", True)])
def test_norm_equals_the_released_norm(mode, train):
    name = "bn_train" if (mode, train) == ("batch", True) else "bn_infer"
    arrays = under(LOSSES, f"layer/{name}/")
    params = {leaf: arrays[leaf] for leaf in ("gamma", "beta")}
    stats = {leaf: arrays[leaf] for leaf in ("moving_mean", "moving_variance")}
    ours, after = Norm(3, mode).apply(
        {"params": params, "batch_stats": stats}, LOSSES["layer/x"], train, mutable=["batch_stats"]
    )
    assert relative_error(ours, arrays["out"]) <= 1e-6
    for leaf, before in stats.items():
        assert relative_error(after["batch_stats"][leaf], arrays.get(f"{leaf}_after", before)) <= 1e-6


def test_leaky_relu_equals_the_released_one():
    expected = LOSSES["layer/leaky/out"]
    discriminator = Discriminator(ModelConfig(discriminator_filters=(3, 1), discriminator_strides=(1, 1)))
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[1, 1] = np.eye(3)
    weights = jax.tree.map(np.zeros_like, random_weights(discriminator, LOSSES["layer/x"]))
    weights["params"]["layer_0"]["conv"]["kernel"] = identity
    weights["params"]["layer_0"]["bn"]["gamma"] = np.ones(3, np.float32)
    weights["batch_stats"]["layer_0"]["bn"]["moving_variance"] = np.full(3, 0.999, np.float32)
    _, captured = discriminator.apply(weights, LOSSES["layer/x"], capture_intermediates=True, mutable=["intermediates"])
    assert relative_error(captured["intermediates"]["layer_0"]["__call__"][0], expected) <= 1e-6


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(96), (3, 3, 32, 96)),
        (PointwiseConv(96), (1, 1, 32, 96)),
        (ConvTranspose(96), (3, 3, 96, 32)),
        (Dense(96), (32, 96)),
    ],
)
def test_kernels_are_initialised_as_in_the_released_code(layer, shape):
    weights = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))["params"]
    kernel, bias = weights["kernel"], weights["bias"]
    limit = np.sqrt(6 / (np.prod(shape[:-2]) * (32 + 96)))
    assert kernel.shape == shape
    assert 0.98 * limit < np.max(np.abs(kernel)) <= limit
    assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.05)
    assert bias.shape == (96,)
    assert not np.any(bias)


def test_norms_are_initialised_as_in_the_released_code():
    x = jnp.zeros((1, 4, 6, 3))
    norm = Norm(3, "frozen").init(jax.random.key(0), x, False)
    input_norm = InputNorm().init(jax.random.key(0), x)
    ones, zeros = np.ones(3), np.zeros(3)
    assert jax.tree.all(
        jax.tree.map(
            np.array_equal,
            norm | {"input": input_norm["params"]},
            {
                "params": {"gamma": ones, "beta": zeros},
                "batch_stats": {"moving_mean": zeros, "moving_variance": ones},
                "input": {"gamma": np.ones((4, 6)), "beta": np.zeros((4, 6))},
            },
        )
    )


def test_bfloat16_is_for_convolutions_alone(inference, as_on):
    vae, discriminator = networks(dtype="bfloat16")
    x, eps = FIXTURE["in/x"], FIXTURE["in/eps"]
    shapes = (
        jax.eval_shape(vae.init, jax.random.key(0), x, eps),
        jax.eval_shape(discriminator.init, jax.random.key(0), x),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    result, captured = jax.jit(functools.partial(vae.apply, capture_intermediates=True, mutable=["intermediates"]))(
        vae_variables(), x, eps
    )
    logits = jax.jit(discriminator.apply)(variables("discriminator/"), x)
    blocks = captured["intermediates"]
    assert {array.dtype for array in (*result, logits)} == {np.dtype(np.float32)}
    assert blocks["encoder"]["stage_2"]["__call__"][0].dtype == jnp.bfloat16
    assert blocks["decoder"]["stage_2"]["__call__"][0].dtype == jnp.bfloat16
    as_on("tpu")
    apply = functools.partial(vae.apply, vae_variables())
    convolutions = list(convolution_outputs(jax.make_jaxpr(apply)(x, eps).jaxpr))
    assert len(convolutions) == 1 + 3 * (3 * 2) + 1 + 3 * (2 + 2)
    assert {output.dtype for output in convolutions} == {jnp.dtype(jnp.bfloat16)}
    pairs = {
        "mean": (result.mean, inference["z_mean"]),
        "log_var": (result.log_var, inference["z_log_var"]),
        "x_hat": (result.x_hat, inference["x_hat"]),
        "logits": (logits, inference["dis_logits_x"]),
    }
    for name, (ours, expected) in pairs.items():
        assert 1e-4 < relative_error(ours, expected) < 0.04, name
