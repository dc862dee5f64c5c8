"""The discriminator's side of a step, on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adversary_cases import (
    ADAPTIVE,
    LENGTHS,
    PRIOR,
    make_step,
    networks_results,
    noises,
    one_step,
)
from small_runs import TINY
from step_cases import assert_same_gradients, random_images

from rvae_jax import losses
from rvae_jax.config import ModelConfig
from rvae_jax.models import make_models
from rvae_jax.training import adversary


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


def test_adaptive_factor_is_zero_before_a_measurement_and_at_most_ten_thousand():
    first = adversary.first_running(ADAPTIVE)["adversarial_ratio"]
    assert adversary.adaptive_factor(ADAPTIVE, first) == 0
    weak = {"reconstruction": jnp.float32(1e4), "adversarial": jnp.float32(1e-20)}
    assert adversary.adaptive_factor(ADAPTIVE, weak) == 1e4
