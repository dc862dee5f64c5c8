"""The judge of benchmarks/comparison measures what our own evaluation does."""

import numpy as np
import pytest

from benchmarks.comparison import store
from benchmarks.comparison.judge import judge
from rvae_jax.evaluation import results
from rvae_jax.evaluation.evaluator import evaluate
from rvae_jax.evaluation.material import Posteriors, coder_of, material_of, read_image_sets


@pytest.mark.usefixtures("without_lpips")
def test_the_judge_of_arrays_finds_what_evaluate_finds(healthy, with_distances, tmp_path):
    expected = results.to_dict(evaluate(healthy, with_distances, progress=False))
    images = read_image_sets(healthy.config, with_distances)
    material = material_of(images, *coder_of(healthy), with_distances.seed, lambda _: None)
    store.save(tmp_path, material, store.Record("ours", 0, 1.0, 1, {}))
    read = store.read_material(tmp_path, images)
    found = judge(read, with_distances, lambda _: None)
    assert found["reconstruction"] == expected["reconstruction"] and "rfid" in found["reconstruction"]
    assert found["samples"] == expected["generation"] and "fid" in found["samples"]["prior"]
    assert found["latent"] == {name: expected["latent"][name] for name in ("held_out", "training")}

    codes = [Posteriors(each.mean, np.full_like(each.log_var, -np.inf)) for each in (read.held_out, read.training)]
    certain = type(read)(images, *codes, read.reconstructions, None, {}, read.matched_reconstructions)
    without = judge(certain, with_distances, lambda _: None)
    assert without["samples"].keys() == {"real"}
    correlation = expected["latent"]["training"]["correlation_rms"]
    assert without["latent"]["training"]["correlation_rms"] == pytest.approx(correlation)
    assert not {"rate", "sigma_mean"} & without["latent"]["training"].keys()
