"""The start from the principal components, against scikit-learn and through a run."""

import itertools

import jax
import numpy as np
import pytest
from run_cases import assert_same_run
from sklearn.decomposition import PCA
from small_runs import tiny_config

import rvae_jax
from rvae_jax.config import LossConfig, replace_fields
from rvae_jax.data import catalog, pipeline
from rvae_jax.data.pixels import to_float
from rvae_jax.storage.run_weights import load_weights
from rvae_jax.training.loop import train
from rvae_jax.training.principal_components import PrincipalComponents, principal_components, start_log_var


def images(count=400, size=300, seed=0):
    """Bytes with a falling spectrum, as images have."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(size, 60)))
    values = rng.normal(size=(count, 60)) * (300 / np.arange(1, 61)) @ axes.T + 128 + rng.normal(size=size)
    return values.clip(0, 255).round().astype(np.uint8)


def test_components_are_those_of_scikit_learn():
    bytes_ = images()
    ours = jax.device_get(principal_components(bytes_.reshape(4, 100, 300), 20, jax.random.key(0)))
    flat = to_float(bytes_).astype(np.float64)
    theirs = PCA(20, svd_solver="full").fit(flat)
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-5)
    np.testing.assert_allclose(ours.deviations**2, theirs.explained_variance_ * 399 / 400, rtol=2e-3)
    cosines = np.abs(np.sum(ours.components[:12] * theirs.components_[:12], axis=1))
    np.testing.assert_allclose(cosines, 1.0, atol=1e-3)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_.sum(), atol=1e-4)
    reconstructions = theirs.inverse_transform(theirs.transform(flat))
    np.testing.assert_allclose(ours.error, np.abs(flat - reconstructions).mean(), rtol=2e-3)
    assert np.all(ours.components[np.arange(20), np.argmax(np.abs(ours.components), axis=1)] > 0)


def test_codes_of_the_images_are_white():
    bytes_ = images()
    found = jax.device_get(principal_components(bytes_.reshape(4, 100, 300), 20, jax.random.key(0)))
    codes = (to_float(bytes_) - found.mean) @ found.components.T / found.deviations
    np.testing.assert_allclose(np.mean(codes, axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(np.cov(codes.T, bias=True), np.eye(20), atol=2e-4)


def test_components_beyond_the_rank_are_zero():
    bytes_ = images(count=10)
    found = jax.device_get(principal_components(bytes_[None], 20, jax.random.key(0)))
    assert np.sum(found.deviations > 0) == 9
    assert np.all(found.components[9:] == 0) and np.isfinite(found.components).all()
    assert found.explained == pytest.approx(1.0, abs=1e-4)
    few_numbers = jax.device_get(principal_components(bytes_[None, :, :12], 20, jax.random.key(0)))
    assert few_numbers.components.shape == (20, 12) and np.sum(few_numbers.deviations > 0) == 9


def test_components_do_not_depend_on_the_devices():
    bytes_ = images().reshape(5, 80, 300)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    one, eight = (
        jax.device_get(principal_components(where, 8, jax.random.key(0)))
        for where in (bytes_, jax.device_put(bytes_, split))
    )
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(),
        LossConfig(variance_target=0.5),
        LossConfig(kl="standard", beta=0.3),
        LossConfig(reconstruction="l2", reconstruction_weight=2000.0),
        LossConfig(reconstruction="gaussian", reconstruction_weight=1.0),
        LossConfig(reconstruction="laplace", reconstruction_weight=1.0),
    ],
)
def test_first_variances_have_the_least_loss(loss):
    size, error, deviations, explained = 100, 0.2, np.array([3.0, 0.5, 0.02]), 0.7
    found = PrincipalComponents(np.zeros(size), None, deviations, np.float32(explained), np.float32(error))
    mean_square = np.sum(deviations**2) * (1 / explained - 1) / size  # of the residuals
    chosen = np.asarray(start_log_var(found, loss), np.float64)

    def loss_of(log_var, k):
        # Noise of small deviation n adds n^2 / (2 b) to the mean absolute value of a Laplacian of scale b.
        s = np.exp(log_var)
        noise = deviations[k] ** 2 * s / size
        reconstruction = {
            "l1": error + noise / (2 * error),
            "l2": mean_square + noise,
            # At the scales that fit the residuals; in nats per image, without constants.
            "laplace": size * (error + noise / (2 * error)) / error,
            "gaussian": size * (mean_square + noise) / (2 * mean_square),
        }[loss.reconstruction]
        if loss.kl == "standard":
            regularizer = loss.beta * 0.5 * (s - log_var)
        else:
            regularizer = loss.variance_weight * 0.5 * (s / loss.variance_target - log_var)
        return loss.reconstruction_weight * reconstruction + regularizer

    for k in range(3):
        if chosen[k] > -10:
            assert loss_of(chosen[k], k) <= min(loss_of(chosen[k] - 0.01, k), loss_of(chosen[k] + 0.01, k))
    assert np.all(np.diff(chosen) > 0)


PATH = {"model.network": "patches", "model.linear_path": "fixed", "model.latent_dim": 24, "data.jitter": 0.1}


def test_a_run_starts_as_pca_and_keeps_it(data_dir, tmp_path, capsys, one_device):
    config = tiny_config(data_dir, **PATH, **{"optimizer.learning_rate": 1e-12, "steps": 1})
    train(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert "The linear path starts as 24 principal components of 8,192 images as training shows them" in said
    model = rvae_jax.load(tmp_path / "run")
    source = catalog.load_dataset(config.data, config.data.train_split)
    shown = to_float(np.concatenate([*itertools.islice(pipeline.train_batches(source, config), 512)]))
    mean, log_var = model.encode(shown)
    np.testing.assert_allclose(np.mean(mean, axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(np.cov(mean.T), np.eye(24), atol=2e-3)
    assert np.all(log_var < 0) and np.all(log_var >= -10)
    flat = shown.reshape(len(shown), -1)
    pca = PCA(24).fit(flat)
    expected = pca.inverse_transform(pca.transform(flat)).reshape(shown.shape)
    np.testing.assert_allclose(model.reconstruct(shown[:64]), expected[:64], atol=0.03)


def test_the_linear_path_is_in_the_checkpoint(data_dir, tmp_path, capsys, one_device):
    config = tiny_config(data_dir, **PATH)
    train(config, tmp_path / "straight")
    train(tiny_config(data_dir, **PATH | {"steps": 4}), tmp_path / "twice")
    capsys.readouterr()
    train(config, tmp_path / "twice")
    assert "principal components" not in capsys.readouterr().out
    _, weights, _ = load_weights(tmp_path / "straight")
    _, start, _ = load_weights(tmp_path / "twice", 4)
    for name, array in weights["vae"]["batch_stats"]["linear"].items():
        np.testing.assert_array_equal(array, start["vae"]["batch_stats"]["linear"][name])
    assert_same_run(tmp_path / "straight", tmp_path / "twice", 8)


def test_a_linear_path_that_is_taken_over_is_not_computed(data_dir, tmp_path, capsys, one_device):
    config = tiny_config(data_dir, **PATH | {"steps": 1, "optimizer.learning_rate": 1e-12})
    train(config, tmp_path / "first")
    capsys.readouterr()
    train(config, tmp_path / "second", init_from=tmp_path / "first")
    said = capsys.readouterr().out
    assert "not taken over: nothing" in said and "principal components" not in said
    first, second = (load_weights(tmp_path / name)[1]["vae"]["batch_stats"]["linear"] for name in ("first", "second"))
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
    train(replace_fields(config, {"model.latent_dim": 16}), tmp_path / "third", init_from=tmp_path / "first")
    assert "starts as 16 principal components" in capsys.readouterr().out


def test_a_trained_linear_path_changes(data_dir, tmp_path, one_device):
    train(tiny_config(data_dir, **PATH | {"model.linear_path": "trained", "steps": 4}), tmp_path / "run")
    _, weights, _ = load_weights(tmp_path / "run")
    ours, averaged = (tree["linear"]["components"] for tree in (weights["vae"]["params"], weights["ema_params"]))
    assert np.any(ours != averaged) and np.any(ours)
    assert not weights["vae"]["batch_stats"]
