import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from reference import CONFIG, FIXTURE, LOSSES, flat, relative_error, under, variables

from rvae_jax.models import VAE, Discriminator
from rvae_jax.models.blocks import Down
from rvae_jax.models.convolutions import conv, conv_transpose, pointwise
from rvae_jax.models.encoder import InputNorm
from rvae_jax.models.layers import Conv, ConvTranspose, Dense, Norm, PointwiseConv

pytestmark = pytest.mark.usefixtures("strict_promotion")

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _networks(**options):
    vae = VAE(
        image_shape=tuple(CONFIG["input_dim"]),
        latent_dim=CONFIG["latent_dim"],
        encoder_filters=tuple(CONFIG["enc"]),
        decoder_filters=tuple(CONFIG["dec"]),
        **options,
    )
    return vae, Discriminator(filters=tuple(CONFIG["dis"]), strides=tuple(CONFIG["dis_strides"]), **options)


def _vae_variables():
    parts = {name: variables(f"{name}/") for name in ("encoder", "sampler", "decoder")}
    return {
        kind: {name: part[kind] for name, part in parts.items() if part[kind]} for kind in ("params", "batch_stats")
    }


def _encode(module, x, train=False):
    features = module.encoder(x, train)
    return features, module.sampler(features)


def _random_weights(network, *arguments):
    """Weights and statistics of which none makes a layer the identity."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: network.init(key, *arguments), jax.random.key(0))
    return jax.tree.map(lambda leaf: (0.2 * rng.normal(size=leaf.shape) + (leaf.ndim == 1)).astype(np.float32), shapes)


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def inference():
    """Every output of the networks on the author's inputs, blocks included, by the reference's names."""
    vae, discriminator = _networks()
    vae_variables = _vae_variables()

    @jax.jit
    def forward(x, z):
        (features, (mean, log_var)), encoder = vae.apply(
            vae_variables, x, method=_encode, capture_intermediates=True, mutable=["intermediates"]
        )
        x_hat, decoder = vae.apply(
            vae_variables, z, method="decode", capture_intermediates=True, mutable=["intermediates"]
        )
        logits = discriminator.apply(variables("discriminator/"), x)
        outputs = {
            "encoder_features": features,
            "z_mean": mean,
            "z_log_var": log_var,
            "decoder_z_given": x_hat,
            "dis_logits_x": logits,
        }
        encoder, decoder = encoder["intermediates"]["encoder"], decoder["intermediates"]["decoder"]
        outputs["encoder_mid/00_norm"] = encoder["norm"]["__call__"][0][:1]
        outputs["encoder_mid/01_stem"] = encoder["stem"]["__call__"][0][:1]
        blocks = [encoder[f"stage_{s}"][name] for s in range(3) for name in ("identity_0", "identity_1", "down")]
        for i, block in enumerate(blocks):
            outputs[f"encoder_mid/{i + 2:02d}_block{i}"] = block["__call__"][0][:1]
        blocks = [decoder[f"stage_{s}"][name] for s in range(3) for name in ("identity_0", "up")]
        for i, block in enumerate(blocks):
            outputs[f"decoder_mid/block{i}"] = block["__call__"][0][:1]
        return outputs

    return forward(FIXTURE["in/x"], FIXTURE["in/z_given"])


@pytest.mark.parametrize("name", under(FIXTURE, "out/"))
def test_forward_equals_the_released_code(inference, name, record_property):
    error = relative_error(inference[name], FIXTURE[f"out/{name}"])
    record_property("error", error)
    assert error <= 2e-6


@pytest.fixture(scope="module")
def training():
    """Outputs with batch statistics and the moving statistics after, encoder and decoder each run once."""
    vae, _ = _networks(norm="batch")
    vae_variables = _vae_variables()

    @jax.jit
    def forward(x, z):
        (features, _), encoder = vae.apply(vae_variables, x, True, method=_encode, mutable=["batch_stats"])
        x_hat, decoder = vae.apply(vae_variables, z, True, method="decode", mutable=["batch_stats"])
        after = {"encoder": encoder["batch_stats"]["encoder"], "decoder": decoder["batch_stats"]["decoder"]}
        return {"encoder_features": features, "decoder_z_given": x_hat, "moving_after": after}

    return flat(forward(FIXTURE["in/x"], FIXTURE["in/z_given"]))


def test_batch_norm_in_training_equals_the_released_code(training, record_property):
    expected = under(FIXTURE, "train_mode/")
    assert training.keys() == expected.keys()
    errors = {name: relative_error(training[name], array) for name, array in expected.items()}
    record_property("error", max(errors.values()))
    assert max(errors.values()) <= 5e-6, max(errors, key=errors.get)


def test_batch_norm_in_evaluation_is_the_frozen_one(inference):
    vae, discriminator = _networks(norm="batch")
    mean, log_var = jax.jit(functools.partial(vae.apply, method="encode"))(_vae_variables(), FIXTURE["in/x"])
    logits = jax.jit(discriminator.apply)(variables("discriminator/"), FIXTURE["in/x"])
    assert relative_error(mean, inference["z_mean"]) <= 2e-6
    assert relative_error(log_var, inference["z_log_var"]) <= 2e-6
    assert relative_error(logits, inference["dis_logits_x"]) <= 2e-6


def test_vae_call_encodes_samples_and_decodes(inference):
    vae, _ = _networks()
    result = jax.jit(vae.apply)(_vae_variables(), FIXTURE["in/x"], FIXTURE["in/eps"])
    assert relative_error(result.x_hat, FIXTURE["step/x_hat"]) <= 2e-6
    assert relative_error(result.mean, inference["z_mean"]) <= 2e-6
    assert relative_error(result.log_var, inference["z_log_var"]) <= 2e-6


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_statistics_change_in_batch_mode_in_training_only(norm, train):
    x, noise = _normal(2, 8, 8, 1), _normal(2, 8)
    for network, arguments in (
        (VAE((8, 8, 1), 8, (4, 4), (4, 1), 1, 1, norm=norm), (x, noise)),
        (Discriminator(filters=(4, 1), strides=(2, 1), norm=norm), (x,)),
    ):
        weights = _random_weights(network, *arguments)
        _, after = jax.jit(functools.partial(network.apply, train=train, mutable=["batch_stats"]))(weights, *arguments)
        before = flat(weights["batch_stats"])
        changed = [name for name, array in flat(after["batch_stats"]).items() if np.any(array != before[name])]
        assert len(changed) == (len(before) if norm == "batch" and train else 0)


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
def test_layer_equals_the_released_one(name):
    layer, x = LAYERS[name]
    arrays = under(LOSSES, f"layer/{name}/")
    expected = arrays.pop("out")
    assert relative_error(layer.apply({"params": arrays}, LOSSES[f"layer/{x}"]), expected) <= 1e-6


@pytest.mark.parametrize(("mode", "train"), [("frozen", False), ("frozen", True), ("batch", False), ("batch", True)])
def test_norm_equals_the_released_one(mode, train):
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


class _NormAfter(nn.Module):
    layer: nn.Module
    norm: Norm
    folded: bool

    def __call__(self, x, train):
        return self.norm.after(self.layer, x, train) if self.folded else self.norm(self.layer(x), train)


@pytest.mark.parametrize(("mode", "train"), [("frozen", False), ("frozen", True), ("batch", False), ("batch", True)])
@pytest.mark.parametrize("layer", [Conv(6), Conv(6, 2, offset=1), PointwiseConv(6, 2)], ids=["conv", "stride", "1x1"])
def test_a_norm_folded_into_the_layer_before_it_is_the_same_function(layer, mode, train):
    x = _normal(3, 8, 6, 4)
    folded, apart = (_NormAfter(layer, Norm(6, mode), folded) for folded in (True, False))
    weights = _random_weights(folded, x, train)

    def evaluate(module):
        def loss(params, x):
            variables = {"params": params, "batch_stats": weights["batch_stats"]}
            y, after = module.apply(variables, x, train, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y)), (y, after)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(weights["params"], x)

    jax.tree.map(lambda ours, theirs: _check_close(ours, theirs, 5e-6), evaluate(folded), evaluate(apart))


def _check_close(ours, theirs, tolerance):
    assert relative_error(ours, theirs) <= tolerance


def test_only_a_norm_of_stored_statistics_is_folded():
    x = _normal(1, 4, 4, 3)

    def pixelwise_products(mode, train):
        module = _NormAfter(Conv(6), Norm(6, mode), folded=True)
        weights = _random_weights(module, x, train)
        jaxpr = jax.make_jaxpr(lambda x: module.apply(weights, x, train, mutable=["batch_stats"]))(x)
        return sum(each.primitive.name == "mul" and each.outvars[0].aval.shape == (1, 4, 4, 6) for each in jaxpr.eqns)

    assert [pixelwise_products("frozen", True), pixelwise_products("batch", False)] == [0, 0]
    assert pixelwise_products("batch", True) > 0


def test_leaky_relu_equals_the_released_one():
    expected = LOSSES["layer/leaky/out"]
    discriminator = Discriminator(filters=(3, 1), strides=(1, 1))
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[1, 1] = np.eye(3)
    weights = jax.tree.map(np.zeros_like, _random_weights(discriminator, LOSSES["layer/x"]))
    weights["params"]["layer_0"]["conv"]["kernel"] = identity
    weights["params"]["layer_0"]["bn"]["gamma"] = np.ones(3, np.float32)
    weights["batch_stats"]["layer_0"]["bn"]["moving_variance"] = np.full(3, 0.999, np.float32)
    _, captured = discriminator.apply(weights, LOSSES["layer/x"], capture_intermediates=True, mutable=["intermediates"])
    assert relative_error(captured["intermediates"]["layer_0"]["__call__"][0], expected) <= 1e-6


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameter_counts_of_the_paper_network():
    key, image = jax.random.key(0), jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32)
    vae = jax.eval_shape(VAE().init, key, image, jax.ShapeDtypeStruct((1, 512), np.float32))
    discriminator = jax.eval_shape(Discriminator().init, key, image)
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


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(96), (3, 3, 32, 96)),
        (PointwiseConv(96), (1, 1, 32, 96)),
        (ConvTranspose(96), (3, 3, 96, 32)),
        (Dense(96), (32, 96)),
    ],
)
def test_kernels_are_initialised_as_the_released_ones(layer, shape):
    weights = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))["params"]
    kernel, bias = weights["kernel"], weights["bias"]
    limit = np.sqrt(6 / (np.prod(shape[:-2]) * (32 + 96)))
    assert kernel.shape == shape
    assert 0.98 * limit < np.max(np.abs(kernel)) <= limit
    assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.05)
    assert bias.shape == (96,)
    assert not np.any(bias)


def test_norms_begin_as_the_released_ones():
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


def _convolution(x, weights, stride=1):
    y = jax.lax.conv_general_dilated(x, weights["kernel"], (stride, stride), "SAME", dimension_numbers=DIMENSIONS)
    return y + weights["bias"][None, None, None]


def _norm_relu(x, params, stats, batch):
    mean, variance = stats["moving_mean"], stats["moving_variance"]
    if batch:
        mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    normalised = (x - mean[None, None, None]) / jnp.sqrt(variance + 1e-3)[None, None, None]
    return nn.relu(normalised * params["gamma"][None, None, None] + params["beta"][None, None, None])


def _down_at_full_resolution(x, weights, batch, skipping):
    """As the author writes it: conv_2 at every pixel, of which conv_3 then takes a quarter."""
    params, stats = weights["params"], weights["batch_stats"]

    def norm_relu(x, name):
        return _norm_relu(x, params[name], stats[name], batch)

    h = _convolution(norm_relu(x, "bn_1"), params["conv_1"])
    h = _convolution(norm_relu(h, "bn_2"), params["conv_2"])[:, ::skipping, ::skipping]
    bn_3_mean = jnp.mean(h, (0, 1, 2))
    h = _convolution(norm_relu(h, "bn_3"), params["conv_3"], 2 // skipping)
    return h + _convolution(norm_relu(x, "bn_4"), params["conv_4"], 2), bn_3_mean


@pytest.mark.parametrize(("norm", "train"), [("frozen", False), ("frozen", True), ("batch", False), ("batch", True)])
def test_down_equals_the_computation_at_full_resolution(norm, train):
    x = _normal(3, 8, 12, 4)
    down = Down(6, norm)
    weights = _random_weights(down, x, train)
    batch = norm == "batch" and train
    ours, after = jax.jit(lambda weights, x: down.apply(weights, x, train, mutable=["batch_stats"]))(weights, x)
    oracle = jax.jit(_down_at_full_resolution, static_argnums=(2, 3))
    expected, bn_3_mean = oracle(x, weights, batch, 1)
    assert ours.shape == (3, 4, 6, 6)
    assert relative_error(ours, expected) <= 2e-6
    if batch:
        before = weights["batch_stats"]["bn_3"]["moving_mean"]
        moved = (after["batch_stats"]["bn_3"]["moving_mean"] - 0.99 * before) / 0.01
        assert relative_error(moved, bn_3_mean) <= 1e-3
        quarter, quarter_mean = oracle(x, weights, batch, 2)
        assert relative_error(quarter, expected) > 0.01
        assert relative_error(quarter_mean, bn_3_mean) > 0.01


@pytest.mark.parametrize(("norm", "conv_2"), [("frozen", (1, 8, 8, 4)), ("batch", (1, 16, 16, 4))])
def test_down_computes_no_pixel_of_conv_2_in_vain(as_on, norm, conv_2):
    as_on("tpu")
    x, down = np.zeros((1, 16, 16, 4), np.float32), Down(4, norm)
    weights = _random_weights(down, x, True)
    jaxpr = jax.make_jaxpr(lambda x: down.apply(weights, x, True, mutable=["batch_stats"]))(x)
    assert [output.shape for output in _convolution_outputs(jaxpr.jaxpr)] == [(1, 16, 16, 4), conv_2]


def _convolution_outputs(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.outvars[0].aval
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _convolution_outputs(inner)


def _conv_transpose_by_loop(x, kernel):
    batch, height, width, _ = x.shape
    y = np.zeros((batch, 2 * height + 1, 2 * width + 1, kernel.shape[2]), np.float64)
    for i, j, k, m in np.ndindex(height, width, 3, 3):
        y[:, 2 * i + k, 2 * j + m] += np.float64(x[:, i, j]) @ np.float64(kernel[k, m]).T
    return y[:, :-1, :-1]


def _conv_transpose_gradients_by_loop(x, kernel, cotangent):
    x_bar, kernel_bar = np.zeros(x.shape), np.zeros(kernel.shape)
    padded = np.pad(np.float64(cotangent), ((0, 0), (0, 1), (0, 1), (0, 0)))
    for i, j, k, m in np.ndindex(*x.shape[1:3], 3, 3):
        here = padded[:, 2 * i + k, 2 * j + m]
        x_bar[:, i, j] += here @ np.float64(kernel[k, m])
        kernel_bar[k, m] += here.T @ np.float64(x[:, i, j])
    return x_bar, kernel_bar


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 4), (7, 3)])
def test_transposed_convolution_and_its_own_gradients(size):
    x, kernel = _normal(2, *size, 3), _normal(3, 3, 5, 3, seed=1)
    cotangent = _normal(2, 2 * size[0], 2 * size[1], 5, seed=2)

    def plain(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=DIMENSIONS, transpose_kernel=True)

    @functools.partial(jax.jit, static_argnums=0)
    def pull(function, x, kernel):
        y, backward = jax.vjp(function, x, kernel)
        return y, *backward(cotangent)

    by_loop = _conv_transpose_by_loop(x, kernel), *_conv_transpose_gradients_by_loop(x, kernel, cotangent)
    ours, jaxs = pull(conv_transpose, x, kernel), pull(plain, x, kernel)
    for mine, theirs, looped in zip(ours, jaxs, by_loop, strict=True):
        assert relative_error(mine, theirs) <= 2e-6
        assert relative_error(mine, looped) <= 2e-6


def _pull(function, cotangent, *arguments):
    y, backward = jax.vjp(function, *arguments)
    return y, *backward(cotangent)


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize(("stride", "offset"), [(1, 1), (2, 0), (2, 1)])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_convolutions_are_each_others_derivative(as_on, platform, stride, offset, channels):
    as_on(platform)
    large, small = _normal(2, 4 * stride, 3 * stride, channels), _normal(2, 4, 3, 5, seed=1)
    kernel = _normal(3, 3, channels, 5, seed=2)

    def plain(large, kernel):
        padding = (offset, 2 - stride if offset == 1 else 1)
        return jax.lax.conv_general_dilated(
            large, kernel, (stride, stride), (padding, padding), dimension_numbers=DIMENSIONS
        )

    def plain_transpose(small, kernel):
        return jax.linear_transpose(lambda large: plain(large, kernel), large)(small)[0]

    for ours, theirs, x, cotangent in (
        (conv, plain, large, small),
        (conv_transpose, plain_transpose, small, large),
    ):
        found = jax.jit(functools.partial(_pull, lambda x, k, f=ours: f(x, k, stride, offset)))(cotangent, x, kernel)
        expected = jax.jit(functools.partial(_pull, theirs))(cotangent, x, kernel)
        jax.tree.map(functools.partial(_check_close, tolerance=2e-6), found, expected)


@pytest.mark.parametrize(("size", "offset"), [((5, 7), 0), ((5, 7), 1), ((5, 6), 0), ((5, 6), 1)])
def test_a_window_of_stride_2_lies_right_along_axes_of_any_size(size, offset):
    x, kernel = _normal(2, *size, 3), _normal(3, 3, 3, 5, seed=1)
    # Of the convolution of stride 1, which is centred, each second pixel: from the second on where the size is even and
    # the offset 0, else from the first.
    begin = [1 if length % 2 == 0 and offset == 0 else 0 for length in size]
    full = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)
    _check_close(conv(x, kernel, 2, offset), full[:, begin[0] :: 2, begin[1] :: 2], 2e-6)


@pytest.mark.parametrize("size", [(3, 4), (16, 32)])
def test_pointwise_convolution_and_its_gradients(size):
    x, kernel, cotangent = _normal(2, *size, 5), _normal(5, 6, seed=1), _normal(2, *size, 6, seed=2)
    found = jax.jit(functools.partial(_pull, pointwise))(cotangent, x, kernel)
    of_kernel = np.einsum("bhwi,bhwo->io", np.float64(x), np.float64(cotangent))
    jax.tree.map(functools.partial(_check_close, tolerance=2e-6), found, (x @ kernel, cotangent @ kernel.T, of_kernel))


def test_one_platforms_program_has_no_other_platforms_convolutions():
    x, kernel = _normal(1, 4, 4, 3), _normal(3, 3, 5, 3)
    text = jax.jit(conv_transpose).lower(x, kernel).as_text()
    assert "dot_general" in text
    assert "convolution" not in text


def test_bfloat16_computes_in_it_but_keeps_weights_codes_and_images_in_float32(inference, as_on):
    vae, discriminator = _networks(dtype=jnp.bfloat16)
    x, eps = FIXTURE["in/x"], FIXTURE["in/eps"]
    shapes = (
        jax.eval_shape(vae.init, jax.random.key(0), x, eps),
        jax.eval_shape(discriminator.init, jax.random.key(0), x),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    result, captured = jax.jit(functools.partial(vae.apply, capture_intermediates=True, mutable=["intermediates"]))(
        _vae_variables(), x, eps
    )
    logits = jax.jit(discriminator.apply)(variables("discriminator/"), x)
    blocks = captured["intermediates"]
    assert {array.dtype for array in (*result, logits)} == {np.dtype(np.float32)}
    assert blocks["encoder"]["stage_2"]["__call__"][0].dtype == jnp.bfloat16
    assert blocks["decoder"]["stage_2"]["__call__"][0].dtype == jnp.bfloat16
    as_on("tpu")
    apply = functools.partial(vae.apply, _vae_variables())
    convolutions = list(_convolution_outputs(jax.make_jaxpr(apply)(x, eps).jaxpr))
    assert len(convolutions) == 1 + 3 * (3 * 2) + 1 + 3 * (2 + 2)
    assert {output.dtype for output in convolutions} == {jnp.dtype(jnp.bfloat16)}
    pairs = {
        "mean": (result.mean, inference["z_mean"]),
        "log_var": (result.log_var, inference["z_log_var"]),
        "x_hat": (result.x_hat, FIXTURE["step/x_hat"]),
        "logits": (logits, inference["dis_logits_x"]),
    }
    for name, (ours, expected) in pairs.items():
        assert 1e-4 < relative_error(ours, expected) < 0.04, name


@pytest.mark.parametrize(
    "vae",
    [
        VAE((16, 24, 1), 16, (4, 6, 8, 10), (8, 6, 4, 1), 1, 1),
        VAE((8, 32, 1), 20, (4, 4, 4, 4), (4, 4, 4, 1), 0, 2, input_norm=False, norm="batch"),
    ],
)
def test_other_configurations_run(vae):
    x, noise = _normal(2, *vae.image_shape), _normal(2, vae.latent_dim)
    weights = _random_weights(vae, x, noise)
    result, _ = jax.jit(functools.partial(vae.apply, train=True, mutable=["batch_stats"]))(weights, x, noise)
    assert result.x_hat.shape == x.shape
    assert result.mean.shape == result.log_var.shape == (2, vae.latent_dim)
    features = jax.eval_shape(lambda weights: vae.apply(weights, x, method=lambda m, x: m.encoder(x)), weights)
    height, width, _ = vae.image_shape
    assert features.shape == (2, height // 8, width // 8, vae.latent_dim // 8)
    assert ("norm" in weights["params"]["encoder"]) == vae.input_norm
    assert all(bool(jnp.isfinite(array).all()) for array in result)


@pytest.mark.parametrize("size", [(16, 24), (9, 13)])
def test_discriminator_makes_patches_of_any_size(size):
    x = _normal(2, *size, 1)
    discriminator = Discriminator(filters=(4, 4, 4, 1), strides=(2, 2, 2, 1))
    logits, _ = jax.eval_shape(discriminator.init_with_output, jax.random.key(0), x)
    assert logits.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 1)
