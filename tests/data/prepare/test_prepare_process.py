import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import encoded
import numpy as np
import pytest
from making import encode, make_pixels, read_tree
from PIL import Image

from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources import opening

ROOT = Path(__file__).parents[3]


def _pixels(seed, h=60, w=75):
    return make_pixels(seed, h, w)


def _broken():
    """Thirty files, by name; three are made otherwise."""
    jpeg, png, webp, bmp, tiff = (encode(_pixels(1), name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    whole = {"jpg": jpeg, "png": png, "webp": webp, "bmp": bmp, "tif": tiff}
    heads = {"jpg": 30, "png": 20, "webp": 12, "bmp": 20, "tif": 8}
    return {
        **{f"half.{suffix}": data[: len(data) // 2] for suffix, data in whole.items()},
        **{f"head.{suffix}": whole[suffix][:count] for suffix, count in heads.items()},
        "empty.jpg": b"",
        "zeros.jpg": jpeg[: len(jpeg) // 2] + bytes(5000),
        "all_zeros.png": bytes(4000),
        "text.jpg": b"this is text",
        "html.jpg": b"<!DOCTYPE html><html>quota</html>",
        "gif.jpg": encode(_pixels(1), "GIF"),
        "pdf.png": b"%PDF-1.4",
        "zip.png": b"PK\x03\x04aaaaaaa",
        "random.jpg": np.random.default_rng(0).bytes(4000),
        "flipped.png": bytes(flipped),
        "float.tif": encode(Image.fromarray(np.zeros((60, 60), np.float32)), "TIFF"),
        "deep.tif": encode(Image.fromarray(np.full((60, 60), 10**6, np.int32)), "TIFF"),
        "one.png": encode(_pixels(1, 1, 1), "PNG"),
        "tiny.jpg": encode(_pixels(1, 9, 12), "JPEG"),
        "thin.png": encode(_pixels(1, 200, 3), "PNG"),
        "nothing.png": encoded.png(0, 0, 8, 2, b""),
        "bomb.png": encoded.png(60_000, 60_000, 8, 2, b"x"),
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two hundred pictures of all formats in folders, and thirty that are broken in as many ways."""
    folder = tmp_path_factory.mktemp("pictures") / "My Album (1)"
    formats = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("bmp", "BMP"), ("tif", "TIFF"), ("jpg", "PNG")]
    for i in range(200):
        suffix, name = formats[i % len(formats)]
        path = folder / f"day {i % 7}" / f"{'фото é' if i % 11 == 0 else ''}{i:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(_pixels(i), name))
    (folder / "broken").mkdir()
    for name, content in _broken().items():
        (folder / "broken" / name).write_bytes(content)
    (folder / "broken/dangling.jpg").symlink_to("/nowhere/at/all.jpg")
    (folder / "broken/self.jpg").symlink_to("self.jpg")
    os.mkfifo(folder / "broken/pipe.jpg")
    assert len(list((folder / "broken").iterdir())) == 30
    (folder / "notes.txt").write_text("no picture")
    return folder


# Small shards, and processes for few pictures, so that a short run has all the states of a long one.
# Ctrl-C is ignored where the tests themselves run in the background.
_SMALL = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import functools
from rvae_jax.data.prepare import preparation
preparation.prepare = functools.partial(preparation.prepare, shard_pictures=4, worth_processes=1)
from rvae_jax.prepare import main
if __name__ == "__main__":
    main()
"""


def _start(*arguments, code=None):
    command = ["-c", code] if code else ["-m", "rvae_jax.prepare"]
    return subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as from a terminal, a group of its own
    )


def _run(*arguments, code=None):
    process = _start(*arguments, code=code)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def _session(leader):
    """The living processes that a process started, itself among them."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(int(path.name))
    return found


def _wait(condition, seconds):
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return value


def _left_over(process, seconds=5):
    """Processes that a dead one leaves for longer; they are ended."""
    _wait(lambda: not _session(process.pid), seconds)
    left = _session(process.pid)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    process.stdout.close()
    process.stderr.close()
    return left


def test_thirty_broken_pictures_are_named(pictures, tmp_path):
    status, out, err = _run(pictures, "--size=32", f"--data_dir={tmp_path}", "--max_skipped=0.2")
    assert status == 0, err
    assert "Traceback" not in err
    folder = tmp_path / "my_album_1/32/1.0.0"
    assert f"Prepared {folder}" in out
    assert "30 skipped" in out
    assert out.endswith(f"Train on it with --config.data.name=my_album_1 --config.data.data_dir={tmp_path}\n")
    with (folder / "skipped.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "reason"]
    assert [name for name, _ in rows] == sorted(f"broken/{path.name}" for path in (pictures / "broken").iterdir())
    assert all(reason for _, reason in rows)
    reasons = dict(rows)
    for name, reason in {
        "empty.jpg": "empty file",
        "pipe.jpg": "not a regular file",
        "bomb.png": "3600 megapixels",
        "tiny.jpg": "enlarged 3.6 times",
        "html.jpg": "begins with b'<!DOCTYPE ht'",
    }.items():
        assert reason in reasons[f"broken/{name}"]

    status, out, err = _run("--list", f"--data_dir={tmp_path}")
    assert (status, err) == (0, "")
    listed = re.search(r"my_album_1/32: 32x32x3 raw; (\d+) train, (\d+) validation, (\d+) test; .* MB; the folder", out)
    assert sum(map(int, listed.groups())) == 200


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("undisturbed")
    source = opening.open_path(pictures, Path("/nowhere"))
    settings = PreparationSettings(shapes=((32, 32, 3),))
    preparation.prepare(source, settings, "album", data_dir, max_skipped=0.2, processes=1, shard_pictures=4)
    return read_tree(data_dir)


def _arguments(pictures, data_dir, processes):
    return (
        pictures,
        "--size=32",
        f"--data_dir={data_dir}",
        "--name=album",
        "--max_skipped=0.2",
        f"--processes={processes}",
    )


def _parts(data_dir):
    return len(list(data_dir.glob("album/incomplete/shard_*.json")))


def test_a_killed_command_goes_on_and_leaves_no_process(pictures, undisturbed, tmp_path):
    """Killed at random moments; the next one begins while the workers of the last may still write."""
    random, killed = np.random.default_rng(), []
    for processes in (2, 1, 2):
        before = _parts(tmp_path)
        process = _start(*_arguments(pictures, tmp_path, processes), code=_SMALL)
        _wait(lambda: _parts(tmp_path) > before or process.poll() is not None, 30)  # noqa: B023 - called at once
        time.sleep(random.uniform(0, 0.02))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
        killed.append(process)
    done = _parts(tmp_path)
    status, out, err = _run(*_arguments(pictures, tmp_path, 2), code=_SMALL)
    time.sleep(0.3)
    left = [pid for process in killed for pid in _left_over(process)]
    assert status == 0, err
    assert done >= 3
    assert "Goes on after" in out
    assert read_tree(tmp_path) == undisturbed
    assert left == []


@pytest.mark.parametrize("moment", ["starting", "working"])
def test_ctrl_c_stops_it_with_one_line(pictures, tmp_path, moment):
    process = _start(*_arguments(pictures, tmp_path, 2), code=_SMALL)
    if moment == "starting":
        assert _wait(lambda: len(_session(process.pid)) >= 3, 30)  # the workers import what they need
        time.sleep(0.3)
    else:
        assert _wait(lambda: _parts(tmp_path) >= 1, 30)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert _left_over(process, 2) == []
    assert "Traceback" not in err
    assert err.endswith("\nStopped. The same command goes on from here.\n")
    assert "Prepared" not in out


def test_a_script_without_a_guard_is_told(few, tmp_path):
    """And does not wait for itself."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from rvae_jax.data.prepare import preparation\n"
        "from rvae_jax.data.prepare.settings import PreparationSettings\n"
        "from rvae_jax.data.prepare.sources.opening import open_path\n"
        f"source = open_path(Path({str(few)!r}), Path())\n"
        "settings = PreparationSettings(shapes=((16, 16, 3),))\n"
        f"folder, few = Path({str(tmp_path)!r}), {{'shard_pictures': 8, 'worth_processes': 1}}\n"
        "preparation.prepare(source, settings, 'few', folder, processes=2, **few)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert 'must do so under if __name__ == "__main__":' in result.stderr
    assert "Waits for another process" not in result.stdout
