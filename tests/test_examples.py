import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from examples import face_detector
from rvae_jax import config as config_module
from rvae_jax.data.prepare import orl

EXAMPLE = Path(__file__).parents[1] / "examples" / "reuse_losses.py"


def run_example(style):
    """What it prints after 1 and 10 steps: its four numbers."""
    command = [sys.executable, str(EXAMPLE), style, "10"]
    flags = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {os.environ['XLA_FLAGS']}",
        "JAX_PLATFORMS": "cpu",
    }
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=flags)
    return [list(map(float, re.findall(r" (\d[\d.]*)", line))) for line in result.stdout.splitlines()]


def test_the_example_learns_and_computes_the_same_in_every_style():
    reference = run_example("jit")
    (first, *_), (last, *_) = reference
    assert last < 0.8 * first
    for style in ("pmap", "shard_map"):
        for ours, theirs in zip(run_example(style), reference, strict=True):
            assert len(ours) == 4
            assert ours == pytest.approx(theirs, rel=1e-3)


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_the_notebook_shows_what_it_printed_and_drew_elsewhere():
    text = (EXAMPLE.parent / "walk_through.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 9
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not re.search(r"/(home|root|tmp|Users)/", text)


@pytest.mark.usefixtures("one_device")
def test_the_notebook_runs_from_top_to_bottom_in_any_folder(tmp_path, monkeypatch, capsys):
    cells = json.loads((EXAMPLE.parent / "walk_through.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(cells) >= 20 and len(code) >= 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RVAE_CONFIG", "orl:tiny")
    monkeypatch.setattr(config_module, "make_tiny", _toy(config_module.make_tiny))
    matplotlib.use("agg")
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf().get_axes()) or pyplot.close())
    names = {}
    for source in code:
        exec(compile(source, "cell", "exec"), names)
    assert len(shown) == 9 and all(axes for axes in shown)
    printed = capsys.readouterr().out
    assert "posterior collapse: " in printed and "lpips_diversity" in printed


def _toy(make_tiny):
    def make(config):
        config = make_tiny(config)
        config.steps = config.eval_every = 10
        config.data.data_dir = None
        return config

    return make


def test_the_face_detector_finds_faces_and_nothing_else():
    pictures = orl.read_faces()
    rng = np.random.default_rng(0)
    for person in (0, 11, 25):
        scene = np.full((260, 340, 3), 128, np.uint8)
        assert face_detector.find(scene) == []
        face = cv2.resize(pictures[person, 0], (138, 168))
        top, left = rng.integers(0, 92), rng.integers(0, 202)
        scene[top : top + 168, left : left + 138] = face[:, :, None]
        found_left, found_top, width, height = max(face_detector.find(scene), key=lambda box: box[2] * box[3])
        assert abs(found_left + width / 2 - (left + 69)) < 25
        assert abs(found_top + height / 2 - (top + 84)) < 25
