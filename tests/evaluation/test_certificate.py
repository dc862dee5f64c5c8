import dataclasses
import json

import numpy as np
import pytest
from trained_runs import QUICK

import rvae_jax
from rvae_jax.errors import UserError
from rvae_jax.evaluation import certificate, results
from rvae_jax.evaluation.evaluator import evaluate
from rvae_jax.evaluation.table import format_table
from rvae_jax.inference import samplers
from rvae_jax.inference.trained_vae import TrainedVAE

N = 500


def densities(**gains):
    """Log densities of codes that differ by these means, with little scatter."""
    rng = np.random.default_rng(0)
    prior = rng.normal(-10, 3, N)
    return {"prior": prior} | {name: prior + gain + 0.1 * rng.normal(size=N) for name, gain in gains.items()}


@pytest.mark.parametrize(
    ("gains", "best"),
    [
        ({"gaussian": -0.2, "mixture": -3.0}, "prior"),
        ({"gaussian": 0.02, "mixture": 0.03}, "prior"),  # certain, and nobody sees it
        ({"gaussian": 1.0, "mixture": -2.0}, "gaussian"),
        ({"gaussian": 1.0, "mixture": 1.02}, "gaussian"),
        ({"gaussian": 1.0, "mixture": 4.0}, "mixture"),
        ({"gaussian": -1.0, "mixture": 4.0}, "mixture"),
    ],
)
def test_the_simplest_sampler_that_none_beats_is_the_best(gains, best):
    assert certificate.best_sampler(densities(**gains), latent_dim=8) == best


def test_a_gain_that_may_be_chance_is_none():
    rng = np.random.default_rng(1)
    prior = rng.normal(-10, 3, 20)
    found = certificate.best_sampler({"prior": prior, "gaussian": prior + 1.0 + 5.0 * rng.normal(size=20)}, 8)
    assert found == "prior"


@pytest.fixture(scope="module")
def evaluation(healthy):
    return evaluate(healthy, QUICK, progress=False)


@pytest.mark.usefixtures("without_lpips")
def test_an_evaluation_has_the_certificate(healthy, evaluation):
    found = evaluation.population
    assert (found.codes, found.held_out_codes) == (1000, 60)
    mean, covariance = samplers.mean_and_covariance(*healthy.population)
    _, log_determinant = np.linalg.slogdet(covariance)
    exact = 0.5 * (mean @ mean + np.trace(covariance) - len(mean) - log_determinant)
    assert found.moments.nats + found.correlation.nats == pytest.approx(exact, rel=1e-4)
    assert exact == pytest.approx(evaluation.latent.training.population_kl_gaussian, rel=1e-4)
    z = samplers.codes_of(*healthy.encode(healthy.images("validation")), seed=0)
    gaussian = samplers.gaussian(mean, covariance)
    gain = gaussian.log_density(z) - samplers.prior(len(mean)).log_density(z)
    assert found.gaussian.nats == pytest.approx(gain.mean(), abs=0.01)
    assert found.gaussian.standard_error == pytest.approx(gain.std(ddof=1) / np.sqrt(60), rel=0.02)
    assert found.best_sampler in ("prior", "gaussian", "mixture")


def test_the_table_shows_it(evaluation):
    text = format_table(evaluation)
    for name, part in results.population_parts(evaluation.population).items():
        assert any(
            line.split() == [name, f"{part.nats:.5g}", f"{part.standard_error:.5g}", f"{part.chance:.5g}"]
            for line in text.splitlines()
        ), name
    assert certificate.sentence(evaluation.population).split(":")[0] in " ".join(text.split())


def test_it_is_read_again(evaluation):
    assert results.from_dict(json.loads(results.to_bytes(evaluation))) == evaluation
    without = dataclasses.replace(evaluation, population=None)
    assert "population" not in results.to_dict(without)
    assert results.from_dict(results.to_dict(without)) == without


@pytest.mark.parametrize(
    ("best", "start"),
    [
        ("prior", "Samples from N(0, I) are as good as they get: held-out codes are hardly likelier"),
        ("gaussian", "Sample with sampler='gaussian': held-out codes are likelier under a Gaussian fitted"),
        ("mixture", "Sample with sampler='mixture': held-out codes are likelier under a mixture of Gaussians fitted"),
    ],
)
def test_the_sentence_says_what_to_sample_from(best, start, evaluation):
    gains = {"gaussian": results.Gain(1.254, 0.06), "mixture": results.Gain(12.54, 0.35)}
    text = certificate.sentence(dataclasses.replace(evaluation.population, best_sampler=best, **gains))
    assert text.startswith(start)
    assert ("12.5 ± 0.3 nats" in text) == (best != "gaussian") and ("1.25 ± 0.06 nats" in text) == (best != "mixture")


@pytest.mark.usefixtures("without_lpips")
def test_few_codes_leave_out_what_they_cannot_tell(healthy):
    few = evaluate(healthy, dataclasses.replace(QUICK, images=20, training_images=63), progress=False)
    assert few.population.axes is None and few.population.radius is None
    assert few.skipped["axes"] == "63 training images' codes; expected at least 64"
    assert "axes" not in results.population_parts(few.population)
    one = evaluate(healthy, dataclasses.replace(QUICK, images=1), progress=False)
    assert one.population is None and "1 held-out images; expected 2" in one.skipped["population"]


def model_with(model, best_sampler, moments=None):
    config = (
        model.config
        if moments is None
        else dataclasses.replace(model.config, data=dataclasses.replace(model.config.data, data_dir="/nowhere"))
    )
    return TrainedVAE(config, model.step, model.vae, model.variables, moments=moments, best_sampler=best_sampler)


@pytest.mark.parametrize("best", ["prior", "gaussian", "mixture"])
def test_samples_are_by_default_from_what_the_evaluation_found_best(best, healthy):
    found = model_with(healthy, best)
    assert found.best_sampler == best
    np.testing.assert_array_equal(found.codes(3), healthy.codes(3, sampler=best))
    assert model_with(healthy, None).best_sampler == "prior"


def test_without_the_training_images_the_gaussian_stands_for_the_mixture(healthy):
    found = model_with(healthy, "mixture", healthy.moments)
    assert found.best_sampler == "gaussian"
    with pytest.raises(UserError, match=r"data\.name=waves"):
        found.sample(1, sampler="mixture")
    stored = TrainedVAE(
        found.config,
        1,
        found.vae,
        found.variables,
        moments=healthy.moments,
        best_sampler="mixture",
        mixture=healthy.mixture,
    )
    np.testing.assert_array_equal(stored.codes(3), healthy.codes(3, sampler="mixture"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"model": {"step": 300}, "population": {"best_sampler": "gaussian"}}', "gaussian"),
        ('{"model": {"step": 299}, "population": {"best_sampler": "gaussian"}}', "prior"),
        ('{"model": {"step": 300}, "population": {"best_sampler": "flow"}}', "prior"),
        ('{"model": {"step": 300}, "population": {"best_sampler": ["gaussian"]}}', "prior"),
        ('{"model": {"step": 300}}', "prior"),
        ("[]", "prior"),
        ("{cut", "prior"),
        (None, "prior"),
    ],
)
def test_a_loaded_model_takes_the_evaluation_of_its_step(content, expected, workdir):
    if content is not None:
        (workdir / results.FILE).write_text(content)
    assert rvae_jax.load(workdir).best_sampler == expected
