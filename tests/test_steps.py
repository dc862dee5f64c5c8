import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import CONFIG, FIXTURE, LOSSES, flat, relative_error, under, variables

from rvae_jax import parallel
from rvae_jax.config import LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.steps import make_train_step, ramp, term_weights
from rvae_jax.train_state import (
    Player,
    TrainState,
    create_train_state,
    learning_rate_schedule,
    make_models,
    make_optimizer,
)

REFERENCE = ModelConfig(
    image_shape=tuple(CONFIG["input_dim"]),
    latent_dim=CONFIG["latent_dim"],
    encoder_filters=tuple(CONFIG["enc"]),
    decoder_filters=tuple(CONFIG["dec"]),
    discriminator_filters=tuple(CONFIG["dis"]),
    discriminator_strides=tuple(CONFIG["dis_strides"]),
)
TINY = {
    "image_shape": (8, 8, 2),
    "latent_dim": 8,
    "encoder_filters": (4, 6),
    "decoder_filters": (6, 2),
    "encoder_identity_blocks": 0,
    "decoder_identity_blocks": 0,
    "discriminator_filters": (4, 1),
    "discriminator_strides": (2, 1),
}
BATCH = 8

# Leaves the weights alone, and the gradient in the optimizer's state.
CAPTURE = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradients, state, params=None: (jax.tree.map(jnp.zeros_like, gradients), gradients),
)

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _state(vae, discriminator, optimizer, *, ema=False, seed=0):
    """A state with random weights and statistics, of which none makes a layer the identity."""
    rng = np.random.default_rng(seed)
    create = functools.partial(create_train_state, vae, discriminator, optimizer, ema=ema)
    shapes = jax.eval_shape(create, jax.random.key(0))

    def player(shapes):
        weights = jax.tree.map(
            lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape) + (leaf.ndim == 1), jnp.float32),
            shapes.variables,
        )
        return Player(weights["params"], weights["batch_stats"], optimizer.init(weights["params"]))

    vae = player(shapes.vae)
    return TrainState(
        step=jnp.int32(0),
        vae=vae,
        discriminator=None if shapes.discriminator is None else player(shapes.discriminator),
        ema_params=jax.tree.map(jnp.zeros_like, vae.params) if ema else None,
    )


def _images(shape=(BATCH, *TINY["image_shape"]), seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture
def fixed_noise(monkeypatch):
    noise = np.random.default_rng(5).normal(size=(BATCH, TINY["latent_dim"])).astype(np.float32)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(noise))
    return noise


def _reference_step(loss, prefixes):
    vae, discriminator = make_models(REFERENCE, adversarial=loss.adversarial != "none")
    parts = {name: variables(f"{name}/") for name in ("encoder", "sampler", "decoder")}
    params = {name: part["params"] for name, part in parts.items()}
    stats = {name: part["batch_stats"] for name, part in parts.items() if part["batch_stats"]}
    state = TrainState(jnp.int32(0), Player(params, stats, CAPTURE.init(params)), None, None)
    if discriminator is not None:
        weights = variables("discriminator/")
        state = state.replace(
            discriminator=Player(weights["params"], weights["batch_stats"], CAPTURE.init(weights["params"]))
        )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(FIXTURE["in/eps"]))
        step = jax.jit(make_train_step(vae, discriminator, CAPTURE, loss))
        after, metrics = step(state, FIXTURE["in/x"], jax.random.key(0))
    gradients = {"grad_gen": after.vae.opt_state, "grad_baseline": after.vae.opt_state}
    if discriminator is not None:
        gradients["grad_dis"] = {"discriminator": after.discriminator.opt_state}
    return state, after, metrics, {prefix: flat(gradients[prefix]) for prefix in prefixes}


@pytest.fixture(scope="module")
def reference_step():
    return _reference_step(LossConfig(), ("grad_gen", "grad_dis"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("weighted/reconstruction", "rec_loss"),
        ("weighted/population_kl", "kl_loss"),
        ("weighted/variance_regularizer", "kl_loss_ind"),
        ("weighted/adversarial", "fk_gen_loss"),
        ("weighted/discriminator", "dis_loss"),
        ("loss/total", "gen_loss"),
    ],
)
def test_losses_of_a_step_equal_the_released_codes(reference_step, ours, theirs):
    _, _, metrics, _ = reference_step
    assert relative_error(metrics[ours], FIXTURE[f"step/loss/{theirs}"]) <= 2e-6


@pytest.mark.parametrize("player", ["grad_gen", "grad_dis"])
def test_every_gradient_of_a_step_equals_the_released_codes(reference_step, player, record_property):
    gradients, expected = reference_step[3][player], under(FIXTURE, f"step/{player}/")
    assert gradients.keys() == expected.keys()
    errors = {name: relative_error(gradients[name], array) for name, array in expected.items()}
    worst = max(errors, key=errors.get)
    record_property("worst", f"{worst} {errors[worst]:.1e}")
    assert errors[worst] <= 2e-5, worst


def test_other_metrics_of_a_step(reference_step):
    state, after, metrics, gradients = reference_step
    real, fake = FIXTURE["step/logits_real"], FIXTURE["step/logits_fake"]
    assert metrics["discriminator/accuracy_real"] == pytest.approx(np.mean(real > 0))
    assert metrics["discriminator/accuracy_fake"] == pytest.approx(np.mean(fake < 0))
    for player, prefix in (("vae", "grad_gen"), ("discriminator", "grad_dis")):
        norm = np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in gradients[prefix].values()))
        assert metrics[f"gradient_norm/{player}"] == pytest.approx(norm, rel=1e-5)
    mean, log_var = FIXTURE["out/z_mean"], FIXTURE["out/z_log_var"]
    expected = {
        "active_units": np.sum(mean.var(0) > 0.01),
        "population_mean_rms": np.sqrt(np.mean(mean.mean(0) ** 2)),
        "population_std": np.mean(mean.std(0)),
        "sigma_mean": np.mean(np.exp(0.5 * log_var)),
        "sigma_min": np.min(np.exp(0.5 * log_var)),
    }
    for name, value in expected.items():
        assert metrics[f"latent/{name}"] == pytest.approx(value, rel=1e-5), name
    assert {array.dtype for array in metrics.values()} == {np.dtype(np.float32)}
    assert {array.shape for array in metrics.values()} == {()}
    assert after.step == state.step + 1
    for name in ("vae", "discriminator"):
        before, now = getattr(state, name), getattr(after, name)
        assert jax.tree.all(jax.tree.map(np.array_equal, before.batch_stats, now.batch_stats))


def test_standard_vae_equals_the_released_baseline():
    loss = LossConfig(kl="standard", adversarial="none")
    _, _, metrics, gradients = _reference_step(loss, ("grad_baseline",))
    expected = under(FIXTURE, "step/grad_baseline/")
    assert len(expected) == 6
    for name, array in expected.items():
        assert relative_error(gradients["grad_baseline"][name], array) <= 2e-5, name
    assert relative_error(metrics["loss/total"], FIXTURE["step/loss/baseline_gen_loss"]) <= 2e-6


def _captured(loss, fixed_noise_is_set, steps=(0,)):
    """Metrics and both players' gradients of a step, at given step numbers."""
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=loss.adversarial != "none")
    state = _state(vae, discriminator, CAPTURE)
    step = quick_jit(make_train_step(vae, discriminator, CAPTURE, loss))
    results = []
    for number in steps:
        after, metrics = step(state.replace(step=jnp.int32(number)), _images(), jax.random.key(0))
        results.append((metrics, after.vae.opt_state, after.discriminator and after.discriminator.opt_state))
    return results


def _difference(ours, theirs):
    return max(map(relative_error, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_neither_players_loss_moves_the_other(fixed_noise, kind):
    loss = LossConfig(adversarial=kind, adversarial_start_step=1, adversarial_weight=3000.0)
    (_, vae_before, discriminator_before), (_, vae_after, discriminator_after) = _captured(loss, fixed_noise, (0, 1))
    ((_, vae_alone, _),) = _captured(LossConfig(adversarial="none"), fixed_noise)
    # The generator's loss, on from step 1, does not reach the discriminator; the discriminator's never reaches the VAE.
    assert _difference(discriminator_after, discriminator_before) <= 1e-6
    assert _difference(vae_before, vae_alone) <= 2e-5
    assert _difference(vae_after, vae_alone) > 0.05


def _softplus(x):
    return np.logaddexp(0.0, x)


def _relu(x):
    return np.maximum(0.0, x)


def _expected_terms(loss, noise):
    """The objective of the tiny networks, in NumPy and float64, from what the networks give."""
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    state = _state(vae, discriminator, CAPTURE)

    @quick_jit
    def forward(x):
        result = vae.apply(state.vae.variables, x, noise)
        logits = [discriminator.apply(state.discriminator.variables, image) for image in (x, result.x_hat)]
        return (*result, *logits)

    x = _images()
    x_hat, mean, log_var, real, fake = (np.float64(array) for array in forward(x))
    variance = np.exp(log_var)
    population = mean.var(0) + (variance.mean(0) if loss.moments == "mixture" else 0)
    terms = {"reconstruction": np.mean(np.abs(x - x_hat))}
    if loss.kl == "standard":
        terms["standard_kl"] = 0.5 * np.mean(np.sum(mean**2 + variance - 1 - log_var, 1))
    else:
        terms["population_kl"] = 0.5 * np.sum(mean.mean(0) ** 2 + population - 1 - np.log(population))
        terms["variance_regularizer"] = 0.5 * np.mean(np.sum(variance - 1 - log_var, 1))
    if loss.adversarial == "bce":
        terms["adversarial"] = np.mean(_softplus(-fake))
        terms["discriminator"] = np.mean(_softplus(-real)) + np.mean(_softplus(fake))
    if loss.adversarial == "hinge":
        terms["adversarial"] = -np.mean(fake)
        terms["discriminator"] = np.mean(_relu(1 - real)) + np.mean(_relu(1 + fake))
    return terms


OPTIONS = {
    "hinge": (
        LossConfig(adversarial="hinge", adversarial_weight=7.0),
        {0: {"reconstruction": 5000, "population_kl": 1, "variance_regularizer": 0.2, "adversarial": 7}},
    ),
    "standard": (
        LossConfig(kl="standard", beta=3.0, adversarial="none", reconstruction_weight=10.0, kl_ramp_steps=2),
        {0: {"reconstruction": 10, "standard_kl": 1.5}, 1: {"reconstruction": 10, "standard_kl": 3}},
    ),
    "mixture, with ramps": (
        LossConfig(
            moments="mixture",
            population_weight=2.0,
            variance_weight=4.0,
            kl_start_step=2,
            kl_ramp_steps=4,
            adversarial_start_step=3,
            adversarial_ramp_steps=2,
        ),
        {
            1: {"reconstruction": 5000, "population_kl": 0, "variance_regularizer": 0, "adversarial": 0},
            3: {"reconstruction": 5000, "population_kl": 1, "variance_regularizer": 2, "adversarial": 50},
            9: {"reconstruction": 5000, "population_kl": 2, "variance_regularizer": 4, "adversarial": 100},
        },
    ),
}


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("name", OPTIONS)
def test_options_change_the_objective_as_they_say(name, fixed_noise):
    loss, weights_at = OPTIONS[name]
    terms = _expected_terms(loss, fixed_noise)
    for (metrics, _, _), weights in zip(
        _captured(loss, fixed_noise, tuple(weights_at)), weights_at.values(), strict=True
    ):
        assert {key for key in metrics if key.startswith("loss/")} == {f"loss/{key}" for key in terms} | {"loss/total"}
        for key, term in terms.items():
            assert metrics[f"loss/{key}"] == pytest.approx(term, rel=1e-5), key
        for key, weight in weights.items():
            assert metrics[f"weighted/{key}"] == pytest.approx(weight * terms[key], rel=1e-5), key
        if "discriminator" in terms:
            whole = loss.adversarial_weight * terms["discriminator"]
            assert metrics["weighted/discriminator"] == pytest.approx(whole, rel=1e-5)
        total = sum(weight * terms[key] for key, weight in weights.items())
        assert metrics["loss/total"] == pytest.approx(total, rel=1e-5)


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 0, [1, 1, 1, 1, 1]),
        (2, 0, [0, 0, 1, 1, 1]),
        (0, 4, [0.25, 0.5, 0.75, 1, 1]),
        (1, 2, [0, 0.5, 1, 1, 1]),
    ],
)
def test_ramp(start, length, expected):
    assert [float(ramp(jnp.int32(step), start, length)) for step in range(5)] == expected


def test_discriminator_has_no_ramp():
    weights = term_weights(LossConfig(adversarial_start_step=10, kl_start_step=10), jnp.int32(0))
    assert weights["discriminator"] == 100
    assert weights["adversarial"] == weights["population_kl"] == weights["standard_kl"] == 0


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
    np.testing.assert_allclose(ratios[0], [3.78, 1.30, 1.03, 1.003, 1.0003], rtol=2e-3)
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
        ({"warmup_steps": 4}, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 100: 1}),
        ({"warmup_steps": 1}, {0: 1, 1: 1}),
        ({"schedule": "cosine"}, {0: 1, 50: 0.5, 25: 0.5 + np.sqrt(0.125), 100: 0}),
        ({"schedule": "cosine", "warmup_steps": 20}, {0: 0.05, 19: 1, 20: 1, 60: 0.5, 100: 0}),
        ({"schedule": "cosine", "warmup_steps": 100}, {0: 0.01, 99: 1}),
    ],
)
def test_learning_rate_schedule(options, expected):
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=2e-3, **options), 100)
    for step, value in expected.items():
        assert float(schedule(step)) == pytest.approx(2e-3 * value, rel=1e-5, abs=1e-9), step


def test_optimizer_follows_the_schedule():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1.0, warmup_steps=4), 10)
    state, sizes = optimizer.init(jnp.ones(1)), []
    for _ in range(6):
        update, state = optimizer.update(jnp.ones(1), state)
        sizes.append(-float(update[0]))
    np.testing.assert_allclose(sizes, [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-5)


def test_average_of_weights(fixed_noise):
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=False)
    optimizer = optax.sgd(1e-4)
    state = _state(vae, discriminator, optimizer, ema=True)
    step = quick_jit(make_train_step(vae, discriminator, optimizer, LossConfig(adversarial="none"), ema_decay=0.9))
    for number, decay in ((0, 0.1), (8, 0.5), (71, 72 / 81), (100, 0.9)):
        before = state.replace(step=jnp.int32(number))
        state, _ = step(before, _images(), jax.random.key(0))
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, before.ema_params, state.vae.params)
        assert _difference(state.ema_params, expected) <= 1e-6
        assert _difference(state.evaluation_variables["params"], state.vae.params) > 1e-6


def test_initial_state():
    config = ModelConfig(**TINY | {"image_shape": (2, 2, 1), "decoder_filters": (6, 1)})
    vae, discriminator = make_models(config, adversarial=True)
    create = quick_jit(
        functools.partial(create_train_state, vae, discriminator, make_optimizer(OptimizerConfig(), 9), ema=True)
    )
    first, again, other = (create(jax.random.key(seed)) for seed in (0, 0, 1))
    assert first.step == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not np.array_equal(
        first.vae.params["decoder"]["stem"]["kernel"], other.vae.params["decoder"]["stem"]["kernel"]
    )
    for average, weight in zip(jax.tree.leaves(first.ema_params), jax.tree.leaves(first.vae.params), strict=True):
        assert np.array_equal(average, weight)
        assert average.unsafe_buffer_pointer() != weight.unsafe_buffer_pointer()


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("axis_name", [None, "batch"])
def test_noise_is_a_function_of_key_step_and_device(monkeypatch, axis_name):
    seen, normal = [], jax.random.normal

    def spy(key, shape):
        noise = normal(key, shape)
        jax.debug.callback(lambda noise: seen.append(np.array(noise)), noise)
        return noise

    monkeypatch.setattr(jax.random, "normal", spy)
    vae, _ = make_models(ModelConfig(**TINY), adversarial=False, axis_name=axis_name)
    state = _state(vae, None, CAPTURE)
    step = make_train_step(vae, None, CAPTURE, LossConfig(adversarial="none"))
    if axis_name is not None:
        step = jax.vmap(step, in_axes=(None, 0, None), axis_name=axis_name)
    step = quick_jit(step)
    images = _images() if axis_name is None else _images().reshape(2, 4, *TINY["image_shape"])

    def noise(number, seed):
        seen.clear()
        step(state.replace(step=jnp.int32(number)), images, jax.random.key(seed))
        jax.effects_barrier()
        return np.sort(np.concatenate([array.ravel() for array in seen]))

    first = noise(0, 0)
    assert np.array_equal(first, noise(0, 0))
    everything = np.concatenate([first, noise(1, 0), noise(2, 0), noise(0, 1)])
    assert everything.size == 4 * BATCH * TINY["latent_dim"]
    assert len(np.unique(everything)) > 0.99 * everything.size
    assert abs(everything.mean()) < 0.2
    assert everything.std() == pytest.approx(1, abs=0.15)


SPLIT = "batch"


@functools.cache
def _trainer(norm, axis_name):
    model = ModelConfig(**TINY, norm=norm)
    vae, discriminator = make_models(model, adversarial=True, axis_name=axis_name)
    optimizer = optax.sgd(1e-3)
    return make_train_step(vae, discriminator, optimizer, LossConfig()), _state(vae, discriminator, optimizer)


@pytest.fixture
def zero_noise(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.zeros(shape))


def _whole_batch(norm):
    step, state = _trainer(norm, None)
    return quick_jit(step)(state, _images(), jax.random.key(0))


def _weight_changes(after, before):
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after, before)


def _assert_same_step(ours, metrics, expected, expected_metrics, before, tolerance=2e-5):
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    for player in ("vae", "discriminator"):
        mine, theirs, start = (getattr(state, player) for state in (ours, expected, before))
        assert _difference(mine.params, theirs.params) <= 1e-6
        changes = (_weight_changes(state.params, start.params) for state in (mine, theirs))
        assert _difference(*changes) <= 1e-3
        assert _difference(mine.batch_stats, theirs.batch_stats) <= 2e-6


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_split_batch_takes_the_step_of_the_whole(norm):
    expected, expected_metrics = _whole_batch(norm)
    before = _trainer(norm, None)[1]
    step, state = _trainer(norm, SPLIT)
    for count in (2, 8):
        images = _images().reshape(count, -1, *TINY["image_shape"])
        mapped = jax.pmap(step, SPLIT, in_axes=(None, 0, None), devices=jax.devices()[:count])
        replicas, metrics = mapped(state, images, jax.random.key(0))
        for leaf in jax.tree.leaves((replicas, metrics)):
            assert np.all(np.asarray(leaf) == np.asarray(leaf[:1]))
        first, metrics = jax.tree.map(lambda leaf: leaf[0], (replicas, metrics))
        _assert_same_step(first, metrics, expected, expected_metrics, before)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_global_batch_over_eight_devices_takes_the_step_of_one(norm):
    expected, expected_metrics = _whole_batch(norm)
    step, state = _trainer(norm, None)
    split, whole = parallel.data_parallel()
    assert len(split.device_set) == 8
    jitted = quick_jit(step, in_shardings=(whole, split, whole), out_shardings=whole)
    ours, metrics = jitted(state, _images(), jax.random.key(0))
    _assert_same_step(ours, metrics, expected, expected_metrics, state)


@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_split_batch_without_axis_name_takes_another_step():
    _, expected = _whole_batch("frozen")
    step, state = _trainer("frozen", None)
    mapped = jax.pmap(step, in_axes=(None, 0, None), devices=jax.devices()[:2])
    _, metrics = mapped(state, _images().reshape(2, -1, *TINY["image_shape"]), jax.random.key(0))
    assert not np.allclose(np.mean(metrics["loss/population_kl"]), expected["loss/population_kl"], rtol=0.01)


def test_overfits_one_batch():
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3), 300)
    state = _state(vae, discriminator, optimizer)
    step = jax.jit(make_train_step(vae, discriminator, optimizer, LossConfig()), donate_argnums=0)
    errors = []
    for _ in range(300):
        state, metrics = step(state, _images(), jax.random.key(0))
        errors.append(float(metrics["loss/reconstruction"]))
    assert state.step == 300
    assert np.mean(errors[-10:]) < 0.2 * errors[0]


def test_a_step_runs_the_vae_once_and_the_discriminator_twice():
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    state, x = _state(vae, discriminator, CAPTURE), _images()
    noise = jnp.zeros((BATCH, TINY["latent_dim"]))

    def convolutions(function, *arguments):
        text = quick_jit(function).lower(*arguments).compile().as_text()
        return text.count(" convolution(")

    in_vae = convolutions(vae.apply, state.vae.variables, x, noise)
    in_discriminator = convolutions(discriminator.apply, state.discriminator.variables, x)
    assert (in_vae, in_discriminator) == (6, 2)
    in_step = convolutions(make_train_step(vae, discriminator, CAPTURE, LossConfig()), state, x, jax.random.key(0))
    # Each convolution of the VAE: itself, and the gradients in its input (the normalised image has one too) and kernel.
    # Each of the discriminator: itself and its kernel's gradient for images and for reconstructions; its input's for
    # images, for reconstructions, and for the VAE, of which the first layer needs the last alone.
    assert in_step == 3 * in_vae + (4 + 3) * in_discriminator - 2
