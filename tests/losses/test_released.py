import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import FIXTURE, LOSSES, relative_error, under

from rvae_jax import losses

# By the author's name of each loss: our function of his inputs, and the inputs that he differentiates it by.
TERMS = {
    "rec_loss": (
        lambda a: a["r_loss_factor"] * jnp.mean(losses.l1_reconstruction(a["data_hat"], a["data"])),
        ["data_hat"],
    ),
    "kl_loss": (lambda a: losses.population_kl(losses.batch_moments(a["z_mean"])), ["z_mean", "z_log_var"]),
    "kl_loss_ind": (lambda a: 0.2 * jnp.mean(losses.variance_regularizer(a["z_log_var"])), ["z_mean", "z_log_var"]),
    "baseline_kl_loss": (
        lambda a: jnp.mean(losses.gaussian_kl(a["z_mean"], a["z_log_var"])),
        ["z_mean", "z_log_var"],
    ),
    "rl_dis_loss": (lambda a: 100 * jnp.mean(losses.generator_loss(a["logits_real"])), []),
    "fk_dis_loss": (lambda a: 100 * jnp.mean(losses.generator_loss(-a["logits_fake"])), []),
    "fk_gen_loss": (lambda a: 100 * jnp.mean(losses.generator_loss(a["logits_fake"])), ["logits_fake"]),
    "dis_loss": (
        lambda a: 100 * jnp.mean(losses.discriminator_loss(a["logits_real"], a["logits_fake"])),
        ["logits_real", "logits_fake"],
    ),
}
# One more case: the outputs of the networks in the other file.
GIVEN = under(FIXTURE, "out/") | under(FIXTURE, "step/") | {"data": FIXTURE["in/x"], "r_loss_factor": np.float32(5000)}
GIVEN["data_hat"] = GIVEN["decoder_z_given"]
LOSSES = LOSSES | {f"given/in/{name}": GIVEN[name] for name in under(LOSSES, "rand_r1/in/")}
LOSSES |= {key: array for key, array in FIXTURE.items() if key.startswith("given/")}
CASES = sorted({key.split("/")[0] for key in LOSSES if key.startswith(("rand_", "edge_", "given"))})
NOT_FINITE = [
    ("edge_all_zero_latent", "kl_loss"),
    ("edge_batch1", "kl_loss"),
    ("edge_identical_means", "kl_loss"),
    ("edge_one_constant_dim", "kl_loss"),
    ("edge_huge_logvar", "kl_loss_ind"),
    ("edge_huge_logvar", "baseline_kl_loss"),
]
# Ten codes near 1000, 1e-3 apart: in float32 their mean has an error of 1e-4, depending on the order of summation.
ROUNDED = "edge_near_constant_big_offset"


@functools.cache
def _jitted(term):
    """Compiled once for all cases of one shape."""
    function, _ = TERMS[term]
    return jax.jit(jax.value_and_grad(lambda chosen, inputs: function(inputs | chosen)))


def _value_and_gradients(case, term):
    inputs, (_, names) = under(LOSSES, f"{case}/in/"), TERMS[term]
    return _jitted(term)({name: inputs[name] for name in names}, inputs)


@pytest.mark.parametrize(("case", "term"), [pair for pair in itertools.product(CASES, TERMS) if pair not in NOT_FINITE])
def test_losses_equal_the_released_code(case, term, record_property):
    value, gradients = _value_and_gradients(case, term)
    error = relative_error(value, LOSSES[f"{case}/loss/{term}"])
    errors = [relative_error(gradient, LOSSES[f"{case}/grad/{term}/{name}"]) for name, gradient in gradients.items()]
    record_property("error", max([error, *errors]))
    assert error <= 5e-6
    assert max(errors, default=0) <= (0.1 if (case, term) == (ROUNDED, "kl_loss") else 5e-6)


@pytest.mark.parametrize(("case", "term"), NOT_FINITE)
def test_losses_are_finite_where_the_released_code_is_not(case, term):
    value, gradients = _value_and_gradients(case, term)
    assert not np.isfinite(LOSSES[f"{case}/loss/{term}"])
    assert np.isfinite(value)
    for name, gradient in gradients.items():
        theirs = LOSSES[f"{case}/grad/{term}/{name}"]
        assert np.isfinite(gradient).all()
        if case != "edge_identical_means":  # its codes differ by rounding alone
            same = np.isfinite(theirs) & (LOSSES[f"{case}/in/z_log_var"] <= losses.LOG_VAR_MAX)
            assert relative_error(gradient[same], theirs[same]) <= 5e-6


@pytest.mark.parametrize("case", CASES)
def test_moments_equal_the_released_codes(case):
    moments = losses.batch_moments(under(LOSSES, f"{case}/in/")["z_mean"])
    mean, log_var = (LOSSES[f"{case}/loss/{name}"] for name in ("Z_mean", "Z_log_var"))
    constant = np.isneginf(log_var)
    assert relative_error(moments.mean, mean) <= 5e-7
    assert np.all(moments.var[constant] == 0)
    if case != "edge_identical_means":
        difference = np.log(moments.var[~constant]) - log_var[~constant]
        assert np.max(np.abs(difference), initial=0) <= (0.1 if case == ROUNDED else 5e-6)
