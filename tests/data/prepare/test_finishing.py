import csv
import hashlib
import itertools
import shutil
import unicodedata

import numpy as np
import pytest
import tensorflow_datasets as tfds
from making import (
    encode,
    fill,
    make_pixels,
    prepare,
    prepare_error,
    published,
    read_examples,
    read_images,
    read_rows,
    read_tree,
)
from PIL import Image
from tensorflow_datasets.core.utils import file_utils

from rvae_jax.data.prepare.sources.source import SPLITS, order_key


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_tfds_reads_it(pictures, data_dir, encoding):
    (folder,) = prepare(pictures, data_dir, (20, 25, 3), encoding=encoding)
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

    by_source, by_builder = read_examples(data_dir, "20x25"), builder.as_data_source()
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
            prepare(pictures, tmp_path / encoding, shape, encoding=encoding, options={"replace": True})
        images.append(read_images(tmp_path / encoding) | read_images(tmp_path / encoding, "16_grey"))
    for name in images[0] | images[1]:
        np.testing.assert_array_equal(images[0][name], images[1][name])


def test_labels_keep_their_values_and_types(pictures, tmp_path, data_dir):
    rows = [(f"{i:03d}.png", i % 2, "True" if i % 3 else "false", -(1 << 40) + i, i / 8, f"né {i}") for i in range(40)]
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "smiles", "young", "id", "score", "who"), *rows])
    prepare(pictures, data_dir, labels=tmp_path / "labels.csv")
    features = tfds.builder("cats/16", data_dir=data_dir).info.features["attributes"]
    assert [features[key].np_dtype for key in ("smiles", "young", "id", "score")] == [bool, bool, np.int64, np.float32]
    assert isinstance(features["who"], tfds.features.Text)
    examples = list(itertools.chain(*read_examples(data_dir).values()))
    assert len(examples) == 40
    for example in examples:
        labels, row = example["attributes"], rows[int(example["name"][:3])]
        found = [labels[key] for key in ("smiles", "young", "id", "score")]
        assert found == [bool(row[1]), row[2] == "True", row[3], row[4]]
        assert labels["who"].decode() == row[5]


def test_a_picture_without_labels_is_skipped(pictures, tmp_path, data_dir, capsys):
    rows = "".join(f"{i:03d}.png,1.5\n" for i in range(39))
    (tmp_path / "labels.csv").write_text(f"name,score\n{rows}")
    (folder,) = prepare(pictures, data_dir, labels=tmp_path / "labels.csv")
    assert read_rows(folder / "skipped.csv")[1:] == [["039.png", "it is not in the attributes"]]
    assert "Skipped: 1 such as 039.png (it is not in the attributes)" in capsys.readouterr().out


def test_order_and_splits_are_those_of_a_hash_of_the_name(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    accented = "é.png"
    (folder / accented).write_bytes(encode(make_pixels(99)))

    def key(name):
        return hashlib.blake2b(unicodedata.normalize("NFC", name).encode(), digest_size=16).digest()

    expected = {split: [] for split in SPLITS}
    for name in sorted((path.name for path in folder.iterdir()), key=key):
        share = int.from_bytes(key(name)[:8], "big") / 2**64
        expected[SPLITS[(share >= 0.8) + (share >= 0.9)]].append(name.encode())
    prepare(folder, data_dir)
    assert {split: [row["name"] for row in rows] for split, rows in read_examples(data_dir).items()} == expected
    assert key(accented) == order_key(unicodedata.normalize("NFD", accented))


def test_bytes_do_not_depend_on_the_order_on_the_disk(pictures, tmp_path):
    backwards = tmp_path / "backwards" / "cats"
    backwards.mkdir(parents=True)
    for path in sorted(pictures.iterdir(), reverse=True):
        shutil.copy2(path, backwards)
    for folder, where in ((pictures, "a"), (backwards, "b")):
        prepare(folder, tmp_path / where)
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b")


def test_folders_train_val_test_are_the_partition(tmp_path, data_dir):
    folder = tmp_path / "split"
    for i, part in enumerate(("train", "val", "test")):
        fill(folder / part, 5, first=10 * i)
    prepare(folder, data_dir)
    for split, part in zip(SPLITS, (b"train/", b"val/", b"test/"), strict=True):
        names = [row["name"] for row in read_examples(data_dir)[split]]
        assert len(names) == 5
        assert all(name.startswith(part) for name in names)


def test_a_split_of_broken_pictures_is_refused(tmp_path, data_dir):
    folder = tmp_path / "split"
    for part in ("train", "val", "test"):
        fill(folder / part, 5)
    for path in (folder / "test").iterdir():
        path.write_bytes(b"broken")
    assert "no picture of the split test" in prepare_error(folder, data_dir, options={"max_skipped": 0.5})
    assert published(data_dir) == []


def test_a_folder_whose_name_is_no_utf8_can_be_prepared(pictures, tmp_path, data_dir):
    prepare(shutil.copytree(pictures, tmp_path / "caf\udce9"), data_dir)
    assert len(read_images(data_dir)) == 40
