import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import FIXTURE, LOSSES, MODEL, flat, relative_error, under, variables
from small_runs import TINY

from rvae_jax import losses
from rvae_jax.config import LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.distributed import sharding
from rvae_jax.hardware import cost
from rvae_jax.models import make_models
from rvae_jax.models.layers import Conv
from rvae_jax.training import step as step_lib
from rvae_jax.training.objective import term_weights
from rvae_jax.training.optimizer import learning_rate_schedule, make_optimizer
from rvae_jax.training.state import Player, TrainState, create_train_state
from rvae_jax.training.step import make_train_step

BATCH = 8

# Gradient descent that leaves the gradient in its state.
CAPTURE = optax.GradientTransformation(
    lambda params: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params),
    lambda gradients, state, params=None: (jax.tree.map(lambda gradient: -1e-4 * gradient, gradients), gradients),
)

AS_USERS_HAVE_IT = {"xla_backend_optimization_level": 3}


def _state(vae, discriminator, optimizer, *, ema=False):
    """A state with random weights and statistics, of which none makes a layer the identity."""
    rng = np.random.default_rng(0)
    create = functools.partial(create_train_state, vae, discriminator, optimizer, ema=ema)
    shapes = jax.eval_shape(create, jax.random.key(0))

    def weight(path, leaf):
        scale = 0.3 if leaf.ndim < 2 else 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        centre = path[-1].key in ("gamma", "moving_variance")
        return (centre + scale * rng.normal(size=leaf.shape)).astype(np.float32)

    def player(shapes):
        weights = jax.tree_util.tree_map_with_path(weight, shapes.variables)
        return Player(weights["params"], weights["batch_stats"], optimizer.init(weights["params"]))

    vae = player(shapes.vae)
    return TrainState(
        step=np.int32(0),
        vae=vae,
        discriminator=None if shapes.discriminator is None else player(shapes.discriminator),
        ema_params=jax.tree.map(np.zeros_like, vae.params) if ema else None,
    )


def _images(shape=(BATCH, *TINY["image_shape"]), seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture
def fixed_noise(monkeypatch):
    noise = np.random.default_rng(5).normal(size=(BATCH, TINY["latent_dim"])).astype(np.float32)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(noise))
    return noise


def _reference_step(loss, compiler_options=None):
    vae, discriminator = make_models(MODEL, adversarial=loss.adversarial != "none")
    parts = {name: variables(f"{name}/") for name in ("encoder", "sampler", "decoder")}
    params = {name: part["params"] for name, part in parts.items()}
    stats = {name: part["batch_stats"] for name, part in parts.items() if part["batch_stats"]}
    state = TrainState(np.int32(0), Player(params, stats, CAPTURE.init(params)), None, None)
    if discriminator is not None:
        weights = variables("discriminator/")
        player = Player(weights["params"], weights["batch_stats"], CAPTURE.init(weights["params"]))
        state = state.replace(discriminator=player)
    step = jax.jit(make_train_step(vae, discriminator, CAPTURE, loss), compiler_options=compiler_options)
    return step(state, FIXTURE["in/x"], jax.random.key(0))


@pytest.mark.usefixtures("strict_promotion")
def test_a_step_has_the_losses_and_every_gradient_of_the_released_code(monkeypatch, record_property):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(FIXTURE["in/eps"]))
    state, metrics = _reference_step(LossConfig(), AS_USERS_HAVE_IT)
    for ours, theirs in {
        "weighted/reconstruction": "rec_loss",
        "weighted/population_kl": "kl_loss",
        "weighted/variance_regularizer": "kl_loss_ind",
        "weighted/adversarial": "fk_gen_loss",
        "weighted/discriminator": "dis_loss",
        "loss/total": "gen_loss",
    }.items():
        assert relative_error(metrics[ours], FIXTURE[f"step/loss/{theirs}"]) <= 2e-6, theirs
    ours = {f"grad_gen/{name}": gradient for name, gradient in flat(state.vae.opt_state).items()}
    ours |= {f"grad_dis/discriminator/{name}": array for name, array in flat(state.discriminator.opt_state).items()}
    theirs = under(FIXTURE, "step/")
    theirs = {name: theirs[name] for name in theirs if name.startswith(("grad_gen", "grad_dis"))}
    assert ours.keys() == theirs.keys()
    errors = {name: relative_error(ours[name], theirs[name]) for name in theirs}
    worst = max(errors, key=errors.get)
    record_property("worst", f"{worst} {errors[worst]:.1e}")
    assert errors[worst] <= 2e-5, worst


def test_a_step_of_the_standard_vae_is_the_released_baselines(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(FIXTURE["in/eps"]))
    state, metrics = _reference_step(LossConfig(kl="standard", adversarial="none"))
    expected = under(FIXTURE, "step/grad_baseline/")
    assert len(expected) == 6
    for name, array in expected.items():
        assert relative_error(flat(state.vae.opt_state)[name], array) <= 2e-5, name
    assert relative_error(metrics["loss/total"], FIXTURE["step/loss/baseline_gen_loss"]) <= 2e-6


def _captured(loss, steps=(0,)):
    """Metrics and both players' gradients of a step, for given numbers of the step."""
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=loss.adversarial != "none")
    state = _state(vae, discriminator, CAPTURE)
    step = jax.jit(make_train_step(vae, discriminator, CAPTURE, loss))
    results = []
    for number in steps:
        after, metrics = step(state.replace(step=np.int32(number)), _images(), jax.random.key(0))
        results.append((metrics, after.vae.opt_state, after.discriminator and after.discriminator.opt_state))
    return jax.device_get(results)


def _difference(ours, theirs):
    return max(map(relative_error, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


@pytest.mark.usefixtures("strict_promotion", "fixed_noise")
def test_neither_players_loss_moves_the_other():
    loss = LossConfig(adversarial_start_step=1, adversarial_weight=3000.0)
    (_, vae_before, discriminator_before), (_, vae_after, discriminator_after) = _captured(loss, (0, 1))
    ((_, vae_alone, _),) = _captured(LossConfig(adversarial="none"))
    # The generator's loss, on from step 1, does not reach the discriminator; the discriminator's never reaches the VAE.
    assert _difference(discriminator_after, discriminator_before) <= 1e-6
    assert _difference(vae_before, vae_alone) <= 2e-5
    assert _difference(vae_after, vae_alone) > 0.05


def _softplus(x):
    return np.logaddexp(0.0, x)


def _relu(x):
    return np.maximum(0.0, x)


def _expected_terms(loss, noise):
    """Unweighted terms and other metrics of the tiny networks, in NumPy and float64, from what the networks give."""
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    state = _state(vae, discriminator, CAPTURE)

    @jax.jit
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
        ratio = variance / loss.variance_target
        terms["variance_regularizer"] = 0.5 * np.mean(np.sum(ratio - 1 - np.log(ratio), 1))
    if loss.adversarial == "bce":
        terms["adversarial"] = np.mean(_softplus(-fake))
        terms["discriminator"] = np.mean(_softplus(-real)) + np.mean(_softplus(fake))
    if loss.adversarial == "hinge":
        terms["adversarial"] = -np.mean(fake)
        terms["discriminator"] = np.mean(_relu(1 - real)) + np.mean(_relu(1 + fake))
    if loss.adversarial == "least_squares":
        terms["adversarial"] = np.mean((fake - 1) ** 2)
        terms["discriminator"] = np.mean((real - 1) ** 2) + np.mean(fake**2)
    metrics = {
        "latent/active_units": np.sum(mean.var(0) > 0.01),
        "latent/population_mean_rms": np.sqrt(np.mean(mean.mean(0) ** 2)),
        "latent/population_std": np.mean(mean.std(0)),
        "latent/sigma_mean": np.mean(np.exp(0.5 * log_var)),
        "latent/sigma_min": np.min(np.exp(0.5 * log_var)),
    }
    if loss.adversarial != "none":
        border = 0.5 if loss.adversarial == "least_squares" else 0
        metrics["discriminator/accuracy_real"] = np.mean(real > border)
        metrics["discriminator/accuracy_fake"] = np.mean(fake < border)
    return terms, metrics


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
            adversarial="least_squares",
            variance_target=0.3,
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
def test_metrics_and_objective_are_what_the_options_say(name, fixed_noise):
    loss, weights_at = OPTIONS[name]
    terms, others = _expected_terms(loss, fixed_noise)
    results = _captured(loss, tuple(weights_at))
    for (metrics, *gradients), weights in zip(results, weights_at.values(), strict=True):
        if "discriminator" in terms:
            weights = weights | {"discriminator": loss.adversarial_weight}
        weighted = {key: weights[key] * term for key, term in terms.items()}
        expected = {f"loss/{key}": term for key, term in terms.items()} | others
        expected |= {f"weighted/{key}": term for key, term in weighted.items()}
        expected["loss/total"] = sum(term for key, term in weighted.items() if key != "discriminator")
        for player, gradient in zip(("vae", "discriminator"), gradients, strict=True):
            if gradient is not None:
                squares = [np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(gradient)]
                expected[f"gradient_norm/{player}"] = np.sqrt(sum(squares))
        assert metrics.keys() == expected.keys()
        assert {(value.dtype, value.shape) for value in metrics.values()} == {(np.dtype(np.float32), ())}
        for key, value in expected.items():
            assert float(metrics[key]) == pytest.approx(value, rel=1e-5), key


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
    assert [float(losses.ramp(jnp.int32(step), start, length)) for step in range(5)] == expected


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


def test_average_of_weights():
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=False)
    state = _state(vae, discriminator, CAPTURE, ema=True)
    step = jax.jit(make_train_step(vae, discriminator, CAPTURE, LossConfig(adversarial="none"), ema_decay=0.9))
    for number, decay in ((0, 0.1), (8, 0.5), (71, 72 / 81), (100, 0.9)):
        before = state.replace(step=np.int32(number))
        state = jax.device_get(step(before, _images(), jax.random.key(0))[0])
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, before.ema_params, state.vae.params)
        assert _difference(state.ema_params, expected) <= 1e-6
        assert _difference(state.evaluation_variables["params"], state.vae.params) > 1e-6


def test_initial_state():
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    optimizer = make_optimizer(OptimizerConfig(), 9)
    create = jax.jit(functools.partial(create_train_state, vae, discriminator, optimizer, ema=True))
    first, again, other = (create(jax.random.key(seed)) for seed in (0, 0, 1))
    assert first.step == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    for name, kernel in flat(first.vae.params).items():
        assert name.endswith("kernel") != np.array_equal(kernel, flat(other.vae.params)[name])
    for average, weight in zip(jax.tree.leaves(first.ema_params), jax.tree.leaves(first.vae.params), strict=True):
        assert np.array_equal(average, weight)
        assert average.unsafe_buffer_pointer() != weight.unsafe_buffer_pointer()


def test_eager_initial_state_can_be_donated():
    network = types.SimpleNamespace(
        image_shape=(1, 1, 1),
        latent_dim=1,
        init=lambda *_: {"params": {"kernel": jnp.ones(3)}, "batch_stats": {}},
    )
    state = create_train_state(network, None, optax.identity(), jax.random.key(0), ema=True)
    after = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)(state)
    assert np.array_equal(after.ema_params["kernel"], after.vae.params["kernel"])


@pytest.mark.usefixtures("strict_promotion")
def test_noise_is_a_function_of_key_and_step_and_place_in_the_batch():
    vae, _ = make_models(ModelConfig(**TINY), adversarial=False)
    state = _state(vae, None, CAPTURE)
    shape = (BATCH, TINY["latent_dim"])

    @functools.partial(jax.jit, static_argnums=1)
    def noise(step_key, count):
        if count == 1:
            return step_lib._noise(step_key, shape, None)
        drawn = jax.vmap(lambda _: step_lib._noise(step_key, (BATCH // count, shape[1]), "batch"), axis_name="batch")
        return drawn(jnp.arange(count)).reshape(shape)

    keys = [jax.random.fold_in(jax.random.key(seed), step) for seed, step in ((0, 0), (0, 1), (0, 2), (1, 0))]
    alone = [np.asarray(noise(key, 1)) for key in keys]
    for count in (2, 8):
        np.testing.assert_array_equal([noise(key, count) for key in keys], alone)
    everything = np.ravel(alone)
    assert len(np.unique(everything)) > 0.99 * everything.size
    assert abs(everything.mean()) < 0.2
    assert everything.std() == pytest.approx(1, abs=0.15)

    step = jax.jit(make_train_step(vae, None, CAPTURE, LossConfig(adversarial="none")))
    errors = [
        float(step(state.replace(step=np.int32(number)), _images(), jax.random.key(seed))[1]["loss/reconstruction"])
        for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert errors[0] == errors[1]
    assert len(set(errors)) == 3


SPLIT = "batch"


@functools.cache
def _trainer(norm, axis_name):
    model = ModelConfig(**TINY, norm=norm)
    vae, discriminator = make_models(model, adversarial=True, axis_name=axis_name)
    return make_train_step(vae, discriminator, CAPTURE, LossConfig()), _state(vae, discriminator, CAPTURE)


@pytest.fixture
def zero_noise(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.zeros(shape))


@functools.cache
def _whole_batch(norm):
    step, state = _trainer(norm, None)
    return jax.device_get(jax.jit(step)(state, _images(), jax.random.key(0)))


def _assert_same_gradients(ours, theirs):
    """Entry for entry; a bias before a batch norm has no gradient but rounding."""
    largest = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(theirs))
    for mine, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.max(np.abs(mine - their)) <= 2e-5 * np.max(np.abs(their)) + 3e-6 * largest


def _assert_same_step(state, metrics, expected, expected_metrics):
    for name, value in expected_metrics.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5), name
    for player in ("vae", "discriminator"):
        ours, theirs = getattr(state, player), getattr(expected, player)
        _assert_same_gradients(ours.opt_state, theirs.opt_state)
        assert _difference(ours.params, theirs.params) <= 2e-6
        assert _difference(ours.batch_stats, theirs.batch_stats) <= 2e-6


def _on_devices(step, state, count):
    """The step of ``count`` devices, each with its part of the batch."""
    mapped = jax.pmap(step, SPLIT, in_axes=(None, 0, None), devices=jax.devices()[:count])
    arguments = state, _images().reshape(count, -1, *TINY["image_shape"]), jax.random.key(0)
    return jax.device_get(mapped(*arguments))


@pytest.mark.parametrize(("norm", "count"), [("frozen", 2), ("batch", 8)])
@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_split_batch_takes_the_step_of_the_whole(norm, count):
    replicas, metrics = _on_devices(*_trainer(norm, SPLIT), count)
    for leaf in jax.tree.leaves((replicas, metrics)):
        assert np.all(leaf == leaf[:1])
    first, metrics = jax.tree.map(lambda leaf: leaf[0], (replicas, metrics))
    _assert_same_step(first, metrics, *_whole_batch(norm))


@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_split_batch_without_axis_name_takes_another_step():
    _, expected = _whole_batch("frozen")
    _, metrics = _on_devices(*_trainer("frozen", None), 2)
    assert not np.allclose(np.mean(metrics["loss/population_kl"]), expected["loss/population_kl"], rtol=0.01)


def _layout(style, count, **options):
    return sharding.data_parallel(style, devices=jax.devices()[:count], **options)


def _compiled(layout, norm="frozen", accumulate_steps=1, batch_size=2 * BATCH):
    """The step for a layout, a state on its devices, and a batch."""
    networks = make_models(ModelConfig(**TINY, norm=norm), adversarial=True, axis_name=layout.axis_name)
    step = make_train_step(*networks, CAPTURE, LossConfig(), ema_decay=0.9, accumulate_steps=accumulate_steps)
    state = jax.tree.map(jnp.asarray, _state(*networks, CAPTURE, ema=True))
    state = jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), state, layout.with_shardings(state))
    (batch,) = layout.to_devices([_images((batch_size, *TINY["image_shape"]))])
    lowered = layout.lower(step, state, batch, jax.random.key(0))
    return lowered.compile(compiler_options=layout.compiler_options), state, batch


@functools.cache
def _ten_steps(layout, norm="frozen", accumulate_steps=1):
    step, state, batch = _compiled(layout, norm, accumulate_steps)
    rows = []
    for _ in range(10):
        state, metrics = step(state, batch, jax.random.key(0))
        rows.append(jax.tree.map(float, metrics))
    return state, rows


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (_layout("jit", 8), {}),
        (_layout("pmap", 2), {}),
        (_layout("jit", 4), {"norm": "batch"}),
        (_layout("pmap", 8), {"norm": "batch"}),
        (_layout("jit", 4), {"accumulate_steps": 2}),
        (_layout("pmap", 4), {"accumulate_steps": 2}),
        (_layout("jit", 2, shard_optimizer=True), {}),
    ],
    ids=lambda each: f"{each.style}-{each.mesh.size}" if isinstance(each, sharding.DataParallel) else "-".join(each),
)
@pytest.mark.usefixtures("strict_promotion")
def test_ten_steps_are_the_same_however_they_are_laid_out(layout, options):
    """With noise, which sits in the same place of the batch."""
    state, rows = _ten_steps(layout, **options)
    whole, expected = _ten_steps(_layout("jit", 1), norm=options.get("norm", "frozen"))
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=2e-4, abs=1e-6)
    assert rows[9]["loss/total"] < 0.99 * rows[0]["loss/total"]
    for name in ("params", "batch_stats"):
        for player in ("vae", "discriminator"):
            ours, theirs = (getattr(getattr(each, player), name) for each in (state, whole))
            _assert_same_gradients(jax.device_get(ours), jax.device_get(theirs))
    _assert_same_gradients(jax.device_get(state.ema_params), jax.device_get(whole.ema_params))
    for leaf in jax.tree.leaves(state):
        if leaf.sharding.is_fully_replicated:
            replicas = [np.asarray(shard.data) for shard in leaf.addressable_shards]
            assert len(replicas) == layout.mesh.size
            assert all(np.array_equal(replica, replicas[0]) for replica in replicas)


def test_sharded_optimizer_takes_less_memory():
    layout = _layout("jit", 2, shard_optimizer=True)
    state, _ = _ten_steps(layout)
    parts = [leaf for leaf in jax.tree.leaves(state.vae.opt_state) if not leaf.sharding.is_fully_replicated]
    assert len(parts) > 10
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 2 for leaf in parts)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((state.vae.params, state.ema_params)))
    # Each device passes on the part of the weights that it has updated.
    assert "all-gather" in _compiled(layout)[0].as_text()


@pytest.mark.parametrize("name", ["standard", "mixture, with ramps"])
def test_accumulation_has_the_gradient_of_the_whole_batch(name):
    loss, weights_at = OPTIONS[name]
    networks = make_models(ModelConfig(**TINY), adversarial=loss.adversarial != "none")
    state = _state(*networks, CAPTURE).replace(step=np.int32(max(weights_at)))
    whole, parts = (
        jax.device_get(
            jax.jit(make_train_step(*networks, CAPTURE, loss, accumulate_steps=count))(
                state, _images(), jax.random.key(0)
            )
        )
        for count in (1, 4)
    )
    assert jax.tree.map(float, parts[1]) == pytest.approx(jax.tree.map(float, whole[1]), rel=1e-5)
    ours, theirs = (
        [each.vae.opt_state, each.discriminator and each.discriminator.opt_state] for each, _ in (parts, whole)
    )
    _assert_same_gradients(ours, theirs)


def test_accumulation_takes_less_memory_for_little_more_work():
    whole, parts = (
        cost.cost_of(_compiled(_layout("jit", 1), accumulate_steps=count, batch_size=64)[0], loop_steps=count)
        for count in (1, 8)
    )
    assert parts.temporary < 0.4 * whole.temporary
    assert whole.flops < parts.flops < 1.5 * whole.flops


def test_accumulation_moves_its_gradients_once_with_pmap():
    compiled, state, _ = _compiled(_layout("pmap", 4), accumulate_steps=2)
    collectives = cost.collectives(compiled.as_text())
    once = sum(each.bytes for each in collectives if not each.in_loop)
    assert once >= _bytes((state.vae.params, state.discriminator.params))
    assert sum(each.bytes for each in collectives if each.in_loop) <= 4 * 16


DEEPER = TINY | {
    "encoder_filters": (4, 4, 6),
    "decoder_filters": (6, 4, 2),
    "encoder_identity_blocks": 1,
    "decoder_identity_blocks": 1,
}


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.usefixtures("strict_promotion")
def test_rematerialisation_takes_the_same_step_of_the_same_state(norm):
    found = []
    for stages in (0, 2):
        networks = make_models(ModelConfig(**DEEPER, norm=norm), adversarial=True, remat_stages=stages)
        step = jax.jit(make_train_step(*networks, CAPTURE, LossConfig()))
        state = _state(*networks, CAPTURE)
        found.append((state, *jax.device_get(step(state, _images(), jax.random.key(0)))))
    (before, plain, plain_metrics), (before_remat, remat, metrics) = found
    assert jax.tree.structure(before_remat) == jax.tree.structure(before)
    assert jax.tree.map(float, metrics) == pytest.approx(jax.tree.map(float, plain_metrics), rel=1e-5)
    _assert_same_gradients(remat.vae.opt_state, plain.vae.opt_state)
    _assert_same_gradients(remat.discriminator.opt_state, plain.discriminator.opt_state)
    assert _difference(remat.vae.batch_stats, plain.vae.batch_stats) <= 2e-6
    assert (_difference(remat.vae.batch_stats, before.vae.batch_stats) > 0.01) == (norm == "batch")


def test_rematerialised_stages_keep_the_inputs_of_their_blocks_alone():
    def kept(stages):
        vae, _ = make_models(ModelConfig(**DEEPER), adversarial=False, remat_stages=stages)
        images, noise = _images(), jnp.zeros((BATCH, DEEPER["latent_dim"]))
        variables = jax.eval_shape(vae.init, jax.random.key(0), images, noise)
        _, backward = jax.eval_shape(lambda *arguments: jax.vjp(vae.apply, *arguments), variables, images, noise)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward) if leaf.shape[:1] == (BATCH,))

    # Of 8x8 images with 4 channels, four bytes each: two blocks, in two stages, of which the second are of 4x4.
    block = BATCH * 8 * 8 * 4 * 4
    assert kept(0) - kept(1) > 8 * block
    assert kept(1) - kept(2) > 2 * block


def test_accumulation_with_batch_norm_is_refused():
    networks = make_models(ModelConfig(**TINY, norm="batch"), adversarial=True)
    with pytest.raises(ValueError, match="accumulate_steps=2 is exact with norm='frozen' only"):
        make_train_step(*networks, CAPTURE, LossConfig(), accumulate_steps=2)


def _bytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("style", "most"), [("jit", 6), ("pmap", 7)])
def test_a_step_moves_its_gradients_once_and_little_else(style, most):
    compiled, state, _ = _compiled(_layout(style, 8))
    collectives = cost.collectives(compiled.as_text())
    assert {each.kind for each in collectives} == {"all-reduce"}
    assert len(collectives) <= most
    moments = 2 * 4 * TINY["latent_dim"]
    least = _bytes((state.vae.params, state.discriminator.params)) + moments
    moved = sum(each.bytes for each in collectives)
    # The compiler of `jit` adds up the discriminator's gradients of images and of reconstructions after the reduction.
    twice = _bytes(state.discriminator.params) if style == "jit" else 0
    assert least <= moved <= least + twice + 2 * moments + 4 * 32


@pytest.mark.usefixtures("strict_promotion", "zero_noise")
def test_discriminators_statistics_follow_images_then_reconstructions():
    after, _ = _whole_batch("batch")
    _, state = _trainer("batch", None)
    vae, _ = make_models(ModelConfig(**TINY, norm="batch"), adversarial=True)
    apply = jax.jit(functools.partial(vae.apply, train=True, mutable=["batch_stats"]))
    result, _ = apply(state.vae.variables, _images(), jnp.zeros((BATCH, TINY["latent_dim"])))
    weights = state.discriminator.params["layer_0"]["conv"]
    expected = state.discriminator.batch_stats["layer_0"]["bn"]
    mean, variance = np.asarray(expected["moving_mean"]), np.asarray(expected["moving_variance"])
    for images in (_images(), result.x_hat):
        features = jax.jit(Conv(4, 2).apply)({"params": weights}, images)
        mean = 0.99 * mean + 0.01 * np.mean(features, (0, 1, 2))
        variance = 0.99 * variance + 0.01 * np.var(features, (0, 1, 2))
    ours = after.discriminator.batch_stats["layer_0"]["bn"]
    assert relative_error(ours["moving_mean"], mean) <= 2e-6
    assert relative_error(ours["moving_variance"], variance) <= 2e-6


def test_overfits_one_batch():
    wider = {"encoder_filters": (16, 16), "decoder_filters": (16, 2), "encoder_identity_blocks": 1}
    vae, discriminator = make_models(ModelConfig(**TINY | wider), adversarial=True)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, schedule="cosine"), 300)
    state = _state(vae, discriminator, optimizer)
    rows, columns = np.mgrid[-1:1:8j, -1:1:8j]
    planes = np.stack([np.ones((8, 8)), rows, columns], axis=-1)
    images = np.float32(planes @ np.random.default_rng(0).uniform(-0.3, 0.3, (BATCH, 1, 3, 2)))
    step = jax.jit(make_train_step(vae, discriminator, optimizer, LossConfig()))
    errors = []
    for _ in range(300):
        state, metrics = step(state, images, jax.random.key(0))
        errors.append(float(metrics["loss/reconstruction"]))
    assert state.step == 300
    assert np.mean(errors[-10:]) < 0.15 * errors[0]
    assert np.mean(errors[-10:]) < 0.4 * np.mean(np.abs(images - images.mean(0)))


def test_a_step_runs_the_vae_once_and_the_discriminator_twice(as_on):
    as_on("tpu")
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    state, x = _state(vae, discriminator, CAPTURE), _images()
    noise = jnp.zeros((BATCH, TINY["latent_dim"]))

    def convolutions(function, *arguments):
        text = jax.jit(function).lower(*arguments).compile().as_text()
        return text.count(" convolution(")

    in_vae = convolutions(vae.apply, state.vae.variables, x, noise)
    in_discriminator = convolutions(discriminator.apply, state.discriminator.variables, x)
    assert (in_vae, in_discriminator) == (6, 2)
    in_step = convolutions(make_train_step(vae, discriminator, CAPTURE, LossConfig()), state, x, jax.random.key(0))
    # Each convolution of the VAE: itself, and the gradients in its input (the normalised image has one too) and kernel.
    # Each of the discriminator: itself and its kernel's gradient for images and for reconstructions; its input's for
    # images, for reconstructions, and for the VAE, of which the first layer needs the last alone.
    assert in_step == 3 * in_vae + (4 + 3) * in_discriminator - 2
