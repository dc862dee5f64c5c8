"""Models that are trained once for all tests of evaluation, drawing and reporting, and ways to damage them."""

import fcntl
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import rvae_jax
from rvae_jax import prepare
from rvae_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.evaluation.metrics import similarity
from rvae_jax.evaluation.settings import EvaluationSettings
from rvae_jax.inference.trained_vae import TrainedVAE
from rvae_jax.training.loop import train

SIZE, FACTORS = 32, 8
QUICK = EvaluationSettings(images=100, training_images=1000, likelihood_samples=4)
SMALL = ("--images=40", "--training_images=100")


def waves(n, seed):
    """Images that a linear decoder makes of eight independent Gaussian factors, and the factors."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    shapes = np.random.default_rng(1).uniform(-2.5, 2.5, (FACTORS, 3))
    basis = np.array([np.cos(np.pi * (a * x + b * y) + c) for a, b, c in shapes])
    factors = np.random.default_rng(seed).normal(size=(n, FACTORS))
    images = 128 + 20.0 * np.einsum("nf,fhw->nhw", factors, basis)
    return np.round(np.clip(images, 0, 255)).astype(np.uint8), factors


def run_command(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


@pytest.fixture(scope="session")
def shared(tmp_path_factory, request):
    """``shared(name, make)``: a folder that one of pytest's processes makes and all of them use."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "trained_runs"
    folder.mkdir(exist_ok=True)

    def once(name, make):
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / name).exists():
                make(folder / f"{name}.part")
                (folder / f"{name}.part").rename(folder / name)
        return folder / name

    return once


@pytest.fixture(scope="module")
def waves_dir(shared):
    """Two prepared data sets, ``waves`` and ``few``, and their pictures."""

    def make(path):
        for name, count in (("waves", 1000), ("few", 8)):
            rows = ["name,bright,tilted"]
            for split, n, seed in (("train", count, 0), ("validation", 60, 2), ("test", 60, 3)):
                folder = path / "pictures" / name / split
                folder.mkdir(parents=True)
                for i, (image, factors) in enumerate(zip(*waves(n, seed), strict=True)):
                    Image.fromarray(image).save(folder / f"{i}.png")
                    rows.append(f"{split}/{i}.png,{int(factors[0] > 0)},{int(factors[1] > 0)}")
            (path / f"{name}.csv").write_text("\n".join(rows))
            options = f"--name={name}", "--size", SIZE, "--grey", f"--data_dir={path}", f"--labels={path / name}.csv"
            with pytest.MonkeyPatch.context() as patch:
                run_command(prepare, patch, path / "pictures" / name, *options)

    return shared("data", make)


def config_of(data_dir, steps, data="waves", batch_size=32, **loss):
    return Config(
        batch_size=batch_size,
        steps=steps,
        log_every=10,
        eval_every=steps,
        model=ModelConfig(
            image_shape=(SIZE, SIZE, 1),
            latent_dim=FACTORS,
            encoder_filters=(8, 16, 16),
            decoder_filters=(16, 16, 1),
            encoder_identity_blocks=0,
            decoder_identity_blocks=0,
            discriminator_filters=(16, 16, 1),
            discriminator_strides=(2, 2, 1),
            input_norm=False,
        ),
        loss=LossConfig(**{"reconstruction_weight": 1000.0, "adversarial_weight": 0.3} | loss),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup=20, schedule="cosine", beta1=0.9),
        data=DataConfig(
            name=data, data_dir=str(data_dir), flip=False, selection_split="validation", validation_split="test"
        ),
    )


RUNS = {
    "ordinary": {"steps": 300},
    "collapsed": {"steps": 120, "kl": "standard", "beta": 10.0},
    "short": {"steps": 40, "adversarial_weight": 1e-9},
    "overfitted": {"steps": 300, "data": "few", "batch_size": 8, "kl": "standard", "adversarial": "none"},
}


@pytest.fixture(scope="module")
def trained(shared, waves_dir, one_device):
    """``trained(name)``: the model of one of ``RUNS``."""

    def load(name):
        return rvae_jax.load(shared(name, lambda path: train(config_of(waves_dir, **RUNS[name]), path)))

    return load


@pytest.fixture(scope="module")
def healthy(trained):
    return whitened(trained("ordinary"))


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of the ordinary run, to write into."""
    return shutil.copytree(trained("ordinary").workdir, tmp_path / "run")


@pytest.fixture
def without_lpips(monkeypatch):
    """LPIPS takes most of the time of an evaluation."""
    monkeypatch.setattr(similarity, "LEAST_LPIPS_SIZE", SIZE + 1)


def damaged(model, damage):
    """A copy of a model whose parameters ``damage`` has changed in place."""
    variables = jax.tree.map(np.array, model.variables)
    damage(variables["params"])
    return TrainedVAE(model.config, model.step, model.vae, variables, model.workdir)


def whitened(model):
    """The same model with independent codes of mean 0 and variance 1, which the decoder transforms back."""
    mean, log_var = model.population
    var = np.exp(log_var).mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(mean, rowvar=False) + np.diag(var))
    whiten, centre = vectors / np.sqrt(values) @ vectors.T, mean.mean(axis=0)

    def change(params):
        codes, widths, dense = params["sampler"]["z_mean"], params["sampler"]["z_log_var"], params["decoder"]["dense"]
        codes["kernel"], codes["bias"] = codes["kernel"] @ whiten.T, whiten @ (codes["bias"] - centre)
        widths["kernel"], widths["bias"] = np.zeros_like(widths["kernel"]), np.log(np.square(whiten) @ var)
        dense["bias"] = dense["bias"] + centre @ dense["kernel"]
        dense["kernel"] = np.linalg.inv(whiten).T @ dense["kernel"]

    return damaged(model, change)


def stretched(model):
    """The same model with its codes three times as far apart."""

    def stretch(params):
        for leaf in ("kernel", "bias"):
            params["sampler"]["z_mean"][leaf] *= 3.0
        params["decoder"]["dense"]["kernel"] /= 3.0

    return damaged(model, stretch)
