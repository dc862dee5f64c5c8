"""The campaign of damage: its ways to damage a file, and how it judges what comes of them; and the fuzzing."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.faults import trial
from benchmarks.faults.damage import WAYS
from benchmarks.faults.fuzz import mutations
from benchmarks.faults.fuzz.reader import Reader, attempt
from rvae_jax.errors import MissingError, UserError


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
attempts = [attempt(read, pathlib.Path("here"), limit_s=6) for read in readers]
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


def test_of_what_a_fuzzed_reader_raises_an_error_of_one_line_is_expected(tmp_path):
    def read(path):
        content = path.read_bytes()
        raise {b"1": UserError("one line"), b"2": UserError("two\nlines"), b"3": MissingError("x"), b"4": ValueError()}[
            content
        ]

    for content, expected in ((b"1", None), (b"2", AssertionError), (b"3", None), (b"4", ValueError)):
        if expected is None:
            attempt(Reader(lambda _: (), read), content, tmp_path)
        else:
            with pytest.raises(expected):
                attempt(Reader(lambda _: (), read), content, tmp_path)


def test_json_is_changed_in_one_place_and_mostly_stays_json():
    row = b'{"step": 1, "loss": [0.5, {"a": "b"}]}'
    found = {mutations.of_json(b"\n".join([row] * 3), number) for number in range(300)}
    assert len(found) > 50 and all(each.count(row) >= 2 for each in found if each.count(b"\n") == 2)
    assert sum(_is_json(line) for each in found for line in each.split(b"\n") if line != row) > 25
    assert mutations.of_json(b"no JSON", 7) == b"no JSON"


def _is_json(line):
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


FUZZING = """
import sys
from benchmarks.faults.fuzz import data, one
from benchmarks.faults.fuzz.reader import Reader

def read(path):
    if path.read_bytes() != b"fine":
        raise KeyError("planted")

data.READERS["planted"] = Reader(lambda _: [b"fine"], read)
sys.argv[1:1] = ["planted"]
one.main()
"""


def test_fuzzing_keeps_one_input_of_each_crash(tmp_path):
    pytest.importorskip("atheris")
    for name in ("corpus", "crashes"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", FUZZING, str(tmp_path), "1", "1"]
    run = subprocess.run(command, cwd=pathlib.Path(__file__).parents[1], stderr=subprocess.PIPE, text=True, check=False)
    assert "stat::number_of_executed_units" in run.stderr, run.stderr[-1000:]
    kept, report = sorted((tmp_path / "crashes").iterdir())
    assert kept.read_bytes() != b"fine" and "KeyError: 'planted'" in report.read_text()
