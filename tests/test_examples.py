import re
import subprocess
import sys
from pathlib import Path

import pytest

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
