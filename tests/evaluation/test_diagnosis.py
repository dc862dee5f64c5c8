"""Models with each problem, made by training or by damaging weights."""

import dataclasses

import numpy as np
import pytest
from trained_runs import QUICK, damaged, stretched

from rvae_jax.data import reading
from rvae_jax.evaluation.copying import measure_memorisation
from rvae_jax.evaluation.diagnosis import diagnose
from rvae_jax.evaluation.evaluator import evaluate
from rvae_jax.evaluation.material import read_image_sets
from rvae_jax.inference.trained_vae import TrainedVAE
from rvae_jax.training.metric_log import read_metrics

pytestmark = pytest.mark.usefixtures("without_lpips")


@pytest.fixture(scope="module")
def evaluated(healthy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rvae_jax.evaluation.metrics.similarity.LEAST_LPIPS_SIZE", 100)
        return evaluate(healthy, QUICK, progress=False)


def verdicts_on(model, evaluation):
    verdicts = {verdict.problem: verdict for verdict in diagnose(evaluation, read_metrics(model.workdir), model.config)}
    for verdict in verdicts.values():
        assert bool(verdict.remedy) == (verdict.found is True), verdict
    return verdicts


def problems_of(model, settings=QUICK):
    verdicts = verdicts_on(model, evaluate(model, settings, progress=False))
    return {problem: verdict.found for problem, verdict in verdicts.items()}


def test_a_healthy_model_has_no_problem(healthy, evaluated):
    verdicts = verdicts_on(healthy, evaluated)
    assert len(verdicts) == 9
    for verdict in verdicts.values():
        assert verdict.found is False, verdict
        assert any(letter.isdigit() for letter in verdict.finding)


def test_correlated_codes_do_not_match_the_prior(trained):
    assert problems_of(trained("ordinary"))["prior mismatch"]


def test_codes_of_another_scale_do_not_match_the_prior(healthy):
    assert problems_of(stretched(healthy))["prior mismatch"]


def test_narrow_posteriors_are_a_variance_collapse(healthy):
    def narrow(params):
        params["sampler"]["z_log_var"]["bias"] -= 10.0

    assert problems_of(damaged(healthy, narrow))["variance collapse"]


def test_a_heavy_kl_collapses_the_posterior_and_makes_the_discriminator_too_strong(trained):
    model = trained("collapsed")
    verdicts = verdicts_on(model, evaluate(model, QUICK, progress=False))
    for problem in ("posterior collapse", "discriminator too strong", "blur"):
        assert verdicts[problem].found, problem
    assert "loss.beta" in verdicts["posterior collapse"].remedy
    assert verdicts["prior mismatch"].found is None and verdicts["variance collapse"].found is None


def test_a_short_run_has_false_texture_and_a_weak_discriminator(trained):
    found = problems_of(trained("short"))
    assert found["false texture"] and found["discriminator too weak"]
    assert not found["discriminator too strong"]


def with_pattern(model, amplitude):
    """The same model with a checkerboard of so many levels in all that it decodes."""

    class WithPattern:
        def apply(self, variables, *args, method=None):
            decoded = model.vae.apply(variables, *args, method=method)
            if method != "decode":
                return decoded
            y, x = np.mgrid[: decoded.shape[1], : decoded.shape[2]]
            return decoded + np.float32(amplitude / 127.5) * ((-1.0) ** (y + x))[None, ..., None].astype(np.float32)

    return TrainedVAE(model.config, model.step, WithPattern(), model.variables, model.workdir)


def test_a_faint_checkerboard_is_a_grid_but_no_false_texture(healthy):
    verdicts = verdicts_on(healthy, evaluate(with_pattern(healthy, 1.2), QUICK, progress=False))
    assert verdicts["grid"].found and not verdicts["false texture"].found
    assert "model.network=patches" in verdicts["grid"].remedy


def test_a_grid_is_unknown_where_it_was_not_measured(healthy, evaluated):
    earlier = dataclasses.replace(evaluated.reconstruction, grid_energy=None, seam_energy=None)
    verdict = verdicts_on(healthy, dataclasses.replace(evaluated, reconstruction=earlier))["grid"]
    assert verdict.found is None and "earlier version" in verdict.finding
    small = dataclasses.replace(evaluated, reconstruction=earlier, skipped={"grid_energy": "images of 8x8"})
    assert "images of 8x8" in verdicts_on(healthy, small)["grid"].finding


def test_seams_alone_are_a_grid(healthy, evaluated):
    seams = dataclasses.replace(evaluated.reconstruction, seam_energy=0.3)
    assert verdicts_on(healthy, dataclasses.replace(evaluated, reconstruction=seams))["grid"].found


def test_advice_against_blur_does_not_ask_for_more_of_the_discriminator(healthy, evaluated):
    blurred = dataclasses.replace(evaluated.reconstruction, sharpness=0.3)
    remedy = verdicts_on(healthy, dataclasses.replace(evaluated, reconstruction=blurred))["blur"].remedy
    assert "loss.perceptual" in remedy and "Raise" not in remedy and "raise" not in remedy


def test_a_model_of_few_images_has_memorised_them(trained):
    found = problems_of(trained("overfitted"))
    assert found["memorisation"]
    assert not {"discriminator too weak", "discriminator too strong"} & set(found)  # it was trained without one


def test_samples_that_are_training_images_are_copies(healthy, evaluated):
    copies = reading.read_split(healthy.config, "train", 60) // 2 * 2
    images = read_image_sets(healthy.config, QUICK)
    skipped = {}
    memorisation = measure_memorisation(images, copies, healthy.config.data.flip, skipped)
    assert memorisation.copies > 0.5 and not skipped
    copying = dataclasses.replace(evaluated, memorisation=memorisation)
    assert verdicts_on(healthy, copying)["memorisation"].found


def test_memorisation_is_unknown_where_training_images_were_not_searched(healthy, evaluated):
    part = dataclasses.replace(evaluated.memorisation, training_images_in_all=1500)
    verdict = verdicts_on(healthy, dataclasses.replace(evaluated, memorisation=part))["memorisation"]
    assert verdict.found is None and "500 more training images were not searched" in verdict.finding


def test_a_figure_that_is_not_finite_gives_no_verdict(healthy, evaluated):
    broken = dataclasses.replace(evaluated.reconstruction, sharpness=np.nan)
    verdict = verdicts_on(healthy, dataclasses.replace(evaluated, reconstruction=broken))["blur"]
    assert verdict.found is None and "not finite" in verdict.finding


def test_a_mismatch_with_the_prior_shows_in_fid(with_distances, healthy):
    for model, expected in ((healthy, False), (stretched(healthy), True)):
        verdict = verdicts_on(model, evaluate(model, with_distances, progress=False))["prior mismatch"]
        assert verdict.found is expected and "FID is" in verdict.finding
