import os
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from making import noise, user_error
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from rvae_jax.data import records
from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources.opening import open_path
from rvae_jax.data.prepare.sources.source import SPLITS
from rvae_jax.data.records import DamagedError, Images
from rvae_jax.errors import UserError

SHAPES = ((12, 10, 3), (12, 10, 1))
COUNT = 40


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """By name: at the size that they are prepared at, and so unchanged. One is not what its suffix says."""
    folder = tmp_path_factory.mktemp("pictures")
    found = {f"{i}.png": noise(12, 10, 3, seed=i) for i in range(COUNT)}
    for name, pixels in found.items():
        Image.fromarray(pixels).save(folder / name, "BMP" if name == "0.png" else "PNG")
    return folder, found


@pytest.fixture(scope="module")
def prepared(pictures, tmp_path_factory):
    """By encoding and number of channels, the folder."""
    data_dir = tmp_path_factory.mktemp("data")
    source = open_path(pictures[0], data_dir / "scratch")
    folders = {}
    for encoding in ("raw", "png"):
        made = preparation.prepare(source, PreparationSettings(SHAPES, encoding=encoding), f"cats_{encoding}", data_dir)
        folders |= {(encoding, shape[2]): folder for shape, folder in zip(SHAPES, made, strict=True)}
    return folders


@pytest.fixture
def own(prepared, tmp_path):
    """A copy that a test may damage."""

    def copy(encoding="raw", channels=3):
        folder = prepared[encoding, channels]
        target = tmp_path / Path(*folder.parts[-3:])
        shutil.copytree(folder, target)
        return target

    return copy


def _shard(folder, split="train"):
    (path,) = folder.glob(f"*-{split}.array_record-*")
    return path


# Complete


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_images_are_those_of_tfds_and_of_the_pictures(encoding, channels, prepared, pictures):
    folder = prepared[encoding, channels]
    seen = 0
    for split in SPLITS:
        images = records.open_prepared(folder, split)
        assert images.is_raw == (encoding == "raw")
        by_tfds = tfds.builder_from_directory(folder).as_data_source(split)
        assert len(images) == len(by_tfds)
        for image, example in zip(images, by_tfds, strict=True):
            assert image.dtype == np.uint8
            assert image.shape == (12, 10, channels)
            np.testing.assert_array_equal(image, example["image"])
            picture = pictures[1][example["name"].decode()]
            expected = picture if channels == 3 else picture @ [0.299, 0.587, 0.114]
            assert np.abs(image.reshape(expected.shape) - expected).max() <= (0 if channels == 3 else 0.51)
            seen += 1
        assert not images.damaged
    assert seen == COUNT


def test_raw_and_png_are_the_same_images(prepared):
    for channels in (1, 3):
        raw, png = (records.open_prepared(prepared[encoding, channels], "train") for encoding in ("raw", "png"))
        np.testing.assert_array_equal(np.stack(list(raw)), np.stack(list(png)))


def test_indices_count_from_either_end(prepared):
    images = records.open_prepared(prepared["raw", 3], "train")
    np.testing.assert_array_equal(images[-1], images[len(images) - 1])
    for index in (len(images), -len(images) - 1):
        with pytest.raises(IndexError):
            images[index]
    assert not images.damaged


def test_a_slice_of_a_split_has_its_images(prepared):
    whole = np.stack(list(records.open_prepared(prepared["raw", 3], "train")))
    for spec, part in (("train[:5]", slice(5)), ("train[-3:]", slice(-3, None)), ("train[4:9]", slice(4, 9))):
        np.testing.assert_array_equal(np.stack(list(records.open_prepared(prepared["raw", 3], spec))), whole[part])


@pytest.mark.parametrize("split", ["dev", "train[9:5]", "train[:0]", "train[", ""])
def test_a_split_that_is_not_there_is_refused(split, prepared):
    message = user_error(records.open_prepared, prepared["raw", 3], split)
    assert f"split {split!r}" in message
    assert "expected one of train (" in message


# Damaged


def _place(path, index, split="train"):
    """Where the middle of an image's pixels lies in the file."""
    image = records.open_prepared(path.parent, split)[index]
    data = path.read_bytes()
    assert data.count(image.tobytes()) == 1
    return data.index(image.tobytes()) + image.size // 2


def _flip(path, *places):
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_damages_one_image(own):
    folder = own()
    before = list(records.open_prepared(folder, "train"))
    _flip(_shard(folder), _place(_shard(folder), 5))
    images = records.open_prepared(folder, "train")
    with pytest.raises(DamagedError, match=r"1\.0\.0: image 5 cannot be read: .*hash mismatch"):
        images[5]
    assert list(images.damaged) == [5]
    assert "hash mismatch" in images.damaged[5]
    for index in (*range(5), *range(6, len(before))):
        np.testing.assert_array_equal(images[index], before[index])
    assert list(images.damaged) == [5]


def test_more_than_a_few_damaged_images_are_an_error(own):
    folder = own()
    path = _shard(folder)
    _flip(path, *(_place(path, index) for index in (2, 7)))
    images = records.open_prepared(folder, "train")
    for _ in range(3):  # one image, however often it is read
        with pytest.raises(DamagedError):
            images[-len(images) + 7]
    message = user_error(images.__getitem__, 2)
    assert f"{folder} is damaged: 2 of {len(images)} images cannot be read so far, expected at most 1%" in message
    assert "hash mismatch" in message
    assert images.damaged.keys() == {2, 7}
    assert images[3].shape == (12, 10, 3)


def _record(value):
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(value)
    return example.SerializeToString()


RAW = tfds.features.Tensor(shape=(2, 3, 1), dtype=np.uint8, encoding="bytes")


@pytest.mark.parametrize(("count", "allowed"), [(5, 1), (100, 1), (199, 1), (200, 2), (350, 3)])
def test_the_allowed_share_of_damaged_images_is_one_percent(count, allowed):
    images = Images("cats", [_record(b"short")] * count, RAW)
    for index in range(allowed):
        with pytest.raises(DamagedError):
            images[index]
    assert f"cats is damaged: {allowed + 1} of {count} images" in user_error(images.__getitem__, allowed)


class _Failing(list):
    """Records of which each raises an error the first so many times that it is read."""

    def __init__(self, records, error, times):
        super().__init__(records)
        self.error, self.left = error, dict.fromkeys(range(len(records)), times)

    def __getitem__(self, index):
        self.left[index] -= 1
        if self.left[index] >= 0:
            raise self.error
        return super().__getitem__(index)


def test_an_error_that_passes_damages_nothing():
    images = Images("cats", _Failing([_record(bytes(6))] * 3, OSError(5, "Input/output error"), times=1), RAW)
    assert [image.size for image in images] == [6, 6, 6]
    assert images.damaged == {}


def test_lack_of_memory_is_not_damage():
    images = Images("cats", _Failing([_record(bytes(6))], MemoryError(), times=9), RAW)
    with pytest.raises(MemoryError):
        images[0]
    assert images.damaged == {}


def test_damaged_images_are_counted_in_all_threads():
    images = Images("cats", [_record(bytes(6)), b"\xff\xff"] * 400, RAW)
    errors = []

    def read(start):
        for index in range(start, 800, 8):
            try:
                images[index]
            except (DamagedError, UserError) as error:
                errors.append((index, type(error)))

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert images.damaged.keys() == set(range(1, 800, 2))
    assert sorted(index for index, _ in errors) == list(range(1, 800, 2))
    assert [kind for _, kind in errors].count(DamagedError) == 8


def _png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\xff\xff\xff",
        tf_example_pb2.Example().SerializeToString(),
        _record(bytes(5)),
        _record(bytes(7)),
        _record(b""),
    ],
)
def test_a_record_that_is_no_raw_image_is_damaged(record):
    images = Images("cats", [_record(bytes(range(6))), record], RAW)
    np.testing.assert_array_equal(images[0].ravel(), range(6))
    with pytest.raises(DamagedError, match=r"^cats: image 1 cannot be read: .+"):
        images[1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [b"", b"not a picture", _png(noise(20, 30))[:20]])
def test_a_record_that_is_no_png_is_damaged(value, channels):
    pixels = noise(20, 30, channels)
    feature = tfds.features.Image(shape=(20, 30, channels))
    images = Images("cats", [_record(_png(pixels)), _record(value)], feature)
    np.testing.assert_array_equal(images[0], pixels[:, :, ::-1])
    with pytest.raises(DamagedError, match=r"^cats: image 1 cannot be read: .+"):
        images[1]


def test_a_png_whose_chunk_claims_more_than_there_is_takes_no_memory(monkeypatch):
    png = _png(noise(20, 30, 3))
    claimed = png.replace(png[33:41], b"\x7f\xff\xff\xffIDAT")
    images = Images("cats", [_record(png + b"more"), _record(claimed)], tfds.features.Image(shape=(20, 30, 3)))
    np.testing.assert_array_equal(images[0], noise(20, 30, 3)[:, :, ::-1])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DamagedError, match="a PNG that ends within a chunk"):
        images[1]


# Incomplete


def _assert_incomplete(folder, path, found=None):
    message = user_error(records.open_prepared, folder, "train")
    assert message.startswith(f"{folder} is incomplete: ")
    assert str(path) in message
    assert "delete the folder and prepare it again" in message
    if found is not None:
        assert f"{path} has {found} images" in message
    assert len(records.open_prepared(folder, "test")) > 0


def test_a_missing_shard_is_refused(own):
    folder = own()
    path = _shard(folder)
    path.unlink()
    _assert_incomplete(folder, path)


@pytest.mark.parametrize("length", [0, 1, 8000, 65536, 70000, 131071])
def test_a_truncated_shard_is_refused(length, own):
    folder = own()
    path = _shard(folder)
    assert path.stat().st_size == 131072
    os.truncate(path, length)
    _assert_incomplete(folder, path)


@pytest.mark.parametrize("length", [8000, 65536])
def test_a_shard_that_ends_in_zeros_is_refused(length, own):
    folder = own()
    path = _shard(folder)
    path.write_bytes(path.read_bytes()[:length] + bytes(131072 - length))
    _assert_incomplete(folder, path)


def test_a_shard_of_something_else_is_refused(own):
    folder = own()
    path = _shard(folder)
    path.write_bytes(noise(131072).tobytes())
    _assert_incomplete(folder, path)


def test_a_shard_with_another_count_is_refused(own):
    folder = own()
    path = _shard(folder)
    there, expected = (len(records.open_prepared(folder, split)) for split in ("validation", "train"))
    assert there < expected
    shutil.copy(_shard(folder, "validation"), path)
    _assert_incomplete(folder, path, f"{there} of {expected}")


# What is no data set of images


@pytest.mark.parametrize(
    "image",
    [
        tfds.features.Image(shape=(4, 4, 4)),
        tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16),
        tfds.features.Tensor(shape=(4, 4, 3), dtype=np.float32),
        tfds.features.Tensor(shape=(None, 4, 3), dtype=np.uint8),
        tfds.features.Tensor(shape=(4, 4), dtype=np.uint8),
        tfds.features.Text(),
        None,
    ],
    ids=lambda feature: repr(feature)[:40],
)
def test_features_that_are_no_images_are_refused(image, own):
    folder = own()
    features = {"name": tfds.features.Text()} | ({"image": image} if image else {})
    (folder / "features.json").unlink()
    tfds.features.FeaturesDict(features).save_config(str(folder))
    message = user_error(records.open_prepared, folder, "train")
    assert message.startswith(f"{folder} has the features ")
    assert "expected image, a grey or RGB uint8 Image" in message
