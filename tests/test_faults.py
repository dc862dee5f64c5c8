"""The campaign of damage: its ways to damage a file, and how it judges what comes of them."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.faults import trial
from benchmarks.faults.damage import WAYS


@pytest.mark.parametrize("way", WAYS)
def test_every_way_changes_a_file(way, tmp_path):
    path, content = tmp_path / "file", bytes(range(1, 256)) * 100
    path.write_bytes(content)
    WAYS[way](path, np.random.default_rng(0))
    assert not path.is_file() or path.read_bytes() != content


# In a process of its own, which has not used JAX: a trial is a fork.
SCRIPT = """
import json, pathlib, time
from benchmarks.faults.trial import attempt, compare
from rvae_jax.errors import UserError

def refuse(folder):
    raise UserError("one line")

def refuse_at_length(folder):
    raise UserError("two\\nlines")

def fail(folder):
    raise KeyError("x")

def use_memory(folder):
    return len(bytearray(b"x") * 300_000_000)

readers = [str, refuse, refuse_at_length, fail, lambda folder: time.sleep(60), use_memory]
attempts = [attempt(read, pathlib.Path("here"), limit_s=2) for read in readers]
print(json.dumps([[each.outcome("here", compare), each.peak, each.said] for each in attempts]))
"""


def test_attempts_are_judged_by_how_they_end():
    root = pathlib.Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    expected = [trial.WHOLE, trial.REFUSED, trial.TRACEBACK, trial.TRACEBACK, trial.HANG, trial.WRONG]
    assert [outcome for outcome, _, _ in found] == expected
    assert found[5][1] > 300e6 > found[0][1]
    assert "KeyError" in found[3][2] and found[1][2] == "one line\n"
