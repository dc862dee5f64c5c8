"""A training step beside the released code's."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import FIXTURE, MODEL, flat, relative_error, under, variables
from step_cases import CAPTURE

from rvae_jax.config import LossConfig
from rvae_jax.models import make_models
from rvae_jax.training.state import Player, TrainState
from rvae_jax.training.step import make_train_step

AS_USERS_HAVE_IT = {"xla_backend_optimization_level": 3}
if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:
    AS_USERS_HAVE_IT["xla_cpu_use_fusion_emitters"] = True


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
