"""Adam, clipping and the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import LOSSES, relative_error

from rvae_jax.config import OptimizerConfig
from rvae_jax.training.optimizer import learning_rate_schedule, make_optimizer


def test_adam_equals_the_released_optimizers():
    optimizer = make_optimizer(OptimizerConfig(), 6)
    params = jnp.asarray(LOSSES["adam/var_0"])
    state = optimizer.init(params)
    for i, gradient in enumerate(LOSSES["adam/grads"]):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        assert relative_error(params, LOSSES[f"adam/var_{i + 1}"]) <= 2e-7


def _adam_in_float64(gradients, keras):
    m = v = 0.0
    for t, gradient in enumerate(np.float64(gradients), 1):
        m, v = 0.5 * m + 0.5 * gradient, 0.999 * v + 0.001 * gradient**2
        m_hat, correction = m / (1 - 0.5**t), 1 - 0.999**t
        if keras:
            yield -1e-4 * np.sqrt(correction) * m_hat / (np.sqrt(v) + 1e-7)
        else:
            yield -1e-4 * m_hat / (np.sqrt(v / correction) + 1e-7)


def test_adam_on_tiny_gradients_is_optaxs_and_as_far_from_keras_as_documented():
    scale = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    gradients = (np.random.default_rng(0).normal(1, 0.3, (20, 5)) * scale).astype(np.float32)
    gradients[0] = scale
    optimizer = make_optimizer(OptimizerConfig(), 20)
    state, ratios = optimizer.init(jnp.zeros(5)), []
    for gradient, optaxs, kerass in zip(
        gradients, _adam_in_float64(gradients, False), _adam_in_float64(gradients, True), strict=True
    ):
        update, state = optimizer.update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(update, optaxs, rtol=1e-5)
        ratios.append(np.asarray(update) / kerass)
    np.testing.assert_allclose(ratios[0], [3.78, 1.30, 1.03, 1.00, 1.00], atol=0.005)
    assert np.all(np.diff([ratio[0] for ratio in ratios]) < 0)


def test_clipping_scales_by_the_global_norm():
    gradients = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    small = jax.tree.map(lambda array: 0.1 * array, gradients)
    config = OptimizerConfig(clip_norm=1.0)
    optimizer = make_optimizer(config, 10)
    state = optimizer.init(gradients)
    _, state = optimizer.update(gradients, state)
    updates, _ = optimizer.update(small, state)
    (_, expected) = _adam_in_float64([[0.6, 0.0, 0.8], [0.3, 0.0, 0.4]], False)
    np.testing.assert_allclose(np.concatenate([updates["a"], updates["b"]]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 1, 7: 1, 100: 1}),
        ({"warmup": 4}, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 100: 1}),
        ({"warmup": 1}, {0: 1, 1: 1}),
        ({"schedule": "cosine"}, {0: 1, 50: 0.5, 25: 0.5 + np.sqrt(0.125), 100: 0}),
        ({"schedule": "cosine", "warmup": 20}, {0: 0.05, 19: 1, 20: 1, 60: 0.5, 100: 0}),
        ({"schedule": "cosine", "warmup": 0.2}, {0: 0.05, 19: 1, 20: 1, 60: 0.5, 100: 0}),
        ({"schedule": "cosine", "warmup": 100}, {0: 0.01, 99: 1}),
    ],
)
def test_learning_rate_schedule(options, expected):
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=2e-3, **options), 100)
    for step, value in expected.items():
        assert float(schedule(step)) == pytest.approx(2e-3 * value, rel=1e-5, abs=1e-9), step


def test_optimizer_follows_the_schedule():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1.0, warmup=4), 10)
    state, sizes = optimizer.init(jnp.ones(1)), []
    for _ in range(6):
        update, state = optimizer.update(jnp.ones(1), state)
        sizes.append(-float(update[0]))
    np.testing.assert_allclose(sizes, [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-5)
