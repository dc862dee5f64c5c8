"""The used range of pictures of more than 8 bits: found, told, chosen, kept."""

import json
import re

import cv2
import numpy as np
import pytest
from making import encode, make_pixels, open_pictures, prepare, read_images, user_error

from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import reading
from rvae_jax.data.prepare import command
from rvae_jax.data.prepare.arguments import value_range
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.data.prepare.value_range import choose, look


def _write(folder, count=40, most=4095, colours=False):
    """Pictures of 12 bits in 16; returns their values by name."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for i in range(count):
        values = np.random.default_rng(i).integers(0, most + 1, (20, 20, 3) if colours else (20, 20)).astype(np.uint16)
        values.flat[:4], values.flat[4:8] = 0, most
        found[f"{i:02d}.png"] = values
        (folder / f"{i:02d}.png").write_bytes(
            cv2.imencode(".png", values[..., ::-1] if colours else values)[1].tobytes()
        )
    return found


@pytest.fixture(scope="module")
def dark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dark") / "dark"
    return folder, _write(folder)


def _run(folder, data_dir, value_range=None, name="cats"):
    options = {
        **{"path": None, "count": None, "crop": None, "boxes": None, "detector": None, "margin": 0.0, "labels": None},
        **{"split_by": None, "grey": True, "encoding": "raw", "enlarge": 2.0, "max_skipped": 0.05, "replace": False},
    }
    data_dir = str(data_dir)
    command.run(
        [str(folder)], [(20, 20)], name=name, data_dir=data_dir, value_range=value_range, processes=1, **options
    )


@pytest.mark.parametrize("colours", [False, True])
def test_12_bits_in_16_are_told_in_one_line(tmp_path, data_dir, capsys, colours):
    _write(tmp_path / "dark", colours=colours)
    _run(tmp_path / "dark", data_dir)
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")]
    assert len(warnings) == 1
    assert "of 40 pictures looked at, 40 have more than 8 bits (as has 04.png) and use 0 to 4095 of" in warnings[0]
    assert "--range=auto, or --range=0,4095" in warnings[0]


def test_the_whole_range_and_8_bits_bring_no_warning(tmp_path, few, capsys):
    _write(tmp_path / "full", most=65535)
    for folder in (tmp_path / "full", few):
        assert choose(open_pictures(folder), None) is None
    assert capsys.readouterr().out == ""


def test_auto_takes_one_range_for_all_and_records_it(dark, data_dir, capsys):
    folder, values = dark
    _run(folder, data_dir, "auto")
    out = capsys.readouterr().out
    assert "--range=auto is --range=0,4095, of the values of 40 pictures" in out
    assert "Warning" not in out
    images = read_images(data_dir, "20_grey")
    for name, stored in values.items():
        np.testing.assert_array_equal(images[name.encode()][:, :, 0], np.floor(stored / 4095 * 255 + 0.5))
    record = json.loads((data_dir / "cats/20_grey/1.0.0/preparation.json").read_text())
    assert record["settings"]["value_range"] == [0, 4095]
    _run(folder, data_dir, (0.0, 4095.0))
    assert "Already prepared" in capsys.readouterr().out
    assert "with other settings" in user_error(_run, folder, data_dir, (0.0, 4000.0))


def test_a_folder_used_later_is_mapped_as_the_data_set_was(dark, data_dir, tmp_path, capsys):
    folder, _ = dark
    _run(folder, data_dir, (0.0, 4095.0))
    _run(folder, data_dir, name="plain")
    later = _write(tmp_path / "later", count=1, most=2000)["00.png"]
    capsys.readouterr()
    for name, most, warned in (("cats", 4095, False), ("plain", 65535, True)):
        config = Config(
            model=ModelConfig(image_shape=(20, 20, 1)), data=DataConfig(name=f"{name}/20_grey", data_dir=str(data_dir))
        )
        expected = np.floor(later / most * 255 + 0.5)
        np.testing.assert_array_equal(reading.read_folder(tmp_path / "later", config)[1][0, :, :, 0], expected)
        np.testing.assert_array_equal(reading.read_folder(tmp_path / "later/00.png", config)[1][0, :, :, 0], expected)
        assert ("Warning: the folder later: of 1 pictures looked at" in capsys.readouterr().out) == warned


def test_a_folder_for_training_is_told_of_once(dark, tmp_path, capsys):
    config = Config(
        model=ModelConfig(image_shape=(16, 16, 1)), data=DataConfig(folder=str(dark[0]), data_dir=str(tmp_path))
    )
    prepare_for(config)
    said = capsys.readouterr().out
    assert "use 0 to 4095 of 0 to 65535" in said and re.search(r"\(as has \d\d\.png\)", said)
    prepare_for(config)
    assert "Warning" not in capsys.readouterr().out


def test_a_few_dead_points_do_not_decide(tmp_path):
    folder = tmp_path / "dead"
    for name, values in _write(folder).items():
        values[10, 10] = 65535 if name == "03.png" else values[10, 10]
        (folder / name).write_bytes(cv2.imencode(".png", values)[1].tobytes())
    found = look(open_pictures(folder))
    assert (found.low, found.high, found.narrow) == (0, 4095, True)


def test_floating_point_pictures_are_prepared_with_auto(tmp_path, data_dir, capsys):
    (tmp_path / "floats").mkdir()
    for i in range(40):
        values = make_pixels(i, 20, 20)[:, :, 0].astype(np.float32) / 255
        values.flat[:8] = [0, 1] * 4
        (tmp_path / f"floats/{i:02d}.tif").write_bytes(encode(values, "TIFF"))
    message = user_error(_run, tmp_path / "floats", data_dir)
    assert "floating-point pixels from 0 to 1" in message
    _run(tmp_path / "floats", data_dir, "auto")
    assert "--range=auto is --range=0,1, of" in capsys.readouterr().out
    found = read_images(data_dir, "20_grey")[b"07.tif"][:, :, 0]
    np.testing.assert_array_equal(found.flat[8:], make_pixels(7, 20, 20)[:, :, 0].flat[8:])


def test_a_range_that_applies_to_nothing_is_told(few, tmp_path, capsys):
    message = user_error(choose, open_pictures(few), "auto")
    assert "of 40 pictures looked at, none has more than 8 bits" in message
    assert choose(open_pictures(few), (0.0, 4095.0)) == (0, 4095)
    assert "none of 40 pictures looked at has more than 8 bits" in capsys.readouterr().out
    _write(tmp_path / "flat", count=3, most=0)
    assert "all values are 0" in user_error(choose, open_pictures(tmp_path / "flat"), "auto")


def test_pictures_that_cannot_be_read_are_left_to_the_preparation(broken_pictures):
    found = look(open_pictures(broken_pictures))
    assert (found.pictures, found.of) == (1, 51)  # the floating-point one
    assert not found.narrow


def test_without_a_range_the_record_is_as_it_was(few, data_dir):
    prepare(few, data_dir)
    record = json.loads((data_dir / "cats/16/1.0.0/preparation.json").read_text())
    assert "value_range" not in record["settings"]


@pytest.mark.parametrize("text", ["", "5", "5,5", "9,1", "0,inf", "nan,1", "a,b", "1,2,3"])
def test_a_range_that_makes_no_sense_is_refused(text):
    with pytest.raises(Exception, match="expected LOW,HIGH such as 0,4095, or auto"):
        value_range(text)
    assert value_range("-1000,3000.5") == (-1000, 3000.5)
