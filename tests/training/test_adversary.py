"""The discriminator's side of a step, on one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adversary_cases import (
    ADAPTIVE,
    ANCHORS,
    BASE,
    EVERYTHING,
    LENGTHS,
    PRIOR,
    SEES_FEATURES,
    frozen_weights,
    make_step,
    networks_results,
    noises,
    one_step,
)
from small_runs import TINY
from step_cases import assert_same_gradients, random_images, random_state

from rvae_jax import losses
from rvae_jax.config import Config, LossConfig, ModelConfig, OptimizerConfig, replace_fields
from rvae_jax.errors import UserError
from rvae_jax.hardware import cost
from rvae_jax.models import Discriminator, make_models
from rvae_jax.models.feature_discriminator import FeatureDiscriminator
from rvae_jax.models.features import CHANNELS, crop, features
from rvae_jax.storage.feature_weights import load_feature_weights
from rvae_jax.training import adversary, gradient_lengths, perceptual
from rvae_jax.training.frozen import load_frozen
from rvae_jax.training.optimizer import discriminator_pace, make_optimizer
from rvae_jax.training.step import make_train_step


def _relu(x):
    return np.maximum(0.0, x)


@pytest.mark.usefixtures("strict_promotion")
def test_samples_have_their_share_of_the_fakes_in_both_players_terms():
    _, state = make_step(PRIOR)
    params = {name: player.params for name, player in state.players.items()}
    noise, prior = noises(0.25)
    assert prior.shape == (2, 8)
    _, logits = jax.jit(lambda: networks_results(PRIOR, state, params, random_images(), noise, prior))()
    real, fake, sample = map(np.float64, logits)
    _, metrics = one_step(PRIOR)
    expected = {
        "loss/adversarial": -0.75 * np.mean(fake) - 0.25 * np.mean(sample),
        "loss/discriminator": np.mean(_relu(1 - real))
        + 0.75 * np.mean(_relu(1 + fake))
        + 0.25 * np.mean(_relu(1 + sample)),
        "discriminator/accuracy_fake": np.mean(fake < 0),
        "discriminator/accuracy_prior": np.mean(sample < 0),
    }
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name
    assert metrics["weighted/adversarial"] == pytest.approx(300 * expected["loss/adversarial"], rel=1e-5)


def _gradients_of_the_definition(loss, weight):
    """Both players' gradients, each of a loss that is written down with the other's weights as constants."""
    _, state = make_step(loss)
    params = {name: player.params for name, player in state.players.items()}
    noise, prior = noises(loss.prior_fakes)
    x, share = random_images(), loss.prior_fakes

    def of_vae(vae):
        (x_hat, mean, log_var), (_, fake, sample) = networks_results(
            loss, state, params | {"vae": vae}, x, noise, prior
        )
        elbo = losses.mixture_elbo(losses.l1_reconstruction(x_hat, x), mean, log_var, reconstruction_weight=50.0)
        return elbo.total - weight * ((1 - share) * jnp.mean(fake) + share * jnp.mean(sample))

    def of_discriminator(discriminator):
        _, (real, fake, sample) = networks_results(
            loss, state, params | {"discriminator": discriminator}, x, noise, prior
        )
        fakes = (1 - share) * jnp.mean(jax.nn.relu(1 + fake)) + share * jnp.mean(jax.nn.relu(1 + sample))
        return loss.adversarial_weight * (jnp.mean(jax.nn.relu(1 - real)) + fakes)

    return jax.jit(lambda: (jax.grad(of_vae)(params["vae"]), jax.grad(of_discriminator)(params["discriminator"])))()


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize(
    ("loss", "weight"),
    [(PRIOR, 300.0), (ADAPTIVE, 0.5 * np.sqrt(3.0) / (np.sqrt(0.02) / 0.75 + 1e-6))],
    ids=["fixed weight", "adaptive weight"],
)
def test_each_player_has_the_gradient_of_its_own_loss_alone(loss, weight):
    state, metrics = one_step(loss)
    ours = state.vae.opt_state, state.discriminator.opt_state
    assert_same_gradients(ours, jax.device_get(_gradients_of_the_definition(loss, weight)))
    assert metrics["weighted/adversarial"] == pytest.approx(weight * metrics["loss/adversarial"], rel=1e-5)


@pytest.mark.usefixtures("strict_promotion")
def test_lengths_of_gradients_in_the_reconstruction_are_measured_and_averaged():
    """Beside their definition, by the gradient of every image's own loss."""
    after, metrics = one_step(ADAPTIVE)
    _, state = make_step(ADAPTIVE)
    params = {name: player.params for name, player in state.players.items()}
    noise, prior = noises(0.25)

    @jax.jit
    def lengths():
        (x_hat, _, _), _ = networks_results(ADAPTIVE, state, params, random_images(), noise, prior)
        _, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
        return (
            jax.grad(lambda x_hat: 50.0 * jnp.sum(losses.l1_reconstruction(x_hat, random_images())))(x_hat),
            jax.grad(
                lambda x_hat: -jnp.sum(jnp.mean(discriminator.apply(state.discriminator.variables, x_hat), (1, 2, 3)))
            )(x_hat),
        )

    of_reconstruction, of_generator = (np.float64(gradient) for gradient in lengths())
    # The share of reconstructions among the fakes, 0.75, is in the measured gradient; the factor takes it out.
    squares = np.mean(np.sum(of_reconstruction**2, (1, 2, 3))), np.mean(np.sum((0.75 * of_generator) ** 2, (1, 2, 3)))
    for name, square in zip(("reconstruction", "adversarial"), squares, strict=True):
        expected = 0.99 * LENGTHS[name] + 0.01 * square
        assert after.running["adversarial_ratio"][name] == pytest.approx(expected, rel=1e-5), name
    assert metrics["discriminator/adaptive_weight"] == pytest.approx(
        np.sqrt(3.0) / (np.sqrt(0.02) / 0.75 + 1e-6), rel=1e-5
    )


@pytest.mark.usefixtures("strict_promotion")
def test_lecam_pulls_at_the_anchors_before_the_batch_which_then_move():
    loss = dataclasses.replace(PRIOR, lecam_weight=0.2)
    _, state = make_step(loss)
    params = {name: player.params for name, player in state.players.items()}
    _, logits = jax.jit(lambda: networks_results(loss, state, params, random_images(), *noises(0.25)))()
    real, fake, sample = map(np.float64, logits)
    after, metrics = one_step(loss)
    of_fakes = 0.75 * np.mean((fake - ANCHORS.real) ** 2) + 0.25 * np.mean((sample - ANCHORS.real) ** 2)
    penalty = np.mean((real - ANCHORS.fake) ** 2) + of_fakes
    assert metrics["loss/lecam"] == pytest.approx(penalty, rel=1e-5)
    assert metrics["weighted/lecam"] == pytest.approx(300 * 0.2 * penalty, rel=1e-5)
    weight = 0.99 * 0.5 + 0.01
    means = {"real": np.mean(real), "fake": 0.75 * np.mean(fake) + 0.25 * np.mean(sample)}
    for name, mean in means.items():
        old = getattr(ANCHORS, name)
        assert getattr(after.running["lecam"], name) == pytest.approx(old + 0.01 / weight * (mean - old), rel=1e-5)
    first = losses.init_lecam_anchors()
    assert adversary._lecam(loss, adversary.Judgement([real], [[fake], [sample]], []), first) == 0


@pytest.mark.usefixtures("strict_promotion")
def test_r1_is_taken_at_every_fourth_step_four_times_as_strong():
    loss = dataclasses.replace(BASE, r1_weight=0.3, r1_every=4)
    _, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    step, state = make_step(loss)
    images = random_images()
    gradient = jax.jit(
        jax.grad(lambda x: jnp.sum(jnp.mean(discriminator.apply(state.discriminator.variables, x), (1, 2, 3))))
    )(images)
    penalty = np.mean(np.sum(np.square(gradient, dtype=np.float64), (1, 2, 3)))
    step = jax.jit(step)
    for number, times in ((0, 4), (1, 0), (3, 0), (8, 4)):
        _, metrics = step(state.replace(step=np.int32(number)), images, jax.random.key(0))
        assert float(metrics["loss/r1"]) == pytest.approx(times * penalty, rel=1e-5)
        assert float(metrics["weighted/r1"]) == pytest.approx(300 * 0.3 * times * penalty, rel=1e-5)


def _moved(player, direction, by):
    return player.replace(params=jax.tree.map(lambda p, d: np.float32(p + by * d), player.params, direction))


def _along(gradient, rng):
    """A direction with enough of the gradient that the change is seen above rounding, and the slope along it."""
    length = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    direction = jax.tree.map(lambda leaf: leaf / length + 0.02 * rng.normal(size=leaf.shape), gradient)
    return direction, sum(np.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))


@pytest.mark.parametrize("name", ["vae", "discriminator"])
def test_gradients_are_the_slopes_of_what_is_logged(name):
    """With everything on: each player's gradient beside central differences of its logged losses."""
    step, state = make_step(EVERYTHING)
    step, by = jax.jit(step), 2e-3

    def logged(state):
        _, metrics = step(state, random_images(), jax.random.key(0))
        if name == "vae":
            return float(metrics["loss/total"])
        return sum(float(metrics[f"weighted/{term}"]) for term in ("discriminator", "r1", "lecam"))

    after, _ = step(state, random_images(), jax.random.key(0))
    direction, slope = _along(getattr(after, name).opt_state, np.random.default_rng(1))
    player = getattr(state, name)
    ahead, behind = (logged(state.replace(**{name: _moved(player, direction, side * by)})) for side in (1, -1))
    assert (ahead - behind) / (2 * by) == pytest.approx(slope, rel=0.02)


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("name", ["vgg16", "patch+vgg16"])
def test_a_discriminator_on_features_counts_every_map_alike(name):
    """Its terms and both players' gradients, beside the two discriminators, each called by itself."""
    model = SEES_FEATURES | {"discriminator": name}
    step, state = make_step(BASE, model=model)
    x, noise = random_images((8, *model["image_shape"])), noises(0)[0]
    after, metrics = jax.jit(step)(state, x, jax.random.key(0), frozen_weights())
    vae, _ = make_models(ModelConfig(**model), adversarial=False)
    stats = state.discriminator.batch_stats

    def maps_of(params, images):
        parts = {"features": (params, stats)}
        if name != "vgg16":
            parts = {part: (params[part], stats[part]) for part in ("patch", "features")}
        variables = {part: {"params": p, "batch_stats": s} for part, (p, s) in parts.items()}
        maps = list(FeatureDiscriminator(64).apply(variables["features"], features(frozen_weights()["vgg16"], images)))
        if "patch" in variables:
            maps.append(Discriminator(ModelConfig(**model)).apply(variables["patch"], images))
        return maps

    def of_vae(params):
        variables = {"params": params, "batch_stats": state.vae.batch_stats}
        x_hat, mean, log_var = vae.apply(variables, x, noise)
        elbo = losses.mixture_elbo(losses.l1_reconstruction(x_hat, x), mean, log_var, reconstruction_weight=50.0)
        logits = maps_of(state.discriminator.params, x_hat)
        return elbo.total - 300.0 * sum(map(jnp.mean, logits)) / len(logits), x_hat

    def of_discriminator(params, x_hat):
        pairs = zip(maps_of(params, x), maps_of(params, x_hat), strict=True)
        terms = [jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)) for real, fake in pairs]
        return 300.0 * sum(terms) / len(terms)

    @jax.jit
    def expected():
        (total, x_hat), by_vae = jax.value_and_grad(of_vae, has_aux=True)(state.vae.params)
        of_other, by_other = jax.value_and_grad(of_discriminator)(state.discriminator.params, x_hat)
        return total, of_other, by_vae, by_other

    total, of_other, *gradients = jax.device_get(expected())
    assert metrics["loss/total"] == pytest.approx(total, rel=1e-5)
    assert metrics["weighted/discriminator"] == pytest.approx(of_other, rel=1e-5)
    assert_same_gradients(jax.device_get([after.vae.opt_state, after.discriminator.opt_state]), gradients)
    assert len(jax.tree.leaves(stats)) >= 2
    assert jax.tree.all(jax.tree.map(np.array_equal, after.discriminator.batch_stats, stats))


@pytest.mark.usefixtures("strict_promotion")
def test_the_discriminator_sees_features_of_windows_and_fakes_clipped_as_they_are_shown():
    loss = dataclasses.replace(PRIOR, discriminator_crop=5, clip=True)
    model = SEES_FEATURES | {"discriminator": "vgg16"}
    step, state = make_step(loss, model=model)
    x = random_images((8, *model["image_shape"]))
    after, metrics = jax.jit(step)(state, x, jax.random.key(0), frozen_weights())
    vae, _ = make_models(ModelConfig(**model), adversarial=False)
    (noise, prior), key = noises(0.25), jax.random.fold_in(jax.random.key(0), 0)
    of_images, of_reconstructions, of_samples = adversary.make_draws(loss, key, x, 8, None)["windows"]
    np.testing.assert_array_equal(of_images, of_reconstructions)
    assert of_images.shape == (8, 2)
    assert of_samples.shape == (2, 2)

    def logits(images, corners):
        maps = features(frozen_weights()["vgg16"], crop(images, corners, 5))
        return FeatureDiscriminator(64).apply(state.discriminator.variables, maps)

    def mean(of_maps):
        return sum(map(jnp.mean, of_maps)) / len(of_maps)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def expected(params):
        variables = {"params": params, "batch_stats": state.vae.batch_stats}
        x_hat, mu, log_var = vae.apply(variables, x, noise)
        samples = vae.apply(variables, prior, method="decode")
        shown = [each + jax.lax.stop_gradient(jnp.clip(each, -1, 1) - each) for each in (x_hat, samples)]
        of_fakes = [logits(*pair) for pair in zip(shown, (of_images, of_samples), strict=True)]
        elbo = losses.mixture_elbo(losses.l1_reconstruction(x_hat, x), mu, log_var, reconstruction_weight=50.0)
        by_fakes = [mean([jax.nn.relu(1 + each) for each in maps]) for maps in of_fakes]
        by_real = mean([jax.nn.relu(1 - each) for each in logits(x, of_images)])
        total = elbo.total - 300.0 * (0.75 * mean(of_fakes[0]) + 0.25 * mean(of_fakes[1]))
        return total, (by_real + 0.75 * by_fakes[0] + 0.25 * by_fakes[1], jnp.mean(jnp.abs(x_hat) > 1))

    gradient, (of_discriminator, beyond) = jax.device_get(expected(state.vae.params))
    assert beyond > 0.02
    assert metrics["loss/discriminator"] == pytest.approx(of_discriminator, rel=1e-5)
    assert_same_gradients(jax.device_get(after.vae.opt_state), gradient)


def test_windows_of_equal_size_are_those_of_the_perceptual_term():
    loss = LossConfig(perceptual="vgg16", perceptual_crop=5, discriminator_crop=5)
    images, key = random_images(), jax.random.key(3)
    of_images, _ = adversary.make_draws(loss, key, images, 8, None)["windows"]
    np.testing.assert_array_equal(of_images, perceptual.make_draws(loss, key, images, None)["corners"])


def test_features_of_the_same_windows_are_computed_once(monkeypatch):
    loss = dataclasses.replace(
        BASE, perceptual="vgg16", perceptual_stages=2, perceptual_crop=6, discriminator_crop=6, clip=True
    )
    model = SEES_FEATURES | {"discriminator": "vgg16"}
    images = random_images((8, *model["image_shape"]))

    def flops():
        step, state = make_step(loss, model=model)
        return cost.cost_of(jax.jit(step).lower(state, images, jax.random.key(0), frozen_weights()).compile()).flops

    shared = flops()
    draw = adversary.draw_corners
    monkeypatch.setattr(
        adversary, "draw_corners", lambda size, key, *args, **kwargs: draw(size, key, *args, **kwargs) // 2
    )
    separate = flops()
    once = jax.jit(features).lower(frozen_weights()["vgg16"], images[:, :6, :6]).compile()
    # Of images and of reconstructions.
    assert separate - shared == pytest.approx(2 * cost.cost_of(once).flops, rel=0.05)


def test_channels_are_those_of_the_weights():
    for network, channels in CHANNELS.items():
        weights = load_feature_weights(network)
        assert tuple(layers[-1][0].shape[-1] for layers in weights.convolutions) == channels


def test_images_too_small_for_the_features_are_refused():
    config = replace_fields(Config(), {"model.discriminator": "vgg16", "model.image_shape": (4, 64, 3)})
    with pytest.raises(UserError, match=r"shape=\(4, 64, 3\): expected at least 8 pixels .* first 4 stages of vgg16"):
        load_frozen(config)
    assert load_frozen(Config()) == {}


def test_the_discriminators_learning_rate_is_its_own():
    networks = make_models(ModelConfig(**TINY), adversarial=True)
    config = OptimizerConfig(learning_rate=1e-3, discriminator_learning_rate=4e-3)
    optimizer = make_optimizer(config, 10)
    state = random_state(*networks, optimizer)
    after = []
    for pace in (1.0, discriminator_pace(config)):
        step = jax.jit(make_train_step(*networks, optimizer, BASE, discriminator_pace=pace))
        after.append(jax.device_get(step(state, random_images(), jax.random.key(0))[0]))
    jax.tree.map(np.testing.assert_array_equal, after[0].vae, after[1].vae)
    before = state.discriminator.params
    slow, fast = (jax.tree.map(np.subtract, each.discriminator.params, before) for each in after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(4 * a, b, rtol=1e-3, atol=1e-6), slow, fast)
    assert discriminator_pace(OptimizerConfig()) == 1.0


def test_adaptive_factor_is_zero_before_a_measurement_and_at_most_ten_thousand():
    first = adversary.first_running(ADAPTIVE)["adversarial_ratio"]
    assert gradient_lengths.adaptive_factor(ADAPTIVE, first) == 0
    weak = {"reconstruction": jnp.float32(1e4), "adversarial": jnp.float32(1e-20)}
    assert gradient_lengths.adaptive_factor(ADAPTIVE, weak) == 1e4
