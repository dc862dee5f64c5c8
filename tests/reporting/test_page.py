import html.parser
import shutil

import pytest
from trained_runs import SMALL, run_command

from rvae_jax import report

pytestmark = pytest.mark.usefixtures("without_lpips")

_VOID = ("meta", "br", "img", "link", "use", "path")


class Page(html.parser.HTMLParser):
    """The text of a page, its open tags, and the addresses that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_report_of_two_runs_is_one_complete_page(workdir, trained, monkeypatch, tmp_path, capsys):
    other = shutil.copytree(trained("collapsed").workdir, tmp_path / "a<b>")
    output = tmp_path / "page.html"
    run_command(report, monkeypatch, f"--workdir={workdir}", f"--workdir={other}", f"--output={output}", *SMALL)
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
    for run_dir in (workdir, other):  # for the next report
        assert (run_dir / "evaluation.json").exists()
    before = (workdir / "evaluation.json").stat().st_mtime_ns
    run_command(report, monkeypatch, f"--workdir={workdir}", *SMALL)
    assert (workdir / "report.html").exists()
    assert (workdir / "evaluation.json").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="the same one is given twice"):
        run_command(report, monkeypatch, f"--workdir={workdir}", f"--workdir={workdir}", *SMALL)
