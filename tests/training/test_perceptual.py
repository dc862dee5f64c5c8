"""The perceptual term: what it sees, and that it is the same however the batch is split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import TINY
from step_cases import CAPTURE, assert_same_gradients, random_images, random_state

from rvae_jax.config import Config, LossConfig, ModelConfig
from rvae_jax.evaluation.metrics import similarity
from rvae_jax.models import make_models
from rvae_jax.models.features import crop, features, lpips
from rvae_jax.training.frozen import load_frozen
from rvae_jax.training.perceptual import make_draws, perceptual_terms
from rvae_jax.training.step import make_train_step

MODEL = ModelConfig(**TINY | {"image_shape": (40, 36, 1), "decoder_filters": (6, 1)})
COMPLETE = LossConfig(adversarial="none", perceptual="alexnet", perceptual_weight=3.0)
WINDOWS = LossConfig(adversarial="none", perceptual="alexnet", perceptual_stages=2, perceptual_crop=32)
KEY = jax.random.key(0)
SHAPE = (4, *MODEL.image_shape)


def _frozen(loss):
    return load_frozen(Config(loss=loss))


def _step(loss, how="jit", devices=1, accumulate_steps=1):
    vae, _ = make_models(MODEL, adversarial=False, axis_name="batch" if how == "pmap" else None)
    step = make_train_step(vae, None, CAPTURE, loss, accumulate_steps=accumulate_steps)
    state, images = random_state(vae, None, CAPTURE), random_images(SHAPE)
    if how == "pmap":
        images = images.reshape(devices, -1, *images.shape[1:])
        step = jax.pmap(step, "batch", in_axes=(None, 0, None, None), out_axes=None, devices=jax.devices()[:devices])
    else:
        step = jax.jit(step)
    state, metrics = step(state, images, KEY, _frozen(loss))
    return jax.device_get((jax.tree.map(float, metrics), state.vae.opt_state))


@functools.cache
def _whole():
    return _step(WINDOWS)


@pytest.mark.usefixtures("zero_noise")
def test_the_term_is_lpips_of_reconstructions():
    vae, _ = make_models(MODEL, adversarial=False)
    state, images = random_state(vae, None, CAPTURE), random_images(SHAPE)
    x_hat = jax.jit(vae.apply)(state.vae.variables, images, np.zeros((4, 8), np.float32)).x_hat
    metrics, _ = _step(COMPLETE)
    other = perceptual_terms(COMPLETE, _frozen(COMPLETE), x_hat, images, {})["perceptual"]
    assert metrics["loss/perceptual"] == pytest.approx(float(other), rel=1e-5)
    assert metrics["weighted/perceptual"] == pytest.approx(3 * float(other), rel=1e-5)
    weighted = sum(value for name, value in metrics.items() if name.startswith("weighted/"))
    assert metrics["loss/total"] == pytest.approx(weighted, rel=1e-6)
    # By the package itself, which takes bytes.
    rounded = [np.asarray(jnp.clip(jnp.round(127.5 * (each + 1)), 0, 255), np.uint8) for each in (x_hat, images)]
    ours = perceptual_terms(COMPLETE, _frozen(COMPLETE), *(np.float32(each) / 127.5 - 1 for each in rounded), {})
    theirs = similarity.lpips(similarity.load_lpips(), *rounded)
    assert float(ours["perceptual"]) == pytest.approx(float(np.mean(theirs)), rel=1e-4)


@pytest.mark.parametrize("layout", [("jit", 1, 2), ("pmap", 2), ("pmap", 2, 2)])
def test_a_step_with_windows_is_the_same_however_the_batch_is_split(layout):
    metrics, gradient = _step(WINDOWS, *layout)
    whole_metrics, whole = _whole()
    assert metrics == pytest.approx(whole_metrics, rel=2e-5, abs=1e-5)
    assert_same_gradients(gradient, whole)


def test_windows_are_new_in_each_image_and_step():
    images = random_images(SHAPE)
    corners = [np.asarray(make_draws(WINDOWS, jax.random.key(seed), images, None)["corners"]) for seed in (0, 1)]
    assert all((each >= 0).all() and (each <= [8, 4]).all() for each in corners)
    assert len({tuple(row) for each in corners for row in each}) > 3
    weights = _frozen(WINDOWS)["alexnet"]
    x_hat = random_images(SHAPE, seed=1)
    term = perceptual_terms(WINDOWS, {"alexnet": weights}, x_hat, images, {"corners": corners[0]})["perceptual"]
    maps = [features(weights, crop(each, corners[0], 32)) for each in (images, x_hat)]
    assert float(term) == pytest.approx(float(jnp.mean(lpips(weights, *maps))), rel=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    images, x_hat = random_images(SHAPE), 0.5 * random_images(SHAPE, seed=1)
    corners = jax.device_get(make_draws(WINDOWS, KEY, images, None))

    @jax.jit
    def term(x_hat):
        return perceptual_terms(WINDOWS, _frozen(WINDOWS), x_hat, images, corners)["perceptual"]

    gradient = np.asarray(jax.jit(jax.grad(term))(x_hat))
    # Along the gradient, where the difference is largest beside float32's rounding.
    step = 2e-4 * gradient / np.sqrt(np.mean(np.square(gradient)))
    numeric = (float(term(x_hat + step)) - float(term(x_hat - step))) / 2
    assert np.sum(gradient * step) == pytest.approx(numeric, rel=2e-3)


def test_without_the_term_nothing_is_loaded_and_without_weights_the_step_says_so():
    assert load_frozen(Config()) == {}
    vae, _ = make_models(MODEL, adversarial=False)
    step = make_train_step(vae, None, CAPTURE, COMPLETE)
    with pytest.raises(ValueError, match=r"loss.perceptual=alexnet needs its weights in the argument `frozen`"):
        step(random_state(vae, None, CAPTURE), random_images(SHAPE), KEY)
