"""The terms of the objective, their weights and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_cases import CODE_OPTIONS, expected_code_terms, reconstruction
from small_runs import TINY
from step_cases import (
    CAPTURE,
    OPTIONS,
    captured_step,
    largest_difference,
    random_images,
    random_state,
)

from rvae_jax import losses
from rvae_jax.config import LossConfig, ModelConfig
from rvae_jax.models import make_models
from rvae_jax.training.objective import term_weights


@pytest.mark.usefixtures("strict_promotion", "fixed_noise")
def test_neither_players_loss_moves_the_other():
    loss = LossConfig(adversarial_start=1, adversarial_weight=3000.0)
    (_, vae_before, discriminator_before), (_, vae_after, discriminator_after) = captured_step(loss, (0, 1))
    ((_, vae_alone, _),) = captured_step(LossConfig(adversarial="none"))
    # The generator's loss, on from step 1, does not reach the discriminator; the discriminator's never reaches the VAE.
    assert largest_difference(discriminator_after, discriminator_before) <= 1e-6
    assert largest_difference(vae_before, vae_alone) <= 2e-5
    assert largest_difference(vae_after, vae_alone) > 0.05


def _softplus(x):
    return np.logaddexp(0.0, x)


def _relu(x):
    return np.maximum(0.0, x)


def _expected_terms(loss, noise):
    """Unweighted terms and other metrics of the tiny networks, in NumPy and float64, from what the networks give."""
    vae, discriminator = make_models(ModelConfig(**TINY), adversarial=True)
    state = random_state(vae, discriminator, CAPTURE)

    @jax.jit
    def forward(x):
        result = vae.apply(state.vae.variables, x, noise)
        logits = [discriminator.apply(state.discriminator.variables, image) for image in (x, result.x_hat)]
        return (*result, *logits)

    x = random_images()
    x_hat, mean, log_var, real, fake = (np.float64(array) for array in forward(x))
    terms = {"reconstruction": reconstruction(loss, x_hat, x)} | expected_code_terms(loss, noise, mean, log_var)
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


def _code_weights(name):
    """Of the terms at step 0."""
    loss = CODE_OPTIONS[name]
    ramp = 1 / 3 if loss.kl_ramp == 3 else 1
    names = ("mixture_kl", "total_correlation", "mmd", "sliced", "dip")
    weights = {each: getattr(loss, f"{each}_weight") * ramp for each in names}
    weights |= {"population_kl": ramp, "variance_regularizer": 0.2 * ramp}
    beta = dict.fromkeys(("free_bits_kl", "standard_kl"), loss.beta)
    return weights | beta | {"reconstruction": loss.reconstruction_weight}


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("name", [*OPTIONS, *CODE_OPTIONS])
def test_metrics_and_objective_equal_their_definitions(name, fixed_noise):
    loss, weights_at = OPTIONS[name] if name in OPTIONS else (CODE_OPTIONS[name], {0: _code_weights(name)})
    terms, others = _expected_terms(loss, fixed_noise)
    results = captured_step(loss, tuple(weights_at))
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


@pytest.mark.parametrize("field", ["kl_start", "kl_ramp", "adversarial_start", "adversarial_ramp"])
def test_a_share_of_the_run_is_refused_where_steps_are_expected(field):
    with pytest.raises(ValueError, match=r"0\.5.*: expected steps; see rvae_jax\.config\.in_steps"):
        term_weights(LossConfig(**{field: 0.5}), jnp.int32(0))


def test_discriminator_has_no_ramp():
    weights = term_weights(LossConfig(adversarial_start=10, kl_start=10), jnp.int32(0))
    assert weights["discriminator"] == 100
    assert weights["adversarial"] == weights["population_kl"] == weights["standard_kl"] == 0
