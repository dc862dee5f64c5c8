import csv
import functools
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from making import interrupted_at
from PIL import Image

from rvae_jax import prepare
from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources import opening

ROOT = Path(__file__).parents[3]


def _pixels(seed, h=60, w=75):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)


def _encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _png(height, width, data):
    """A PNG that claims a size."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


def _broken():
    """Thirty files, by name; three are made otherwise."""
    jpeg, png, webp, bmp, tiff = (_encode(_pixels(1), name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"))
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
        "gif.jpg": _encode(_pixels(1), "GIF"),
        "pdf.png": b"%PDF-1.4",
        "zip.png": b"PK\x03\x04aaaaaaa",
        "random.jpg": np.random.default_rng(0).bytes(4000),
        "flipped.png": bytes(flipped),
        "float.tif": _encode(Image.fromarray(np.zeros((60, 60), np.float32)), "TIFF"),
        "deep.tif": _encode(Image.fromarray(np.full((60, 60), 10**6, np.int32)), "TIFF"),
        "one.png": _encode(_pixels(1, 1, 1), "PNG"),
        "tiny.jpg": _encode(_pixels(1, 9, 12), "JPEG"),
        "thin.png": _encode(_pixels(1, 200, 3), "PNG"),
        "nothing.png": _png(0, 0, b""),
        "bomb.png": _png(60_000, 60_000, b"x"),
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
        path.write_bytes(_encode(_pixels(i), name))
    (folder / "broken").mkdir()
    for name, content in _broken().items():
        (folder / "broken" / name).write_bytes(content)
    (folder / "broken/dangling.jpg").symlink_to("/nowhere/at/all.jpg")
    (folder / "broken/self.jpg").symlink_to("self.jpg")
    os.mkfifo(folder / "broken/pipe.jpg")
    assert len(list((folder / "broken").iterdir())) == 30
    (folder / "notes.txt").write_text("no picture")
    return folder


def _tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# As a process of its own

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
    return _tree(data_dir)


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


def test_a_killed_command_goes_on_and_leaves_nobody(pictures, undisturbed, tmp_path):
    """Killed at random moments; the next one begins while the workers of the last may still write."""
    random, killed = np.random.default_rng(), []
    for processes in (2, 1, 2):
        before = _parts(tmp_path)
        process = _start(*_arguments(pictures, tmp_path, processes), code=_SMALL)
        _wait(lambda: _parts(tmp_path) > before or process.poll() is not None, 30)  # noqa: B023
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
    assert _tree(tmp_path) == undisturbed
    assert left == []


@pytest.mark.parametrize("moment", ["starting", "working"])
def test_ctrl_c_stops_it_in_a_word(pictures, tmp_path, moment):
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


# In this process


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the command; gives its exit status and what it said on both streams, sys.exit's message included."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
        status = 0
        try:
            prepare.main()
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        if isinstance(status, str):
            return 1, said.out, said.err + status
        return status, said.out, said.err

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "few"
    folder.mkdir()
    for i in range(40):
        _pixels(i, 24, 24).save(folder / f"{i:02d}.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a source and --size, or --list"),
        (["x"], "expected a source and --size, or --list"),
        (["x", "--size"], "expected at least one argument"),
        (["x", "--size=0"], "'0'; expected a size such as 64, or 64x48"),
        (["x", "--size=64x48x3"], "expected a size"),
        (["x", "--size=big"], "'big'; expected a size"),
        (["x", "--size=64", "--crop=-3"], "'-3'; expected a size"),
        (["x", "--size=64", "--boxes=a", "--detector=b:c"], "expected one of --boxes and --detector, not both"),
        (["x", "--size=64", "--boxes=a", "--crop=20"], "expected one of --crop and --boxes, not both"),
        (["x", "--size=64", "--margin=0.2"], "expected --boxes or --detector, too"),
        (["x", "--size=64", "--encoding=jpeg"], "invalid choice: 'jpeg'"),
        (["x", "--size=64", "--split_by=person"], "invalid choice: 'person'"),
        (["x", "--size=64", "--processes=two"], "'two'; expected a whole number from 1"),
        (["x", "--size=64", "--processes=-1"], "'-1'; expected a whole number from 1"),
    ],
)
def test_wrong_arguments_are_told_with_the_usage(call, arguments, message):
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: python -m rvae_jax.prepare")
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize("option", ["--max_skipped=nan", "--enlarge=nan", "--margin=nan", "--margin=-0.5"])
def test_numbers_that_make_no_sense_are_refused(call, few, tmp_path, option):
    status, _, err = call(few, "--size=16", f"--data_dir={tmp_path}", option)
    assert status in (1, 2)
    assert option.partition("=")[0] in err.splitlines()[-1]
    assert "expected" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none", "--size=16"], "no such folder or file; expected a folder of pictures, a zip or a tar"),
        (["{tmp}/text", "--size=16"], "expected a folder of pictures, or a complete zip or tar"),
        (["{tmp}/datasets", "--size=16"], "no picture there, but nothing at all"),
        (["{few}", "--size=16", "--name=My Cats"], "--name=My Cats: expected small letters"),
        (["{few}", "--size=16", "--name=orl"], "--name=orl: expected small letters"),
        (["{few}", "--size=16", "--name=downloads"], "--name=downloads: expected small letters"),
        (["{tmp}/2024", "--size=16"], "2024 makes no name for a data set; give --name"),
        (["{tmp}/Фото", "--size=16"], "Фото makes no name for a data set; give --name"),
        (["{few}", "--size=16", "--from={tmp}"], "expected only with celeb_a, celeb_a_hq, lfw"),
        (["{few}", "--size=16", "--labels={tmp}/none"], "No such file or directory; expected a CSV file"),
        (["{few}", "--size=16", "--labels={tmp}/text"], "expected a CSV file with a header"),
        (["{few}", "--size=16", "--labels={tmp}/names"], "none of its 1 rows names a picture; expected names such as"),
        (["{few}", "--size=16", "--labels={tmp}/ragged"], "line 2 has 3 columns, expected 2"),
        (["{few}", "--size=16", "--boxes={tmp}/none"], "No such file or directory; expected a CSV file"),
        (
            ["{few}", "--size=16", "--detector=no_such_module:f"],
            "--detector=no_such_module:f: ModuleNotFoundError: No module named",
        ),
        (
            ["{few}", "--size=96"],
            "29 such as 04.png (too small: 24x24 of 24x24 would be enlarged 4.0 times). They are",
        ),
        (["{few}", "--size=16", "--crop=30"], "smaller than the crop of"),
        (["celeb_a_hq", "--size=16"], "has no data{R}x{R}.tar with R of at least 16"),
        (["celeb_a", "--size=16", "--from={tmp}/none"], "has no "),
    ],
)
def test_bad_input_is_told_in_a_line_or_two(call, few, tmp_path, arguments, message):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "text").write_text("x")
    (tmp_path / "names").write_text("name,a\nnobody.png,1\n")
    (tmp_path / "ragged").write_text("name,a\n00.png,1,2\n")
    filled = [argument.replace("{tmp}", str(tmp_path)).replace("{few}", str(few)) for argument in arguments]
    status, _, err = call(*filled, f"--data_dir={tmp_path}/datasets")
    error = err[err.index("Error: ") :]
    assert status == 1
    assert message in error
    assert len(error) < 2000
    assert not list((tmp_path / "datasets").glob("*/*/1.0.0"))
    assert not list((tmp_path / "datasets").glob(".unpacked*"))


@pytest.mark.parametrize("where", ["/dev/null/datasets", "/proc/datasets"])
def test_a_folder_that_cannot_be_written_is_told(call, few, where):
    status, _, err = call(few, "--size=16", f"--data_dir={where}")
    assert status == 1
    assert re.search(f"^Error: .*{where}", err)


def test_a_disk_that_is_full_is_told(call, few, tmp_path, monkeypatch):
    replace = os.replace

    def full(path, target):
        if "shard_" in str(path):
            raise OSError(28, "No space left on device", str(path))
        return replace(path, target)

    monkeypatch.setattr(os, "replace", full)
    status, _, err = call(few, "--size=16", f"--data_dir={tmp_path}")
    assert status == 1
    assert re.search("Error: .*No space left on device", err)


def test_options_reach_the_preparation(call, few, tmp_path, monkeypatch):
    seen = {}

    def record(source, settings, name, data_dir, max_skipped, replace, processes):
        seen.update(source=source, settings=settings, rest=(name, data_dir, max_skipped, replace, processes))

    monkeypatch.setattr(preparation, "prepare", record)
    (tmp_path / "labels.csv").write_text("name,a\n00.png,1.5\n")
    (tmp_path / "boxes.csv").write_text("name,left,top,width,height\n00.png,1,2,3,4\n")
    status, out, _ = call(
        *(few, "--size", "16", "24x8", "--name=cats", f"--data_dir={tmp_path}", "--margin=0.5"),
        *(f"--boxes={tmp_path}/boxes.csv", f"--labels={tmp_path}/labels.csv", "--grey", "--encoding=png"),
        *("--enlarge=3", "--max_skipped=0.25", "--replace", "--processes=3", "--split_by=folder"),
    )
    assert status == 0
    assert seen["settings"] == PreparationSettings(
        shapes=((16, 16, 1), (24, 8, 1)),
        boxes=tmp_path / "boxes.csv",
        margin=0.5,
        enlarge=3.0,
        encoding="png",
    )
    assert seen["rest"] == ("cats", tmp_path, 0.25, True, 3)
    assert seen["source"].labels["attributes"].row("00.png") == {"a": 1.5}
    assert len({seen["source"].split(f"folder/{i}") for i in range(100)}) == 1
    assert f"--config.data.name=cats --config.data.data_dir={tmp_path}" in out
    assert "40 pictures, split 80, 10 and 10 % by a hash of each picture's folder" in out
    status, out, _ = call(few, "--size=16", f"--data_dir={tmp_path}/d d", "--crop=20x10")
    assert (status, seen["settings"]) == (0, PreparationSettings(shapes=((16, 16, 3),), crop=(20, 10)))
    assert f"--config.data.name=few '--config.data.data_dir={tmp_path}/d d'" in out
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, _ = call(few, "--size=16", "--data_dir=~/d", "--boxes=~/boxes.csv", "--labels=~/labels.csv")
    assert (status, seen["settings"].boxes, seen["rest"][1]) == (0, tmp_path / "boxes.csv", tmp_path / "d")


def test_what_is_not_looked_at_is_told(call, few, tmp_path):
    folder = shutil.copytree(few, tmp_path / "few")
    for i in range(30):
        (folder / f"{i}.HEIC").write_bytes(b"x")
    (folder / ".hidden").write_text("x")
    status, out, _ = call(folder, "--size=16", f"--data_dir={tmp_path}/data")
    assert status == 0
    assert "not looked at: 30 .heic, 1 hidden" in out


def test_a_wrong_path_makes_no_folder(call, tmp_path):
    assert call(tmp_path / "none", "--size=16", f"--data_dir={tmp_path}/data")[0] == 1
    assert not (tmp_path / "data").exists()


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
    result = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert 'must do so under if __name__ == "__main__":' in result.stderr
    assert "Waits for another process" not in result.stdout


def test_nothing_prepared_is_listed_as_such(call, tmp_path):
    assert call("--list", f"--data_dir={tmp_path}/none") == (0, f"{tmp_path}/none: no data sets\n", "")


def test_what_was_begun_is_listed(call, few, tmp_path, monkeypatch):
    small = functools.partial(preparation.prepare, shard_pictures=8)

    def interrupted(source, *args):
        monkeypatch.setattr(preparation, "prepare", small)
        return small(interrupted_at(source, 25, KeyboardInterrupt), *args)

    monkeypatch.setattr(preparation, "prepare", interrupted)
    status, _, err = call(few, "--size=16", f"--data_dir={tmp_path}")
    assert status == 130
    assert err.endswith("Stopped. The same command goes on from here.\n")
    status, out, _ = call("--list", f"--data_dir={tmp_path}")
    assert (status, out.splitlines()[1]) == (0, "  few: begun, 3 parts are done; the same command goes on")
    status, out, _ = call(few, "--size=16", f"--data_dir={tmp_path}")
    assert status == 0
    assert "Goes on after 24 of 40 pictures" in out
    out = call("--list", f"--data_dir={tmp_path}")[1]
    assert out.splitlines()[0] == f"{tmp_path}: 1 data sets"
    assert out.splitlines()[1].startswith("  few/16: 16x16x3 raw; ")
