import dataclasses
import json
import types

import numpy as np
import pytest
from etils import epath
from trained_runs import QUICK, SIZE

import rvae_jax
from rvae_jax.evaluation import certificate, results
from rvae_jax.evaluation.evaluator import evaluate, measure, write
from rvae_jax.evaluation.material import Posteriors
from rvae_jax.evaluation.table import format_table
from rvae_jax.formats import export
from rvae_jax.inference import samplers
from rvae_jax.inference.trained_vae import TrainedVAE
from rvae_jax.storage import population_file, stored_model

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
        ({"gaussian": 0.02, "mixture": 0.05}, "mixture"),  # the Gaussian does not beat the prior
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
    z = samplers.codes_of(*healthy.encode(healthy.images("validation")), [0, 2])
    gaussian = samplers.gaussian(mean, covariance)
    gain = gaussian.log_density(z) - samplers.prior(len(mean)).log_density(z)
    assert found.gaussian.nats == pytest.approx(gain.mean(), abs=0.01)
    assert found.gaussian.standard_error == pytest.approx(gain.std(ddof=1) / np.sqrt(60), rel=0.02)
    fits = {"prior": samplers.prior(len(mean)), "gaussian": gaussian, "mixture": samplers.mixture(healthy.mixture)}
    log_densities = {name: fit.log_density(z) for name, fit in fits.items()}
    assert found.mixture.nats == pytest.approx(np.mean(log_densities["mixture"] - log_densities["prior"]), abs=0.01)
    assert found.best_sampler == certificate.best_sampler(log_densities, len(mean))


def test_collapsed_posteriors_are_the_prior_and_no_fit_beats_it():
    """Codes that are all noise: whoever draws held-out codes as the training codes were drawn finds these again."""
    n, d = 1000, 32
    codes = Posteriors(np.zeros((n, d), np.float32), np.zeros((n, d), np.float32))
    held_out = Posteriors(codes.mean[:500], codes.log_var[:500])
    material = types.SimpleNamespace(training=codes, held_out=held_out, mixture=samplers.fit_mixture(*codes, 0))
    found = certificate.measure_population(material, 0, lambda text: None, {})
    assert found.best_sampler == "prior"
    assert found.mixture.nats < 0 < found.mixture.standard_error
    for part in results.population_parts(found).values():
        assert part.nats == pytest.approx(part.chance, abs=max(5 * part.standard_error, 0.02))


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
        ("prior", "Sample from N(0, I): held-out codes are not clearly likelier under a Gaussian fitted"),
        ("gaussian", "Sample with sampler='gaussian': held-out codes are likelier under a Gaussian fitted"),
        ("mixture", "Sample with sampler='mixture': held-out codes are likelier under a mixture of Gaussians fitted"),
    ],
)
def test_the_sentence_says_what_to_sample_from(best, start, evaluation):
    gains = {"gaussian": results.Gain(1.254, 0.06), "mixture": results.Gain(12.54, 0.35)}
    text = certificate.sentence(dataclasses.replace(evaluation.population, best_sampler=best, **gains))
    assert text.startswith(start)
    assert ("12.54 ± 0.35 nats" in text) == (best != "gaussian") and ("1.25 ± 0.06 nats" in text) == (best != "mixture")


@pytest.mark.usefixtures("without_lpips")
def test_few_codes_leave_out_what_they_cannot_tell(healthy):
    few = evaluate(healthy, dataclasses.replace(QUICK, images=20, training_images=63), progress=False)
    assert few.population.axes is None and few.population.radius is None
    assert few.skipped["axes"] == "63 training images' codes; expected at least 64"
    assert "axes" not in results.population_parts(few.population)
    one = evaluate(healthy, dataclasses.replace(QUICK, images=1), progress=False)
    assert one.population is None and one.skipped["population"] == "1 held-out image; expected 2"


@pytest.mark.usefixtures("without_lpips")
def test_an_evaluation_of_few_training_images_leaves_the_runs_own_moments(workdir):
    model = rvae_jax.load(workdir)
    before = (workdir / population_file.FILE).read_bytes()
    write(model, measure(model, dataclasses.replace(QUICK, training_images=50), progress=False), model.workdir)
    assert (workdir / population_file.FILE).read_bytes() == before and (workdir / results.FILE).exists()


def model_with(model, best_sampler, **stored):
    return TrainedVAE(model.config, model.step, model.vae, model.variables, best_sampler=best_sampler, **stored)


@pytest.mark.parametrize("best", ["prior", "gaussian", "mixture"])
def test_samples_are_by_default_from_what_the_evaluation_found_best(best, healthy):
    found = model_with(healthy, best, moments=healthy.moments, mixture=healthy.mixture)
    assert found.best_sampler == best
    np.testing.assert_array_equal(found.codes(3), healthy.codes(3, sampler=best))


def test_what_is_not_stored_is_not_sampled_by_default(healthy):
    assert model_with(healthy, None, moments=healthy.moments, mixture=healthy.mixture).best_sampler == "prior"
    assert model_with(healthy, "gaussian", mixture=healthy.mixture).best_sampler == "prior"
    assert model_with(healthy, "mixture", moments=healthy.moments).best_sampler == "prior"


@pytest.mark.usefixtures("without_lpips")
def test_an_evaluation_leaves_in_the_run_what_it_fitted(workdir, tmp_path):
    model = rvae_jax.load(workdir)
    measured = measure(model, QUICK, progress=False)
    evaluation = measured.evaluation
    write(model, measured, model.workdir)
    assert evaluation.population.best_sampler != "prior"  # this one has not been whitened
    found = rvae_jax.load(workdir, data_dir=tmp_path / "nowhere")
    assert found.best_sampler == evaluation.population.best_sampler
    assert found.sample(2).shape == (2, SIZE, SIZE, 1)
    fitted = samplers.fit_mixture(*model.population, QUICK.seed)
    np.testing.assert_allclose(found.mixture.means, fitted.means, atol=1e-6)
    list(export.write(export.safetensors(stored_model.read(workdir)), epath.Path(tmp_path / "export")))
    exported = rvae_jax.load(tmp_path / "export" / "model.safetensors")
    assert exported.best_sampler == found.best_sampler
    np.testing.assert_allclose(exported.codes(3), found.codes(3), atol=1e-4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"model": {"step": 300}, "population": {"best_sampler": "gaussian"}}', "gaussian"),
        ('{"model": {"step": 300}, "population": {"best_sampler": "mixture"}}', "prior"),  # not stored
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
