"""The terms of the codes: the same however the batch is split, with an average that goes on from step to step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_cases import CODE_OPTIONS
from reference import relative_error
from small_runs import TINY
from step_cases import BATCH, CAPTURE, assert_same_gradients, random_images, random_state

from rvae_jax import losses
from rvae_jax.config import LossConfig, ModelConfig
from rvae_jax.models import make_models
from rvae_jax.training import code_terms
from rvae_jax.training.step import make_train_step

EVERYTHING = CODE_OPTIONS["full covariance of the mixture, averaged"]
KEY = jax.random.key(0)


def _two_steps(loss, how, devices=1, accumulate_steps=1):
    """Metrics, gradient and running statistics of two steps with different images."""
    axis_name = None if how == "jit" else "batch"
    vae, _ = make_models(ModelConfig(**TINY), adversarial=False, axis_name=axis_name)
    step = make_train_step(vae, None, CAPTURE, loss, accumulate_steps=accumulate_steps)
    state = random_state(vae, None, CAPTURE)
    state = state.replace(running=code_terms.first_running(loss, TINY["latent_dim"]))
    mesh = jax.make_mesh((devices,), ("batch",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    rows, whole = jax.P("batch"), jax.P()
    match how:
        case "jit":
            sharding = functools.partial(jax.NamedSharding, mesh)
            mapped = jax.jit(step, in_shardings=(sharding(whole), sharding(rows), sharding(whole)))
        case "pmap":
            mapped = jax.pmap(step, "batch", in_axes=(None, 0, None), out_axes=None, devices=jax.devices()[:devices])
        case "shard_map":
            specs = {"in_specs": (whole, rows, whole), "out_specs": whole}
            mapped = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=False, **specs))
    found = []
    for seed in range(2):
        images = random_images(seed=seed)
        if how == "pmap":
            images = images.reshape(devices, -1, *images.shape[1:])
        state, metrics = mapped(state, images, KEY)
        found.append(jax.device_get((jax.tree.map(float, metrics), state.vae.opt_state, state.running)))
    return found


@functools.cache
def _whole(name):
    return _two_steps(CODE_OPTIONS[name], "jit")


LAYOUTS = [
    ("full covariance of the mixture, averaged", ("jit", 1, 4)),
    ("full covariance of the mixture, averaged", ("jit", 8)),
    ("full covariance of the mixture, averaged", ("pmap", 8)),
    ("full covariance of the mixture, averaged", ("pmap", 2, 2)),
    ("full covariance of the mixture, averaged", ("shard_map", 2, 2)),
    ("diagonal moments of the means, averaged", ("pmap", 2, 2)),
    ("full covariance of the batch", ("pmap", 2, 2)),
    ("free bits", ("pmap", 2, 2)),
    ("likelihood", ("pmap", 4)),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_steps_are_the_same_however_the_batch_is_split(name, layout):
    for ours, whole in zip(_two_steps(CODE_OPTIONS[name], *layout), _whole(name), strict=True):
        assert ours[0] == pytest.approx(whole[0], rel=2e-5, abs=1e-5)
        assert_same_gradients(ours[1], whole[1])
        for mine, expected in zip(jax.tree.leaves(ours[2]), jax.tree.leaves(whole[2]), strict=True):
            assert relative_error(mine, expected) < 1e-5


def test_the_average_is_that_of_the_batches_so_far():
    vae, _ = make_models(ModelConfig(**TINY), adversarial=False)
    variables = random_state(vae, None, CAPTURE).vae.variables
    encode = jax.jit(functools.partial(vae.apply, variables, method="encode"))
    mean, log_var = np.float64(encode(random_images()))
    (_, _, first), (_, _, second) = _whole("full covariance of the mixture, averaged")
    moments = first["moments"].moments
    assert relative_error(moments.mean, mean.mean(0)) < 1e-5
    assert relative_error(moments.cov, np.cov(mean.T, bias=True) + np.diag(np.exp(log_var).mean(0))) < 1e-5
    assert first["moments"].weight == pytest.approx(0.3)
    assert second["moments"].weight == pytest.approx(0.3 + 0.7 * 0.3)
    assert relative_error(second["moments"].moments.cov, moments.cov) > 0.01


def test_the_second_step_has_the_kl_of_the_average():
    (_, _, _), (metrics, _, running) = _whole("full covariance of the mixture, averaged")
    average, size = running["moments"], TINY["latent_dim"]
    count = BATCH / ((0.7 / 1.7) ** 2 + (1 / 1.7) ** 2)
    cov = np.float64(average.moments.cov)
    shrunk = np.where(np.eye(size, dtype=bool), cov, cov * count / (count + size))
    mean = np.float64(average.moments.mean)
    expected = 0.5 * (mean @ mean + np.trace(shrunk) - size - np.linalg.slogdet(shrunk)[1])
    assert metrics["loss/population_kl"] == pytest.approx(expected, rel=1e-5)


def test_directions_are_those_of_the_step_on_all_devices():
    drawn = [losses.random_directions(jax.random.key(seed), 3, 5) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert relative_error(drawn[0], drawn[2]) > 0.1


@pytest.mark.parametrize("latent_dim", [128, 512])
def test_two_images_have_a_finite_step_with_the_full_covariance(latent_dim):
    """From the first step on, for codes that are ordinary, collapsed, and far away."""
    loss = LossConfig(covariance="full", moments_decay=0.98)

    @jax.jit
    def value_and_gradient(mean, running):
        def total(mean):
            terms, after = code_terms.code_terms(loss, running, KEY, mean, jnp.zeros_like(mean), {"noise": mean}, None)
            return terms["population_kl"], after

        return jax.value_and_grad(total, has_aux=True)(mean)

    mean = np.random.default_rng(0).normal(size=(2, latent_dim)).astype(np.float32)
    for scale in (1.0, 0.0, 1e-6, 1e15):
        running = code_terms.first_running(loss, latent_dim)
        for _ in range(3):
            (value, running), gradient = value_and_gradient(np.float32(scale) * mean, running)
            assert np.isfinite(value) and np.isfinite(gradient).all()


def test_likelihoods_are_not_accumulated():
    vae, _ = make_models(ModelConfig(**TINY), adversarial=False)
    with pytest.raises(ValueError, match="exact with reconstruction='l1' or 'l2' only"):
        make_train_step(vae, None, CAPTURE, CODE_OPTIONS["likelihood"], accumulate_steps=2)
