import csv
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import linecache
import re
import shutil
import sys
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageOps
from tensorflow_datasets.core.utils import file_utils

from rvae_jax.data.prepare import preparation, shards, sources, tables
from rvae_jax.data.prepare.examples import Settings
from rvae_jax.errors import UserError

SPLITS = ("train", "validation", "test")


def _pixels(seed, h=40, w=50):
    """Smooth, so that formats with losses lose little; different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))


def _encode(pixels, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def _fill(folder, count=40, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        (folder / f"{i:03d}.png").write_bytes(_encode(_pixels(i)))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """000.png to 039.png of 40x50; nobody writes here."""
    return _fill(tmp_path_factory.mktemp("pictures") / "cats")


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


def _open(folder, labels=None, **changes):
    source = sources.open_source(folder, Path("/nowhere"))
    if labels:
        changes["labels"] = {"attributes": tables.read_table(labels, source.files)}
    return dataclasses.replace(source, **changes)


def _prepare(folder, data_dir, *shapes, options=None, labels=None, **settings):
    source = folder if isinstance(folder, sources.Source) else _open(folder, labels)
    settings = Settings(shapes=shapes or ((16, 16, 3),), **settings)
    return preparation.prepare(source, settings, "cats", data_dir, **({"processes": 1} | (options or {})))


def _error(*args, **kwargs):
    with pytest.raises(UserError) as info:
        _prepare(*args, **kwargs)
    message = str(info.value)
    assert "\n" not in message
    return message


def _examples(data_dir, config="16"):
    name = f"cats/{config}"
    return {split: list(tfds.data_source(name, split=split, data_dir=data_dir)) for split in SPLITS}


def _images(data_dir, config="16"):
    """By name; a name is the bytes of the file's."""
    return {row["name"]: row["image"] for rows in _examples(data_dir, config).values() for row in rows}


def _rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def _tree(folder):
    """Every file's bytes, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _published(data_dir):
    return sorted(path.parent.name for path in data_dir.glob("cats/*/1.0.0"))


def _area_average(image, height, width):
    def weights(new, old):
        edges = np.arange(new + 1) * old / new
        overlap = np.minimum(edges[1:, None], np.arange(old) + 1) - np.maximum(edges[:-1, None], np.arange(old))
        return np.maximum(overlap, 0) * new / old

    rows, columns = weights(height, image.shape[0]), weights(width, image.shape[1])
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)


# Images


# (top, left, height, width) of the largest centred part of the shape 16:16 and 12:20, worked out by hand.
CROPS = {
    (40, 50): ((0, 5, 40, 40), (5, 0, 30, 50)),
    (64, 64): ((0, 0, 64, 64), (13, 0, 38, 64)),
    (33, 47): ((0, 7, 33, 33), (2, 0, 28, 47)),
    (90, 21): ((34, 0, 21, 21), (38, 0, 13, 21)),
}
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Pictures of many formats and sizes, prepared in three shapes at once."""
    folder, data_dir = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("datasets")
    formats = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "jpg": "JPEG"}
    exif = Image.Exif()
    exif[0x112] = 6  # lies on its side
    for i, (size, suffix) in enumerate(itertools.product(CROPS, formats)):
        for turned in range(2):
            pixels = _pixels(100 + i, *(size[::-1] if turned else size))
            options = {"lossless": True, "exif": exif} if turned else {"lossless": True}
            (folder / f"{i}_{turned}.{suffix}").write_bytes(_encode(pixels, formats[suffix], **options))
    # Pillow writes no EXIF into a BMP.
    for path in folder.glob("*_1.bmp"):
        path.unlink()
    _prepare(folder, data_dir, (16, 16, 3), (12, 20, 3), (16, 16, 1))
    return folder, data_dir


@pytest.mark.parametrize(("config", "place"), [("16", 0), ("12x20", 1), ("16_grey", 0)])
def test_an_image_is_the_area_average_of_the_middle(mixed, config, place):
    folder, data_dir = mixed
    images = _images(data_dir, config)
    assert len(images) == 36
    height, width = (12, 20) if config == "12x20" else (16, 16)
    for name, image in images.items():
        picture = ImageOps.exif_transpose(Image.open(folder / name.decode()))
        pixels = np.asarray(picture.convert("RGB"))
        top, left, h, w = CROPS[pixels.shape[:2]][place]
        expected = _area_average(pixels[top : top + h, left : left + w], height, width)
        rounding = 0.51
        if config == "16_grey":
            expected, rounding = (expected @ LUMA)[:, :, None], 1.01  # rounded twice
        assert image.dtype == np.uint8
        assert image.shape == expected.shape
        assert np.abs(image - expected).max() <= rounding, name


def test_a_crop_is_cut_from_the_middle(pictures, data_dir):
    _prepare(pictures, data_dir, (15, 10, 3), crop=(30, 20))
    for name, image in _images(data_dir, "15x10").items():
        pixels = np.asarray(Image.open(pictures / name.decode()))
        assert np.abs(image - _area_average(pixels[5:35, 15:35], 15, 10)).max() <= 0.51


def test_a_tall_picture_lying_on_its_side_keeps_its_sharpness(pictures, tmp_path, data_dir):
    """What JPEG may be decoded at a fraction of its size is decided by the upright picture."""
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (12, 100, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    folder = shutil.copytree(pictures, tmp_path / "with_tall")
    (folder / "tall.jpg").write_bytes(_encode(pixels, "JPEG", quality=95, subsampling=0, exif=exif))
    _prepare(folder, data_dir, (8, 64, 3), enlarge=9.0)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(folder / "tall.jpg")))
    assert upright.shape == (800, 96, 3)
    expected = _area_average(upright[394:406], 8, 64)
    assert np.abs(_images(data_dir, "8x64")[b"tall.jpg"] - expected).max() <= 2


# As TFDS reads it


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_tfds_reads_it(pictures, data_dir, encoding):
    (folder,) = _prepare(pictures, data_dir, (20, 25, 3), encoding=encoding)
    assert folder == data_dir / "cats/20x25/1.0.0"
    (reference,) = file_utils.list_datasets_in_data_dir(data_dir)
    assert reference.tfds_name() == "cats/20x25:1.0.0"

    builder = tfds.builder("cats/20x25", data_dir=data_dir)
    info = builder.info
    assert isinstance(info.features["image"], tfds.features.Image if encoding == "png" else tfds.features.Tensor)
    assert info.features["image"].shape == (20, 25, 3)
    assert sum(split.num_examples for split in info.splits.values()) == 40
    for split in SPLITS:
        stored = [path.stat().st_size for path in folder.glob(f"*-{split}.array_record-*")]
        assert info.splits[split].num_bytes == sum(stored) > 0

    by_source, by_builder = _examples(data_dir, "20x25"), builder.as_data_source()
    for split in SPLITS:
        for one, other in zip(by_source[split], by_builder[split], strict=True):
            assert one["name"] == other["name"]
            pixels = np.asarray(Image.open(pictures / one["name"].decode())).astype(int)
            expected = pixels.reshape(20, 2, 25, 2, 3).mean(axis=(1, 3))
            np.testing.assert_array_equal(one["image"], other["image"])
            assert np.abs(one["image"] - expected).max() <= 0.5


def test_png_and_raw_are_the_same_images(pictures, tmp_path):
    images = []
    for encoding in ("raw", "png"):
        for shape in ((16, 16, 3), (16, 16, 1)):
            _prepare(pictures, tmp_path / encoding, shape, encoding=encoding, options={"replace": True})
        images.append(_images(tmp_path / encoding) | _images(tmp_path / encoding, "16_grey"))
    for name in images[0] | images[1]:
        np.testing.assert_array_equal(images[0][name], images[1][name])


def test_labels_keep_their_values_and_types(pictures, tmp_path, data_dir):
    rows = [(f"{i:03d}.png", i % 2, "True" if i % 3 else "false", -(1 << 40) + i, i / 8, f"né {i}") for i in range(40)]
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "smiles", "young", "id", "score", "who"), *rows])
    _prepare(pictures, data_dir, labels=tmp_path / "labels.csv")
    features = tfds.builder("cats/16", data_dir=data_dir).info.features["attributes"]
    assert [features[key].np_dtype for key in ("smiles", "young", "id", "score")] == [bool, bool, np.int64, np.float32]
    assert isinstance(features["who"], tfds.features.Text)
    examples = list(itertools.chain(*_examples(data_dir).values()))
    assert len(examples) == 40
    for example in examples:
        labels, row = example["attributes"], rows[int(example["name"][:3])]
        found = [labels[key] for key in ("smiles", "young", "id", "score")]
        assert found == [bool(row[1]), row[2] == "True", row[3], row[4]]
        assert labels["who"].decode() == row[5]


def test_a_picture_without_labels_is_skipped(pictures, tmp_path, data_dir):
    rows = "".join(f"{i:03d}.png,1.5\n" for i in range(39))
    (tmp_path / "labels.csv").write_text(f"name,score\n{rows}")
    (folder,) = _prepare(pictures, data_dir, labels=tmp_path / "labels.csv")
    assert _rows(folder / "skipped.csv")[1:] == [["039.png", "nothing of it in the attributes"]]


# Order and splits


def test_order_and_splits_are_those_of_a_hash_of_the_name(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    accented = "é.png"
    (folder / accented).write_bytes(_encode(_pixels(99)))

    def key(name):
        return hashlib.blake2b(unicodedata.normalize("NFC", name).encode(), digest_size=16).digest()

    expected = {split: [] for split in SPLITS}
    for name in sorted((path.name for path in folder.iterdir()), key=key):
        share = int.from_bytes(key(name)[:8], "big") / 2**64
        expected[SPLITS[(share >= 0.8) + (share >= 0.9)]].append(name.encode())
    _prepare(folder, data_dir)
    assert {split: [row["name"] for row in rows] for split, rows in _examples(data_dir).items()} == expected
    assert key(accented) == sources.order_key(unicodedata.normalize("NFD", accented))


def test_the_shares_of_the_splits_are_80_10_10():
    source = sources.Source("many", dict.fromkeys(map(str, range(10_000)), 0), bytes)
    found = [source.split(name) for name in source.files]
    assert [found.count(split) / 10_000 for split in SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.015)


def test_bytes_do_not_depend_on_the_order_on_the_disk(pictures, tmp_path):
    backwards = tmp_path / "backwards" / "cats"
    backwards.mkdir(parents=True)
    for path in sorted(pictures.iterdir(), reverse=True):
        shutil.copy2(path, backwards)
    for folder, where in ((pictures, "a"), (backwards, "b")):
        _prepare(folder, tmp_path / where)
    assert _tree(tmp_path / "a") == _tree(tmp_path / "b")


def test_folders_train_val_test_are_the_partition(tmp_path, data_dir):
    folder = tmp_path / "split"
    for i, part in enumerate(("train", "val", "test")):
        _fill(folder / part, 5, first=10 * i)
    _prepare(folder, data_dir)
    for split, part in zip(SPLITS, (b"train/", b"val/", b"test/"), strict=True):
        names = [row["name"] for row in _examples(data_dir)[split]]
        assert len(names) == 5
        assert all(name.startswith(part) for name in names)


def test_an_empty_split_is_refused(tmp_path, data_dir):
    _fill(tmp_path / "few", 2)
    message = _error(tmp_path / "few", data_dir)
    assert re.search(r"2 pictures, of which .*\b0 (train|validation|test)", message)
    assert _tree(data_dir) == {}


def test_a_split_of_broken_pictures_is_refused(tmp_path, data_dir):
    folder = tmp_path / "split"
    for part in ("train", "val", "test"):
        _fill(folder / part, 5)
    for path in (folder / "test").iterdir():
        path.write_bytes(b"broken")
    assert "no picture of the split test" in _error(folder, data_dir, options={"max_skipped": 0.5})
    assert _published(data_dir) == []


# Pictures that are left out


def _break(folder):
    """Puts broken pictures into the folder; name to a word of the reason."""
    jpeg, png = _encode(_pixels(1), "JPEG"), _encode(_pixels(1))
    broken = {
        "empty.jpg": (b"", "empty file"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "half.png": (png[: len(png) // 2], "cannot be decoded"),
        "zeros.jpg": (jpeg[: len(jpeg) // 2] + bytes(500), "ends in zeros"),
        "html.jpg": (b"<!DOCTYPE html>", "not to be recognised"),
        "gif.png": (_encode(_pixels(1), "GIF"), "not to be recognised"),
        "float.tif": (_encode(np.zeros((40, 50), np.float32), "TIFF"), "floating-point"),
        "tiny.png": (_encode(_pixels(1, 5, 5)), "too small"),
        "sub,\n\"odd'/new.jpg": (b"x", "not to be recognised"),
        "caf\udce9.jpg": (b"x", "not to be recognised"),
        "dangling.jpg": (None, "No such file"),
    }
    for name, (content, _) in broken.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.symlink_to("/nowhere/at/all")
        else:
            path.write_bytes(content)
    return {name: reason for name, (_, reason) in broken.items()}


def test_skipped_pictures_are_listed_with_reasons(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    whole = "na\udcefve.png"
    (folder / whole).write_bytes(_encode(_pixels(77)))
    broken = _break(folder)
    (made,) = _prepare(folder, data_dir, options={"max_skipped": 0.5})
    header, *rows = _rows(made / "skipped.csv")
    assert header == ["name", "reason"]
    assert [name for name, _ in rows] == sorted(broken)
    for name, reason in rows:
        assert broken[name] in reason
        assert "\n" not in reason
    names = set(_images(data_dir))
    assert names == {f"{i:03d}.png".encode() for i in range(40)} | {b"na\xefve.png"}


def test_too_many_skipped_publish_nothing_and_more_may_be_allowed(pictures, tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(preparation, "_SHARD_PICTURES", 8)
    folder = shutil.copytree(pictures, tmp_path / "cats")
    broken = _break(folder)
    source = _open(folder)
    read = []

    def counting(name):
        read.append(name)
        return source.read(name)

    source_counting = dataclasses.replace(source, read=counting)
    message = _error(source_counting, data_dir, options={"max_skipped": 0.05})
    assert "of 51 pictures are unusable" in message
    assert "--max_skipped=0.05" in message
    assert _published(data_dir) == []
    listing = Path(message.partition("listed in ")[2].partition(";")[0])
    listed = {name for name, _ in _rows(listing)[1:]}
    assert len(listed) > 0.05 * 51
    assert listed <= set(broken)

    before = len(read)
    _prepare(source_counting, data_dir, options={"max_skipped": 0.5})
    assert before >= 8
    assert sorted(read) == sorted(source.files)  # each once
    _prepare(source, tmp_path / "undisturbed", options={"max_skipped": 0.5})
    assert _tree(data_dir) == _tree(tmp_path / "undisturbed")


def test_a_share_of_exactly_max_skipped_is_allowed(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    for i in range(4):
        (folder / f"{i:03d}.png").write_bytes(b"")
    assert re.search("[34] of 40", _error(folder, data_dir, options={"max_skipped": 0.05}))
    _prepare(folder, data_dir, options={"max_skipped": 0.1})
    assert _published(data_dir) == ["16"]


def test_a_picture_is_enlarged_up_to_the_limit(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "small.png").write_bytes(_encode(_pixels(1, 10, 10)))
    (made,) = _prepare(folder, data_dir, enlarge=1.6)
    assert _rows(made / "skipped.csv")[1:] == []
    assert _images(data_dir)[b"small.png"].shape == (16, 16, 3)
    (made,) = _prepare(folder, tmp_path / "other", enlarge=1.5)
    ((name, reason),) = _rows(made / "skipped.csv")[1:]
    assert name == "small.png"
    assert "enlarged 1.6 times" in reason


def test_a_picture_smaller_than_the_crop_is_skipped(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "low.png").write_bytes(_encode(_pixels(1, 31, 50)))
    (made,) = _prepare(folder, data_dir, crop=(32, 32))
    ((name, reason),) = _rows(made / "skipped.csv")[1:]
    assert name == "low.png"
    assert "31x50 pixels, smaller than the crop of 32x32" in reason


def test_a_picture_may_be_too_small_for_one_shape_only(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "small.png").write_bytes(_encode(_pixels(1, 10, 10)))
    small, large = _prepare(folder, data_dir, (16, 16, 3), (24, 24, 3))
    assert _rows(small / "skipped.csv")[1:] == []
    assert [row[0] for row in _rows(large / "skipped.csv")[1:]] == ["small.png"]
    assert _images(data_dir).keys() - _images(data_dir, "24").keys() == {b"small.png"}


def test_other_files_are_counted_and_ignored(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "__MACOSX").mkdir()
    for name in ("notes.txt", "more.TXT", "README", ".hidden.png", "__MACOSX/000.png"):
        (folder / name).write_bytes(_encode(_pixels(1)))
    (folder / "loop").symlink_to(folder)
    (made,) = _prepare(folder, data_dir)
    ignored = json.loads((made / "summary.json").read_text())["ignored_files"]
    assert ignored == {".txt": 2, "hidden": 2, "without a suffix": 1}
    assert len(_images(data_dir)) == 40


def test_duplicates_are_listed_across_formats_and_splits(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "010_again.bmp").write_bytes(_encode(_pixels(10), "BMP"))
    (folder / "a_copy.png").write_bytes((folder / "003.png").read_bytes())
    for i in range(8):
        (folder / f"same_{i}.png").write_bytes(_encode(_pixels(500)))
    (made,) = _prepare(folder, data_dir)
    split_of = {row["name"].decode(): split for split, rows in _examples(data_dir).items() for row in rows}
    first = {"010_again.bmp": "010.png", "a_copy.png": "003.png"} | {f"same_{i}.png": "same_0.png" for i in range(1, 8)}
    expected = [[name, split_of[name], same, split_of[same]] for name, same in sorted(first.items())]
    assert _rows(made / "duplicates.csv") == [["name", "split", "same_as", "its_split"], *expected]
    statistics = json.loads((made / "summary.json").read_text())
    crosses = sum(split_of[name] != split_of[same] for name, same in first.items())
    assert crosses > 0
    assert statistics["duplicates"] == 9
    assert statistics["duplicates_in_another_split"] == crosses


# Boxes


def _write_boxes(path, boxes):
    rows = "".join(f"{name},{','.join(map(str, box))}\n" for name, box in boxes.items())
    path.write_text(f"name,left,top,width,height\n{rows}")
    return path


def _all(box):
    return {f"{i:03d}.png": box for i in range(40)}


def _reflected(image, top, left, height, width):
    padded = np.pad(image, ((30, 30), (30, 30), (0, 0)), mode="reflect")
    return padded[30 + top : 30 + top + height, 30 + left : 30 + left + width]


@pytest.mark.parametrize(
    ("box", "margin", "shape", "part"),  # (left, top, width, height) and (top, left, height, width)
    [
        ((12, 10, 8, 8), 0.0, (8, 8), (10, 12, 8, 8)),
        ((12, 10, 8, 8), 0.25, (12, 12), (8, 10, 12, 12)),
        ((12, 10, 8, 8), 0.25, (12, 24), (8, 4, 12, 24)),
        ((12, 10, 8, 8), 0.0, (16, 8), (6, 12, 16, 8)),
        ((40, 30, 12, 12), 0.5, (24, 24), (24, 34, 24, 24)),
        ((-4, -6, 12, 12), 0.0, (12, 12), (-6, -4, 12, 12)),
    ],
)
def test_a_box_is_cut_out_with_margin_and_aspect(pictures, tmp_path, data_dir, box, margin, shape, part):
    boxes = _write_boxes(tmp_path / "boxes.csv", _all(box))
    _prepare(pictures, data_dir, (*shape, 3), boxes=boxes, margin=margin)
    config = f"{shape[0]}" if shape[0] == shape[1] else f"{shape[0]}x{shape[1]}"
    images = _images(data_dir, config)
    assert len(images) == 40
    for name, image in images.items():
        expected = _reflected(np.asarray(Image.open(pictures / name.decode())), *part)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (None, "no box for it"),
        ((60, 5, 20, 20), "its box lies outside of its 40x50 pixels"),
        ((5, -30, 20, 20), "its box lies outside of its 40x50 pixels"),
        ((5, 5, 0.5, 20), "its box is 0.5 wide and 20 high"),
        ((5, 5, 4, 4), "would be enlarged 4.0 times"),
        (("nan", 5, 20, 20), "its box"),
        ((1, 5, "inf", 20), "its box"),
        ((1, 5, 1_000_000_000, 1_000_000_000), "its box"),
    ],
)
def test_a_picture_without_a_good_box_is_skipped(pictures, tmp_path, data_dir, box, reason):
    boxes = _all((5, 5, 20, 20)) | {"007.png": box}
    if box is None:
        del boxes["007.png"]
    (made,) = _prepare(pictures, data_dir, boxes=_write_boxes(tmp_path / "boxes.csv", boxes))
    ((name, found),) = _rows(made / "skipped.csv")[1:]
    assert name == "007.png"
    assert reason in found


def test_boxes_of_other_columns_are_refused(pictures, tmp_path, data_dir):
    path = tmp_path / "boxes.csv"
    path.write_text("name,x,y,w,h\n000.png,1,2,3,4\n")
    message = _error(pictures, data_dir, boxes=path)
    assert str(path) in message
    assert "expected name, left, top, width, height" in message
    assert "No such file" in _error(pictures, data_dir, boxes=tmp_path / "none.csv")
    assert _published(data_dir) == []


DETECTOR = """\
def corners(picture):
    yield 30, 20, 8, 8
    yield 12.0, 10.0, 16.0, 16.0
    yield 0, 0, 0, 99


def seldom(picture):
    return [] if picture[0, 0, 0] > 127 else [(12, 10, 16, 16, 0.99)]


number = 3
"""


@pytest.fixture
def detector(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/face_finder.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path / "modules")


@pytest.mark.usefixtures("detector")
def test_the_largest_box_of_a_detector_is_cut_out(pictures, data_dir):
    _prepare(pictures, data_dir, (20, 20, 3), detector="face_finder:corners", margin=0.125)
    for name, image in _images(data_dir, "20").items():
        np.testing.assert_array_equal(image, np.asarray(Image.open(pictures / name.decode()))[8:28, 10:30])


@pytest.mark.usefixtures("detector")
def test_where_a_detector_finds_nothing_the_picture_is_skipped(pictures, data_dir):
    (made,) = _prepare(pictures, data_dir, detector="face_finder:seldom", options={"max_skipped": 1.0})
    light = [path.name for path in sorted(pictures.iterdir()) if np.asarray(Image.open(path))[0, 0, 0] > 127]
    assert 0 < len(light) < 40
    assert _rows(made / "skipped.csv")[1:] == [[name, "the detector found nothing"] for name in light]


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize("spec", ["face_finder", "face_finder:nothing", "no_such:find", ":find", "face_finder:number"])
def test_a_detector_that_is_not_there_is_refused(pictures, data_dir, spec):
    message = _error(pictures, data_dir, detector=spec)
    assert f"--detector={spec}" in message
    assert "expected module:function" in message


# What is there already


def test_a_prepared_set_is_left_alone(pictures, data_dir, capsys):
    _prepare(pictures, data_dir)
    before = {path: path.stat().st_mtime_ns for path in (data_dir / "cats/16").rglob("*")}
    capsys.readouterr()
    (folder,) = _prepare(pictures, data_dir)
    assert f"Already prepared: {folder}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (data_dir / "cats/16").rglob("*")} == before


def test_another_shape_is_added(pictures, data_dir):
    _prepare(pictures, data_dir)
    before = _tree(data_dir)
    _prepare(pictures, data_dir, (16, 16, 3), (12, 12, 1))
    assert _published(data_dir) == ["12_grey", "16"]
    assert before.items() <= _tree(data_dir).items()


def test_a_set_of_other_settings_is_refused_or_replaced(pictures, tmp_path, data_dir):
    _prepare(pictures, data_dir)
    before = _tree(data_dir)
    message = _error(pictures, data_dir, crop=(20, 20))
    assert "made from the folder cats, of other pictures or with other settings" in message
    assert "--replace" in message
    assert _tree(data_dir) == before
    _prepare(pictures, data_dir, crop=(20, 20), options={"replace": True})
    _prepare(pictures, tmp_path / "fresh", crop=(20, 20))
    assert _tree(data_dir) == _tree(tmp_path / "fresh") != before


def test_all_sizes_of_a_name_are_of_the_same_pictures(pictures, tmp_path, data_dir, capsys):
    other = _fill(tmp_path / "dogs", first=40)
    _prepare(pictures, data_dir, (16, 16, 3), (12, 12, 3))
    before = _tree(data_dir)
    message = _error(other, data_dir, (20, 20, 3))
    assert "12/1.0.0 is there, made from the folder cats" in message
    assert _tree(data_dir) == before
    (data_dir / "cats/12/2.0.0").mkdir()
    _prepare(other, data_dir, (20, 20, 3), (16, 16, 3), options={"replace": True})
    assert _published(data_dir) == ["16", "20"]
    assert "040.png" in {name.decode() for name in _images(data_dir)}
    assert f"Removed {data_dir / 'cats/12'}" in capsys.readouterr().out
    assert [path.name for path in (data_dir / "cats/12").iterdir()] == ["2.0.0"]
    assert not (data_dir / "cats" / preparation.STAGING).exists()


def test_a_data_set_that_is_removed_is_never_there_in_part(pictures, tmp_path, data_dir):
    other = _fill(tmp_path / "dogs", first=40)
    _prepare(pictures, data_dir, (16, 16, 3), (12, 12, 3))
    before = _tree(data_dir / "cats/12")
    assert _killed_while_removing(other, data_dir, options={"replace": True})
    assert _tree(data_dir / "cats/12") in ({}, before)
    _prepare(other, data_dir, options={"replace": True})
    _prepare(other, tmp_path / "fresh")
    assert _tree(data_dir) == _tree(tmp_path / "fresh")


def _killed_while_removing(*args, **kwargs):
    def remove(path, **_):
        files = [file for file in Path(path).rglob("*") if file.is_file()]
        if files:
            files[0].unlink()
            raise Interruption

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(shutil, "rmtree", remove)
        _prepare(*args, **kwargs)
    return True


def test_what_a_process_killed_at_its_end_left_is_removed(pictures, data_dir, capsys):
    assert _killed_while_removing(pictures, data_dir, *TWO_SHAPES)
    staging = data_dir / "cats" / preparation.STAGING
    assert staging.exists()
    before = {config: _tree(data_dir / f"cats/{config}") for config in ("16", "12x20_grey")}
    _prepare(pictures, data_dir)
    assert "Already prepared" in capsys.readouterr().out
    assert not staging.exists()
    assert {config: _tree(data_dir / f"cats/{config}") for config in before} == before


def test_what_is_half_done_of_another_size_stays_for_its_own_command(pictures, data_dir, capsys):
    _prepare(pictures, data_dir)
    assert _interrupted(pictures, data_dir, shards, "_write_shard", 2)
    half_done = _tree(data_dir / "cats" / preparation.STAGING)
    assert half_done
    _prepare(pictures, data_dir)
    assert "Already prepared" in capsys.readouterr().out
    assert _tree(data_dir / "cats" / preparation.STAGING) == half_done


def _repaint(folder):
    """Other pixels in files of the same names and sizes."""
    for i, path in enumerate(sorted(folder.iterdir())):
        size = path.stat().st_size
        path.write_bytes(_encode(_pixels(100 + i), "BMP"))
        assert path.stat().st_size == size


def test_pictures_that_changed_in_place_are_noticed(tmp_path, data_dir, capsys, monkeypatch):
    folder = tmp_path / "bmp"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:03d}.bmp").write_bytes(_encode(_pixels(i), "BMP"))
    monkeypatch.setattr(preparation, "_SHARD_PICTURES", 8)
    write, calls = shards._write_shard, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _prepare(folder, data_dir)
    _repaint(folder)
    _prepare(folder, data_dir)
    assert "begins anew" in capsys.readouterr().out
    expected = {f"{i:03d}.bmp": np.float64(_pixels(100 + i).mean()) for i in range(40)}
    for name, image in _images(data_dir).items():
        assert abs(image.mean() - expected[name.decode()]) < 20

    _prepare(folder, data_dir)
    assert "Warning" not in capsys.readouterr().out
    before = _tree(data_dir)
    _repaint(folder)
    _prepare(folder, data_dir)
    said = capsys.readouterr().out
    assert "Warning: since" in said
    assert "Already prepared" in said
    assert _tree(data_dir) == before
    _prepare(folder, data_dir, options={"replace": True})
    assert "Prepared" in capsys.readouterr().out


def test_what_is_prepared_can_be_asked_for_where_nothing_may_be_written(pictures, data_dir, monkeypatch):
    made = _prepare(pictures, data_dir)
    monkeypatch.setattr(Path, "mkdir", lambda *args, **kwargs: pytest.fail("made a folder"))
    monkeypatch.setattr(preparation, "_locked", lambda *args: pytest.fail("made a lock"))
    assert _prepare(pictures, data_dir) == made


def test_another_detector_under_the_same_name_is_another_set(pictures, tmp_path, data_dir, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_detector", raising=False)
    code = "def find(image):\n    return [(0, 0, 20, 20)]\n"
    (tmp_path / "my_detector.py").write_text(code)
    _prepare(pictures, data_dir, detector="my_detector:find")
    _prepare(pictures, data_dir, detector="my_detector:find")
    del sys.modules["my_detector"]
    (tmp_path / "my_detector.py").write_text(code.replace("20", "30"))
    linecache.checkcache()
    assert "with other settings" in _error(pictures, data_dir, detector="my_detector:find")


def test_a_file_that_may_be_readable_later_is_not_skipped(pictures, data_dir):
    source = _open(pictures)

    def flaky(name, failing=[True]):  # noqa: B006 - the list is kept between calls
        if name == "007.png" and failing.pop():
            raise OSError(5, "Input/output error")
        return source.read(name)

    flaky_source = dataclasses.replace(source, read=flaky)
    assert "007.png: Input/output error; the same command goes on from here" in _error(flaky_source, data_dir)
    flaky_source = dataclasses.replace(source, read=source.read)
    (folder,) = _prepare(flaky_source, data_dir)
    assert _rows(folder / "skipped.csv") == [["name", "reason"]]


def test_a_file_that_vanishes_is_not_skipped_but_a_broken_link_is(tmp_path, data_dir):
    folder = _fill(tmp_path / "pictures")
    (folder / "link.png").symlink_to("nowhere")
    source = _open(folder)
    moved = folder.rename(tmp_path / "not_mounted")
    message = _error(source, data_dir)
    assert "No such file or directory; the same command goes on from here" in message
    moved.rename(folder)
    (made,) = _prepare(source, data_dir)
    assert _rows(made / "skipped.csv")[1:] == [["link.png", "cannot be read: No such file or directory"]]


def test_a_detector_that_always_fails_is_told_with_its_error(pictures, data_dir, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_detector.py").write_text("def find(image):\n    import no_such_module\n")
    message = _error(pictures, data_dir, detector="broken_detector:find")
    assert "No module named 'no_such_module'" in message


@pytest.mark.parametrize("content", [None, "", '{"no": "fingerprint"}'])
def test_a_folder_of_somebody_else_is_refused(pictures, data_dir, content):
    folder = data_dir / "cats/16/1.0.0"
    folder.mkdir(parents=True)
    (folder / "precious").write_text("x")
    if content is not None:
        (folder / "preparation.json").write_text(content)
    before = _tree(data_dir)
    assert "not made by this command" in _error(pictures, data_dir)
    assert _tree(data_dir) == before


def test_other_labels_are_another_set(pictures, tmp_path, data_dir):
    """The same values, for other pictures."""
    for name, numbers in (("a", range(40)), ("b", range(39, -1, -1))):
        rows = "".join(f"{i:03d}.png,{value}\n" for i, value in zip(numbers, range(40), strict=True))
        (tmp_path / f"{name}.csv").write_text(f"name,value\n{rows}")
    _prepare(pictures, data_dir, labels=tmp_path / "a.csv")
    assert "of other pictures or with other settings" in _error(pictures, data_dir, labels=tmp_path / "b.csv")


@pytest.mark.parametrize("name", ["", "Cats", "1cats", "my cats", "cats/64", "..", "incomplete", "cäts"])
def test_a_name_that_tfds_cannot_have_is_refused(name):
    with pytest.raises(UserError, match="expected small letters, digits and _"):
        preparation.check_name(name)


def test_a_full_disk_is_told_before_anything_is_done(pictures, data_dir, monkeypatch):
    usage = shutil.disk_usage(data_dir)
    needed = 40 * 16 * 16 * 3

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))

    leave(needed - 1)
    message = _error(pictures, data_dir)
    assert "0.0 MB free" in message
    assert "--data_dir" in message
    assert _tree(data_dir) == {}
    leave(needed)
    _prepare(pictures, data_dir)


def test_a_folder_whose_name_is_no_utf8_can_be_prepared(pictures, tmp_path, data_dir):
    _prepare(shutil.copytree(pictures, tmp_path / "caf\udce9"), data_dir)
    assert len(_images(data_dir)) == 40


# Summary


def test_the_summary_has_the_numbers_of_numpy(mixed):
    folder, data_dir = mixed
    made = data_dir / "cats/12x20/1.0.0"
    statistics = json.loads((made / "summary.json").read_text())
    examples = _examples(data_dir, "12x20")
    train = np.stack([row["image"] for row in examples["train"]]).astype(np.float64)
    assert statistics["shape"] == [12, 20, 3]
    assert statistics["images"] == {split: len(rows) for split, rows in examples.items()}
    assert statistics["skipped"] == 0
    np.testing.assert_allclose(statistics["pixel_mean"], train.mean(axis=(0, 1, 2)), atol=0.005001)
    np.testing.assert_allclose(statistics["pixel_std"], train.std(axis=(0, 1, 2)), atol=0.005001)
    sizes = np.array([ImageOps.exif_transpose(Image.open(path)).size for path in folder.iterdir()])
    for side, values in (("original_width", sizes[:, 0]), ("original_height", sizes[:, 1])):
        expected = {"min": values.min(), "median": int(np.median(values)), "max": values.max()}
        assert statistics[side] == expected


def test_the_contact_sheet_shows_images_and_their_mean(pictures, data_dir):
    (made,) = _prepare(pictures, data_dir, (24, 24, 3))
    sheet = Image.open(made / "summary.png")
    sheet.load()
    train = np.stack([row["image"] for row in _examples(data_dir, "24")["train"]])
    assert len(train) <= 36
    # Twelve tiles of 96 in a row, with gaps of 2; beside them, two pictures as large as 3x3 tiles, with captions of 22.
    assert sheet.size == (12 * 98 + 22 + 292 + 2, 22 + 2 * (292 + 22))
    pixels = np.asarray(sheet).astype(float)
    first = pixels[22 : 22 + 96, :96].reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(first - train[0]).mean() < 2
    left = 12 * 98 + 22
    mean = pixels[22 : 22 + 292, left : left + 292]
    assert np.abs(mean.mean(axis=(0, 1)) - train.mean(axis=(0, 1, 2))).max() < 1


# Processes, interruption and company


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(preparation, "_SHARD_PICTURES", 8)


TWO_SHAPES = (16, 16, 3), (12, 20, 1)


@pytest.fixture(scope="module")
def broken_pictures(pictures, tmp_path_factory):
    folder = shutil.copytree(pictures, tmp_path_factory.mktemp("broken") / "cats")
    _break(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(broken_pictures, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "_SHARD_PICTURES", 8)
        _prepare(broken_pictures, data_dir, *TWO_SHAPES, options={"max_skipped": 0.5})
    tree = _tree(data_dir)
    assert sum("array_record" in name for name in tree) >= 12
    return tree


def _prepare_both(folder, data_dir, **options):
    return _prepare(folder, data_dir, *TWO_SHAPES, options={"max_skipped": 0.5} | options)


@pytest.mark.usefixtures("small_shards")
def test_processes_write_the_same_bytes(broken_pictures, undisturbed, data_dir, monkeypatch):
    monkeypatch.setattr(preparation, "_WORTH_A_PROCESS", 1)
    _prepare_both(broken_pictures, data_dir, processes=2)
    assert _tree(data_dir) == undisturbed


class Interruption(BaseException):
    """As KeyboardInterrupt, but for pytest."""


def _interrupt_at(monkeypatch, owner, name, number):
    """Raises instead of the call of that number; returns the calls so far."""
    method, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise Interruption
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def _interrupted(folder, data_dir, owner, name, number):
    with pytest.MonkeyPatch.context() as patch:
        _interrupt_at(patch, owner, name, number)
        try:
            _prepare_both(folder, data_dir)
        except Interruption:
            return True
    return False


@pytest.mark.usefixtures("small_shards")
def test_it_goes_on_after_each_shard(broken_pictures, undisturbed, data_dir, capsys):
    interruptions = 0
    while _interrupted(broken_pictures, data_dir, shards, "_write_shard", 2):
        interruptions += 1
        assert _published(data_dir) == []
        assert interruptions < 20
    assert interruptions >= 5
    assert _tree(data_dir) == undisturbed
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Goes on after 8 of 51")]


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("number", [1, 8, 30, 51])
def test_it_goes_on_within_a_shard(broken_pictures, undisturbed, data_dir, number):
    source = _open(broken_pictures)
    read = []

    def interrupted(name):
        read.append(name)
        if len(read) == number:
            raise Interruption
        return source.read(name)

    disturbed = dataclasses.replace(source, read=interrupted)
    with pytest.raises(Interruption):
        _prepare_both(disturbed, data_dir)
    _prepare_both(disturbed, data_dir)
    assert _tree(data_dir) == undisturbed
    assert len(read) <= 51 + 8


@pytest.mark.parametrize("method", ["rename", "replace"])
@pytest.mark.usefixtures("small_shards")
def test_it_goes_on_from_between_any_two_changes_on_the_disk(broken_pictures, undisturbed, tmp_path, method):
    with pytest.MonkeyPatch.context() as patch:
        calls = _interrupt_at(patch, Path, method, None)
        _prepare_both(broken_pictures, tmp_path / "counted")
    assert len(calls) >= 2
    for number in [*range(1, len(calls) - 3, 12), *range(len(calls) - 3, len(calls) + 1)]:
        data_dir = tmp_path / str(number)
        assert _interrupted(broken_pictures, data_dir, Path, method, number)
        for config in _published(data_dir):
            prefix = f"cats/{config}/"
            published = {f"{prefix}{name}": content for name, content in _tree(data_dir / prefix).items()}
            assert published == {name: content for name, content in undisturbed.items() if name.startswith(prefix)}
        _prepare_both(broken_pictures, data_dir)
        assert _tree(data_dir) == undisturbed
        shutil.rmtree(data_dir)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("number", [2, 3])
def test_a_replacement_goes_on_from_between_its_renames(pictures, broken_pictures, undisturbed, data_dir, number):
    _prepare(pictures, data_dir, *TWO_SHAPES)
    rename, renames = Path.rename, []

    def counted(path, target):
        renames.append(target.name == "1.0.0" or path.name == "1.0.0")
        if sum(renames) == number:
            raise Interruption
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(Path, "rename", counted)
        _prepare_both(broken_pictures, data_dir, replace=True)
    _prepare_both(broken_pictures, data_dir, replace=True)
    assert _tree(data_dir) == undisturbed


@pytest.mark.usefixtures("small_shards")
def test_one_of_the_shapes_that_were_begun_goes_on_alone(broken_pictures, undisturbed, data_dir):
    assert _interrupted(broken_pictures, data_dir, shards, "_write_shard", 4)
    _prepare(broken_pictures, data_dir, TWO_SHAPES[1], options={"max_skipped": 0.5})
    expected = {name: content for name, content in undisturbed.items() if name.startswith("cats/12x20_grey/")}
    assert _tree(data_dir) == expected


@pytest.mark.usefixtures("small_shards")
def test_a_question_after_what_is_prepared_keeps_what_is_begun(broken_pictures, data_dir, capsys):
    _prepare(broken_pictures, data_dir, options={"max_skipped": 0.5})
    assert _interrupted(broken_pictures, data_dir, shards, "_write_shard", 4)
    _prepare(broken_pictures, data_dir, options={"max_skipped": 0.5})
    _prepare_both(broken_pictures, data_dir)
    assert "Goes on after 24 of 51 pictures" in capsys.readouterr().out


@pytest.mark.usefixtures("small_shards")
def test_a_wrong_option_keeps_what_is_begun(broken_pictures, data_dir, capsys):
    assert _interrupted(broken_pictures, data_dir, shards, "_write_shard", 4)
    assert "--detector=no_such:find" in _error(broken_pictures, data_dir, *TWO_SHAPES, detector="no_such:find")
    _prepare_both(broken_pictures, data_dir)
    assert "Goes on after 24 of 51 pictures" in capsys.readouterr().out


@pytest.mark.usefixtures("small_shards")
def test_a_wrong_option_is_told_before_any_process_starts(pictures, tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(preparation, "_WORTH_A_PROCESS", 1)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("name,x,y,w,h\n000.png,1,2,3,4\n")
    message = _error(pictures, data_dir, boxes=boxes, options={"processes": 2})
    assert "expected name, left, top, width, height" in message


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("change", ["added", "renamed", "other_size"])
def test_a_changed_folder_begins_anew(pictures, tmp_path, data_dir, change, capsys):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    assert _interrupted(folder, data_dir, shards, "_write_shard", 4)
    if change == "added":
        (folder / "new.png").write_bytes(_encode(_pixels(1)))
    elif change == "renamed":
        (folder / "011.png").rename(folder / "new.png")
    else:
        (folder / "011.png").write_bytes(_encode(_pixels(1, 60, 60)))
    _prepare_both(folder, data_dir)
    assert "of other pictures, sizes or settings: begins anew" in capsys.readouterr().out
    _prepare_both(folder, tmp_path / "fresh")
    assert _tree(data_dir) == _tree(tmp_path / "fresh")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("plan", [None, "", '{"fingerprint": 1, "shapes": 2}'])
def test_a_staging_folder_of_somebody_else_is_cleared(broken_pictures, undisturbed, data_dir, plan):
    staging = data_dir / "cats/incomplete"
    (staging / "16/whole").mkdir(parents=True)
    for name in ("shard_00000.json", "16_00000.array_record", "16/whole/cats-train.array_record-00000-of-00004"):
        (staging / name).write_text("nonsense")
    if plan is not None:
        (staging / "plan.json").write_text(plan)
    _prepare_both(broken_pictures, data_dir)
    assert _tree(data_dir) == undisturbed


@pytest.mark.usefixtures("small_shards")
def test_parts_that_a_killed_process_left_are_removed(broken_pictures, data_dir):
    """They may be what fills the disk."""
    assert _interrupted(broken_pictures, data_dir, shards, "_write_shard", 4)
    part = data_dir / "cats/incomplete/16_00003.array_record.99999999.part"
    part.write_bytes(bytes(1000))
    assert _interrupted(broken_pictures, data_dir, shards, "_write_shard", 2)
    assert (data_dir / "cats/incomplete").is_dir()
    assert not part.exists()


def test_a_second_process_waits_for_the_first(pictures, data_dir, capsys):
    (data_dir / "cats").mkdir()
    failed = []

    def second():
        try:
            _prepare(pictures, data_dir)
        except BaseException as error:
            failed.append(error)

    with (data_dir / "cats/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        for _ in range(100):
            time.sleep(0.02)
            if said := capsys.readouterr().out:
                break
        assert said == "Waits for another process that prepares cats\n"
        time.sleep(0.2)
        assert sorted(path.name for path in (data_dir / "cats").iterdir()) == [".lock"]
        fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join(20)
    assert not failed
    assert _published(data_dir) == ["16"]


def test_two_at_once_do_the_work_once(pictures, tmp_path, data_dir, capsys):
    source = _open(pictures)
    read, first_reads = [], threading.Event()

    def slow(name):
        read.append(name)
        first_reads.set()
        time.sleep(0.005)
        return source.read(name)

    slow_source = dataclasses.replace(source, read=slow)
    thread = threading.Thread(target=_prepare, args=(slow_source, data_dir))
    thread.start()
    assert first_reads.wait(20)
    _prepare(slow_source, data_dir)
    thread.join(20)
    assert sorted(read) == sorted(source.files)
    assert "Already prepared" in capsys.readouterr().out
    _prepare(pictures, tmp_path / "alone")
    assert _tree(data_dir) == _tree(tmp_path / "alone")
