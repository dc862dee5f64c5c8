"""onnxruntime computes what JAX does; test_export_networks.py has complete encoders and decoders."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from reference import relative_error
from some_models import config_of, random_weights

from rvae_jax.errors import UserError
from rvae_jax.formats import onnx_graph
from rvae_jax.models import make_models


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def graph_of(function, weights, item, outputs=("y",)):
    model = onnx_graph.to_onnx(function, weights, item, input_name="x", output_names=outputs)
    onnx.checker.check_model(model, full_check=True)
    return model


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ["square", "wide and grey"])
def test_the_discriminator_is_converted(name):
    config = config_of(name)
    _, discriminator = make_models(config.model, adversarial=True)
    weights = random_weights(config)["discriminator"]
    model = graph_of(discriminator.apply, weights, config.model.image_shape)
    for count in (1, 5):
        x = normal(count, *config.model.image_shape)
        assert relative_error(run(model, x)[0], discriminator.apply(weights, x)) < 1e-5


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "dilation", "input_dilation"),
    [
        ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1)),
        ((3, 2), (2, 3), ((0, 1), (2, 0)), (1, 1), (1, 1)),
        ((3, 3), (1, 1), ((2, 1), (0, 2)), (2, 1), (1, 1)),
        ((3, 3), (1, 1), ((2, 1), (2, 1)), (1, 1), (2, 2)),
        ((4, 3), (1, 1), ((1, 2), (2, 0)), (1, 1), (3, 2)),
    ],
)
def test_convolutions_are_converted(kernel, strides, padding, dilation, input_dilation):
    def convolution(weights, x):
        return jax.lax.conv_general_dilated(
            x, weights["kernel"], strides, padding, input_dilation, dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    weights, x = {"kernel": normal(*kernel, 3, 4)}, normal(2, 9, 12, 3, seed=1)
    ours, theirs = run(graph_of(convolution, weights, (9, 12, 3)), x)[0], convolution(weights, x)
    assert relative_error(ours, theirs) < 1e-5


def test_other_operations_are_converted():
    def function(weights, x):
        y = jax.nn.relu(x) * weights["a"][None, None] + jnp.exp(-jnp.square(x)) / (1.0 + weights["b"])[None, None]
        y = jax.lax.slice(y, (0, 1, 0), (x.shape[0], 6, 4), (1, 2, 1)).transpose(0, 2, 1)
        z = jnp.sum(y, axis=(1, 2))[:, None] * jax.lax.rsqrt(1.0 + jnp.square(jnp.sum(x, axis=1)))
        return jnp.where(z > 0.5, z, jnp.maximum(z, -0.2)), y.reshape(x.shape[0], -1)

    weights, x = {"a": normal(4), "b": normal(4, seed=1) ** 2}, normal(3, 6, 4, seed=2)
    with jax.numpy_dtype_promotion("standard"):
        model = graph_of(function, weights, (6, 4), outputs=("z", "y"))
        for ours, theirs in zip(run(model, x), function(weights, x), strict=True):
            assert relative_error(ours, theirs) < 1e-5


def test_a_broadcast_along_dimensions_of_size_one_is_converted():
    def function(weights, x):
        chosen = jax.lax.slice_in_dim(x, 0, 1, axis=1)  # [n, 1]
        return jnp.where(chosen > 0, x, weights["a"][None] + x), jnp.broadcast_to(x[:, None], (x.shape[0], 2, 3))

    weights, x = {"a": normal(3)}, normal(5, 3, seed=2)
    for ours, theirs in zip(
        run(graph_of(function, weights, (3,), outputs=("y", "z")), x), function(weights, x), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_graph_has_readable_names_and_only_the_weights_that_it_uses():
    config = config_of("square")
    vae, _ = make_models(config.model, adversarial=False)

    def encode(weights, x):
        return vae.apply(weights, x, method="encode")

    weights = random_weights(config)["vae"]
    model = graph_of(encode, weights, (32, 32, 3), outputs=("mean", "log_var"))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", onnx_graph.OPSET)]
    names = {each.name for each in model.graph.initializer}
    assert {"encoder/stem/kernel", "encoder/stage_0/down/conv_4/bias", "sampler/z_mean/kernel"} <= names
    assert not any("decoder" in name or "moving_" in name for name in names)  # unused, and folded into others
    (argument,) = model.graph.input
    assert [each.dim_param or each.dim_value for each in argument.type.tensor_type.shape.dim] == ["batch", 32, 32, 3]
    kernels = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    theirs = weights["params"]["encoder"]["stem"]["kernel"]
    np.testing.assert_array_equal(kernels["encoder/stem/kernel"], theirs.transpose(3, 2, 0, 1))


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda _, x: jnp.sin(x), "the operation sin is not converted"),
        (lambda _, x: x.astype(jnp.bfloat16), "computes in bfloat16; expected float32 only"),
        (
            lambda _, x: jax.lax.broadcast_in_dim(x, (x.shape[0], 2, 3), (0, 2)),
            r"broadcast_in_dim from \(batch, 3\) to",
        ),
        (lambda _, x: jnp.where(x > 0, x, jnp.ones((1, 3))), r"broadcast_in_dim from \(1, 3\) to \(batch, 3\)"),
        (lambda _, x: jnp.einsum("ni,nj->nij", x, x), "only products of two matrices are converted"),
    ],
)
def test_an_operation_that_is_not_converted_is_named(function, match):
    with pytest.raises(UserError, match=match):
        onnx_graph.to_onnx(function, (), (3,), input_name="x", output_names=("y",))
