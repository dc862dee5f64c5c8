import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import sys
import zipfile

import numpy as np
import pytest
from making import encode, interrupted_at, make_pixels, read_examples

from rvae_jax import prepare
from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import catalog
from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources import portraits


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
        (["x", "--size=64", "--margin=0.2"], "--margin needs --boxes or --detector"),
        (["x", "--size=64", "--encoding=jpeg"], "invalid choice: 'jpeg'"),
        (["x", "--size=64", "--split_by=person"], "invalid choice: 'person'"),
        (["x", "--size=64", "--processes=two"], "'two'; expected a whole number from 1"),
        (["portraits", "--size=64", "--count=0"], "'0'; expected a whole number from 1"),
        (["x", "--size=64", "--processes=-1"], "'-1'; expected a whole number from 1"),
    ],
)
def test_wrong_arguments_are_refused_with_the_usage(call, arguments, message):
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
        (["portraits", "--size=16", "--from={tmp}"], "expected only with celeb_a, celeb_a_hq, lfw"),
        (["{few}", "--size=16", "--count=3"], "--count=3: expected only with portraits"),
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
            "(too small: 24x24 of 24x24 would be enlarged 4.0 times, more than --enlarge=2). They are",
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


def test_portraits_are_generated_and_found_by_their_name(call, tmp_path, monkeypatch):
    def read(name):
        return encode(make_pixels(int(name.partition(".")[0]), 32, 32), "BMP")

    def fake(count, height, open_portraits=portraits.open_portraits):
        return dataclasses.replace(open_portraits(count, height), read=read)

    monkeypatch.setattr(portraits, "_networks", lambda: tmp_path)
    monkeypatch.setattr(portraits, "open_portraits", fake)
    arguments = "portraits", "--count=60", "--size=16", f"--data_dir={tmp_path}", "--processes=1"
    status, out, _ = call(*arguments)
    assert status == 0
    assert "Terms: None of these people exist: " in out
    assert "FFHQ, whose terms are non-commercial" in out
    assert "60 pictures, split 80, 10 and 10 % by a hash of each picture's name" in out
    assert "about 0.5 s on one core: 30s for all, however many sizes, with --processes=1 on as many free cores" in out
    assert f"Train on it with --config.data.name=portraits --config.data.data_dir={tmp_path}" in out
    config = Config(
        data=DataConfig(name="portraits", data_dir=str(tmp_path)), model=ModelConfig(image_shape=(16, 16, 3))
    )
    images = catalog.load_dataset(catalog.resolve(config).data, "train+validation+test")
    assert len(images) == 60
    description = json.loads((tmp_path / "portraits/16/1.0.0/dataset_info.json").read_text())["description"]
    assert description.startswith("60 portraits by random-face 2021.7.21.1, prepared by rvae_jax. None of these people")
    assert "Already prepared" in call(*arguments)[1]
    assert "made from 60 portraits by random-face" in call(*arguments, "--count=90")[2]


def test_what_is_not_looked_at_is_told(call, few, tmp_path):
    folder = shutil.copytree(few, tmp_path / "few")
    for i in range(30):
        (folder / f"{i}.GIF").write_bytes(b"x")
    (folder / ".hidden").write_text("x")
    status, out, _ = call(folder, "--size=16", f"--data_dir={tmp_path}/data")
    assert status == 0
    assert "not looked at: 30 .gif, 1 hidden" in out


def test_a_wrong_path_makes_no_folder(call, tmp_path):
    assert call(tmp_path / "none", "--size=16", f"--data_dir={tmp_path}/data")[0] == 1
    assert not (tmp_path / "data").exists()


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


def test_a_data_set_in_parts_is_prepared_as_one(call, few, tmp_path):
    for part in range(2):
        with zipfile.ZipFile(tmp_path / f"part{part}.zip", "w") as archive:
            for i in range(20 * part, 20 * part + 20):
                archive.write(few / f"{i:02d}.png", f"{i:02d}.png")
    (tmp_path / "labels.csv").write_text("name,n\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(40)))
    paths = tmp_path / "part0.zip", tmp_path / "part1.zip"
    options = "--size=24", f"--data_dir={tmp_path}/data", f"--labels={tmp_path}/labels.csv", "--processes=1"
    status, _, err = call(*paths, *options)
    assert (status, err) == (1, "Error: 2 sources make no name for a data set; give --name")
    status, out, _ = call(*paths, *options, "--name=cats")
    assert status == 0
    assert "40 pictures, split" in out
    rows = [row for rows in read_examples(tmp_path / "data", "24").values() for row in rows]
    assert len(rows) == 40
    for row in rows:
        number = row["attributes"]["n"]
        assert row["name"].decode() == f"part{number // 20}/{number:02d}.png"
        np.testing.assert_array_equal(row["image"], make_pixels(number, 24, 24))
    assert "Already prepared" in call(*paths[::-1], *options, "--name=cats")[1]
