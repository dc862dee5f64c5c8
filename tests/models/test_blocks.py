import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from reference import relative_error
from small_networks import DIMENSIONS, assert_close, convolution_outputs, normal, random_weights

from rvae_jax.models.blocks import Down
from rvae_jax.models.layers import Conv, Norm, PointwiseConv

pytestmark = pytest.mark.usefixtures("strict_promotion")


class _NormAfter(nn.Module):
    layer: nn.Module
    norm: Norm
    folded: bool

    def __call__(self, x, train):
        return self.norm.after(self.layer, x, train) if self.folded else self.norm(self.layer(x), train)


@pytest.mark.parametrize(("mode", "train"), [("frozen", False), ("frozen", True), ("batch", False), ("batch", True)])
@pytest.mark.parametrize("layer", [Conv(6), Conv(6, 2, offset=1), PointwiseConv(6, 2)], ids=["conv", "stride", "1x1"])
def test_a_norm_folded_into_the_layer_before_it_is_the_same_function(layer, mode, train):
    x = normal(3, 8, 6, 4)
    folded, apart = (_NormAfter(layer, Norm(6, mode), folded) for folded in (True, False))
    weights = random_weights(folded, x, train)

    def evaluate(module):
        def loss(params, x):
            variables = {"params": params, "batch_stats": weights["batch_stats"]}
            y, after = module.apply(variables, x, train, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y)), (y, after)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(weights["params"], x)

    jax.tree.map(lambda ours, theirs: assert_close(ours, theirs, 5e-6), evaluate(folded), evaluate(apart))


def test_only_a_norm_with_stored_statistics_is_folded():
    x = normal(1, 4, 4, 3)

    def pixelwise_products(mode, train):
        module = _NormAfter(Conv(6), Norm(6, mode), folded=True)
        weights = random_weights(module, x, train)
        jaxpr = jax.make_jaxpr(lambda x: module.apply(weights, x, train, mutable=["batch_stats"]))(x)
        return sum(each.primitive.name == "mul" and each.outvars[0].aval.shape == (1, 4, 4, 6) for each in jaxpr.eqns)

    assert [pixelwise_products("frozen", True), pixelwise_products("batch", False)] == [0, 0]
    assert pixelwise_products("batch", True) > 0


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
    """As the author computes it: conv_2 at every pixel, a quarter of which conv_3 then keeps."""
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
    x = normal(3, 8, 12, 4)
    down = Down(6, norm)
    weights = random_weights(down, x, train)
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
def test_down_computes_only_the_pixels_of_conv_2_that_it_keeps(as_on, norm, conv_2):
    as_on("tpu")
    x, down = np.zeros((1, 16, 16, 4), np.float32), Down(4, norm)
    weights = random_weights(down, x, True)
    jaxpr = jax.make_jaxpr(lambda x: down.apply(weights, x, True, mutable=["batch_stats"]))(x)
    assert [output.shape for output in convolution_outputs(jaxpr.jaxpr)] == [(1, 16, 16, 4), conv_2]
