"""The rows of a run's metrics, in files that something has damaged."""

import json

import pytest
from etils import epath

from rvae_jax.training.metric_log import METRICS_FILE, UNREADABLE_FILE, MetricWriter, read_metrics
from rvae_jax.training.trackers import Trackers

ROWS = [{"step": step, "loss/total": 1.5 * step} for step in range(1, 7)]
DAMAGED = [
    *(b'{"step": 3, "loss/to', b"\0\0\0", b"\xff\xfe", b"[1, 2]", b'{"loss/total": 1.0}', b"[" * 100_000, b""),
    *(b'{"step": 3, "loss/total": "low"}', b'{"step": 3, "loss/total": null}', b'{"step": 3, "a": 1%s}' % (b"0" * 400)),
]


def lines(rows):
    return [json.dumps(row).encode() for row in rows]


def resume(folder, step):
    MetricWriter(epath.Path(folder), step, Trackers({})).__exit__()


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: repr(damage[:12]))
def test_a_line_that_is_no_row_hides_no_other(tmp_path, damage, capsys):
    file = tmp_path / METRICS_FILE
    file.write_bytes(b"\n".join([*lines(ROWS[:2]), damage, *lines(ROWS[2:]), b""]))
    assert read_metrics(epath.Path(tmp_path)) == ROWS
    resume(tmp_path, 4)
    assert file.read_bytes() == b"".join(line + b"\n" for line in lines(ROWS[:4]))
    if damage:
        assert (tmp_path / UNREADABLE_FILE).read_bytes() == damage + b"\n"
        assert f"{file}: 1 of 7 lines cannot be read; they are in {UNREADABLE_FILE} now" in capsys.readouterr().out
    else:
        assert not (tmp_path / UNREADABLE_FILE).exists()


def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path, capsys):
    file = tmp_path / METRICS_FILE
    file.write_bytes(b"\n".join([*lines(ROWS[:3]), b'{"step": 4, "lo']))
    assert read_metrics(epath.Path(tmp_path)) == ROWS[:3]
    resume(tmp_path, 3)
    assert read_metrics(epath.Path(tmp_path)) == ROWS[:3]
    assert capsys.readouterr().out == ""


def test_a_name_with_a_line_separator_of_unicode_stays_in_its_row(tmp_path):
    row = {"step": 1, "odd\u2028name": 1.0}
    (tmp_path / METRICS_FILE).write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_metrics(epath.Path(tmp_path)) == [row]
