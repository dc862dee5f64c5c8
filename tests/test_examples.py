import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from examples import face_detector
from rvae_jax.data import orl

EXAMPLE = Path(__file__).parents[1] / "examples" / "reuse_losses.py"


@pytest.fixture(scope="module")
def printed():
    """What each style prints after 1 and 10 steps: its four numbers."""

    def run(style):
        command = [sys.executable, str(EXAMPLE), style, "10"]
        flags = {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
            "JAX_PLATFORMS": "cpu",
        }
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=flags)
        return [list(map(float, re.findall(r" (\d[\d.]*)", line))) for line in result.stdout.splitlines()]

    return {style: run(style) for style in ("jit", "pmap", "shard_map")}


@pytest.mark.parametrize("style", ["jit", "pmap", "shard_map"])
def test_foreign_training_loop_learns(printed, style):
    (first, *_), (last, *_) = printed[style]
    assert last < 0.8 * first


@pytest.mark.parametrize("style", ["pmap", "shard_map"])
def test_foreign_training_loop_computes_the_same_in_every_style(printed, style):
    for ours, theirs in zip(printed[style], printed["jit"], strict=True):
        assert len(ours) == 4
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_face_detector_finds_faces_and_only_these():
    pictures = orl.read_pictures()
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
