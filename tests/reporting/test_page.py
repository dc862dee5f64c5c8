import dataclasses
import html.parser
import re
import shutil
import subprocess
import types

import pytest
from etils import epath
from trained_runs import SMALL, run_command

from rvae_jax import report
from rvae_jax.config import Config, LossConfig
from rvae_jax.drawing import figures
from rvae_jax.evaluation import results
from rvae_jax.reporting import glossary, headline, page, plots

pytestmark = pytest.mark.usefixtures("without_lpips")

_VOID = ("meta", "br", "img", "link", "use", "path")


class Page(html.parser.HTMLParser):
    """The text of a page, its open tags, and the addresses that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.sources, self.attributes, self.folded = [], [], [], [], []
        self.feed(text.replace("<wbr>", ""))

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "details" in self.open and "summary" not in self.open:
            self.folded.append(data)


def test_a_report_of_two_runs_is_one_complete_page(workdir, trained, monkeypatch, tmp_path, capsys):
    other = shutil.copytree(trained("collapsed").workdir, tmp_path / "_a<b>$x")  # not Matplotlib's language either
    output = tmp_path / "page.html"
    run_command(report, monkeypatch, f"--workdir={workdir}", f"--workdir={other}", f"--output={output}", *SMALL)
    assert f"Wrote {output}" in capsys.readouterr().out
    text = output.read_text()
    found = Page(text)
    assert found.open == []
    assert all(source.startswith(("data:image/", "#")) for source in found.sources), "the page asks for another file"
    assert "http" not in text.replace("http://www.w3.org/", "")
    assert "<b>$x" not in text
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert {source[1:] for source in found.sources if source.startswith("#")} <= set(ids)
    assert len([source for source in found.sources if source.startswith("data:")]) == 2 * 12
    shown = " ".join(found.text)
    for word in ("_a<b>$x", "loss.beta", "posterior collapse", "Try:", "held_out_images", "reconstruction "):
        assert word in shown
    assert shown.count("reconstruction_weight") >= 2
    assert shown.count("Samples from the prior N(0, I).") == 1
    assert shown.index("What differs") < shown.index("Best step") < shown.index("Could not be told")
    assert shown.count("along the most active dimensions") in (1, 2)  # which may be others in the other run
    for run_dir in (workdir, other):  # for the next report
        assert (run_dir / "evaluation.json").exists()
    before = (workdir / "evaluation.json").stat().st_mtime_ns
    run_command(report, monkeypatch, f"--workdir={workdir}")  # takes the evaluation that is there
    assert (workdir / "report.html").exists()
    assert (workdir / "evaluation.json").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="the same one is given twice"):
        run_command(report, monkeypatch, f"--workdir={workdir}", f"--workdir={workdir}", *SMALL)


@pytest.fixture(scope="module")
def reported(trained, tmp_path_factory):
    """The ordinary run with its report."""
    folder = shutil.copytree(trained("ordinary").workdir, tmp_path_factory.mktemp("reported") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rvae_jax.evaluation.metrics.similarity.LEAST_LPIPS_SIZE", 100)
        run_command(report, patch, f"--workdir={folder}", *SMALL)
    return folder


@pytest.fixture
def report_again(reported, tmp_path, monkeypatch):
    """``report_again(change)``: the report on a copy of it that ``change`` has changed, with one figure."""

    def make(change):
        folder = shutil.copytree(reported, tmp_path / "run")
        change(folder)
        monkeypatch.setattr(figures, "FIGURES", {"reconstructions": figures.reconstructions})
        run_command(report, monkeypatch, f"--workdir={folder}", *SMALL)
        return (folder / "report.html").read_text()

    return make


def test_the_top_has_a_number_each_and_when_how_long_and_on_what(reported):
    text = (reported / "report.html").read_text()
    top = " ".join(" ".join(Page(text.partition('<h2 id="problems">')[0]).text).split())
    for pattern in (
        r"Reconstruction 0\.\d{3} mean absolute error",
        r"Samples \d\.\d\d sharpness",
        r"Latent space \d of 8 dimensions in use",
        r"Best step 300 of 300 least error on the selection images",
        r"Started \d\d \w+ \d{4}, \d\d:\d\d UTC",
        r"Training time \d+s",
        r"Hardware 1 x cpu \(cpu\), \d+ CPU cores",
        r"Version rvae_jax \d\S+, jax \d",
    ):
        assert re.search(pattern, top), (pattern, top)


def test_what_an_earlier_version_did_not_record_is_said_to_be_unknown(report_again, capsys):
    def forget(folder):
        for name in ("environment.json", "metrics.jsonl"):
            (folder / name).unlink()
        shutil.rmtree(folder / "tensorboard")

    text = report_again(forget)
    assert text.count("not recorded") == 4
    assert 'id="curves"' not in text and 'href="#curves"' not in text
    assert "drawing run: 100%" in capsys.readouterr().err


def test_only_the_problems_that_were_found_are_open(reported):
    found = Page((reported / "report.html").read_text())
    folded, shown = " ".join(found.folded), " ".join(found.text)
    assert "prior mismatch" in shown and "do not follow N(0, I)" in shown
    assert "Try: Sample with" in shown and "Sample with sampler='gaussian'" not in folded
    assert "below 0.5 they look blurred" in folded


def test_pictures_over_the_run_are_shown_where_there_are_several(reported, report_again):
    def add(folder):
        for name in ("samples", "reconstructions"):
            shutil.copy(folder / "pictures" / f"{name}_00000300.png", folder / "pictures" / f"{name}_00000020.png")

    assert 'id="over-steps"' not in (reported / "report.html").read_text()
    found = Page(report_again(add))
    assert found.text.count("step 20") == found.text.count("step 300") == 2
    assert ("href", "#over-steps") in found.attributes


def test_curves_are_marked_where_the_objective_changes_and_at_the_best_checkpoint():
    def subject(name, **loss):
        config = Config(steps=1000, loss=LossConfig(**loss))
        rows = [{"step": step, "loss/reconstruction": 1.0 / step} for step in range(10, 1001, 10)]
        return types.SimpleNamespace(name=name, model=types.SimpleNamespace(config=config, step=900), rows=rows)

    alone = [subject("one", texture_start=0.5, adversarial_start=0.6)]
    assert [(mark.sign, mark.step) for mark in plots.marks(alone)] == [("T", 500), ("D", 600), ("B", 900)]
    (curve,) = plots.curves(alone)
    assert all(f">{sign}</text>" in curve.svg for sign in "TDB")
    both = [*alone, subject("two", adversarial="none", texture_start=0.5)]
    signs = [mark.sign for mark in plots.marks(both)]
    assert signs == ["T1", "D1", "B1", "T2", "B2"]
    assert ">T1 T2</text>" in plots.curves(both)[0].svg


def test_the_number_of_samples_is_fid_where_it_was_measured(reported):
    evaluation = results.read(epath.Path(reported), 300)
    sets = {
        name: dataclasses.replace(evaluation.generation.prior, fid=fid)
        for name, fid in (("prior", 88.6), ("real", 19.7))
    }
    measured = dataclasses.replace(evaluation, generation=dataclasses.replace(evaluation.generation, **sets))
    model = types.SimpleNamespace(config=Config(select="last", steps=400), step=0)
    found = {number.of: number for number in headline.numbers(types.SimpleNamespace(evaluation=measured, model=model))}
    samples = found["Samples"]
    assert (samples.value, samples.metric, samples.note) == ("88.6", "fid", "real images have 19.7")
    assert found["Best step"].name == "imported weights"


def test_time_taken_adds_up_over_rows_and_starts(tmp_path):
    rows = [{"step": 10, "images_per_second": 8.0}, {"step": 10, "selection/l1": 1.0}]
    rows += [{"step": 30, "images_per_second": 4.0}]
    (tmp_path / "tensorboard").mkdir()
    for second in (1795817583, 1795810000):
        (tmp_path / "tensorboard" / f"events.out.tfevents.{second}.host").touch()
    model = types.SimpleNamespace(workdir=epath.Path(tmp_path), config=Config(batch_size=4))
    facts = headline.facts(types.SimpleNamespace(model=model, rows=rows))
    assert facts["training time"] == "25s"
    assert facts["started"] == "27 November 2026, 20:06 UTC"


def test_every_figure_has_a_heading():
    assert {*page._SHOWN, *page._FOLDED} == set(figures.FIGURES)


def test_every_metric_of_the_page_is_explained_there():
    measured = (
        *(results.ReconstructionFigures, results.SampleFigures, results.LatentFigures),
        *(results.MemorisationFigures, results.LikelihoodFigures),
    )
    names = {field.name for figures in measured for field in dataclasses.fields(figures)}
    of_population = {field.name for field in dataclasses.fields(results.PopulationFigures)}
    names |= of_population - {"codes", "held_out_codes", "best_sampler"}  # in the notes above the tables
    assert set(glossary.GLOSSARY) == names
    assert set(glossary.LOGGED) == {name for *_, curve in plots.CURVES for name in curve}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_does_not_scroll_sideways(reported, tmp_path, width):
    # In a frame of that width: the window of a headless browser has a least width.
    text = (reported / "report.html").read_text()
    (tmp_path / "page.html").write_text(text.replace("<details>", "<details open>"))
    (tmp_path / "frame.html").write_text(
        f"""<iframe src="page.html" style="width: {width}px; height: 800px; border: 0"></iframe><script>
        onload = () => {{
          const page = frames[0].document.documentElement;
          document.title = page.scrollWidth - page.clientWidth;
        }}</script>"""
    )
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom")
    command = ["chromium", *options, f"--user-data-dir={tmp_path}", f"file://{tmp_path}/frame.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>0</title>" in dom


@pytest.mark.parametrize("value", [1e308, float("nan"), float("inf"), 1e-320])
def test_numbers_that_no_training_gives_do_not_stop_a_report(value, tmp_path):
    rows = [
        {"step": 1, "discriminator/accuracy_real": -value, "images_per_second": value},
        {"step": 2, "discriminator/accuracy_real": value, "images_per_second": value},
        {"step": 3, "discriminator/accuracy_real": 1.0},
    ]
    model = types.SimpleNamespace(config=Config(), workdir=epath.Path(tmp_path), step=2)
    subject = types.SimpleNamespace(name="foreign", rows=rows, model=model)
    assert any("<svg" in plot.svg for plot in plots.curves([subject]))
    if value != 1e308:
        assert headline.facts(subject)["training time"] == "not recorded"
