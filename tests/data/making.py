"""Pictures, data sets that are made of them, and what is read from these: for the tests of the preparation."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources import tables
from rvae_jax.data.prepare.sources.opening import open_path
from rvae_jax.data.prepare.sources.source import SPLITS, Source
from rvae_jax.errors import UserError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_pixels(seed, h=40, w=50):
    """Smooth, so that formats with losses lose little; different for each seed."""
    coarse = noise(4, 4, 3, seed=seed)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))


def encode(pixels, format="PNG", **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def fill(folder, count=40, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        (folder / f"{i:03d}.png").write_bytes(encode(make_pixels(i)))
    return folder


def add_broken(folder):
    """Puts broken pictures into the folder; returns name to a part of the reason."""
    jpeg, png = encode(make_pixels(1), "JPEG"), encode(make_pixels(1))
    broken = {
        "empty.jpg": (b"", "empty file"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "half.png": (png[: len(png) // 2], "cannot be decoded"),
        "zeros.jpg": (jpeg[: len(jpeg) // 2] + bytes(500), "ends in zeros"),
        "html.jpg": (b"<!DOCTYPE html>", "not recognised"),
        "gif.png": (encode(make_pixels(1), "GIF"), "not recognised"),
        "float.tif": (encode(np.zeros((40, 50), np.float32), "TIFF"), "floating-point"),
        "tiny.png": (encode(make_pixels(1, 5, 5)), "too small"),
        "sub,\n\"odd'/new.jpg": (b"x", "not recognised"),
        "caf\udce9.jpg": (b"x", "not recognised"),
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


def open_pictures(folder, labels=None, **changes):
    source = open_path(folder, Path("/nowhere"))
    if labels:
        changes["labels"] = {"attributes": tables.read_table(labels, source.files)}
    return dataclasses.replace(source, **changes)


def prepare(folder, data_dir, *shapes, options=None, labels=None, **settings):
    """Prepares the data set ``cats`` of a folder or a source, in this process."""
    source = folder if isinstance(folder, Source) else open_pictures(folder, labels)
    settings = PreparationSettings(shapes=shapes or ((16, 16, 3),), **settings)
    return preparation.prepare(source, settings, "cats", data_dir, **({"processes": 1} | (options or {})))


def user_error(call, *args, **kwargs):
    """The message of the UserError that a call raises: one line."""
    with pytest.raises(UserError) as info:
        call(*args, **kwargs)
    message = str(info.value)
    assert message
    assert "\n" not in message
    return message


def prepare_error(*args, **kwargs):
    return user_error(prepare, *args, **kwargs)


SMALL_SHARDS = {"shard_pictures": 8}  # a short run then has all the states of a long one
TWO_SHAPES = (16, 16, 3), (12, 20, 1)


def prepare_two(folder, data_dir, **options):
    """Prepares two sizes in small shards."""
    return prepare(folder, data_dir, *TWO_SHAPES, options={"max_skipped": 0.5} | SMALL_SHARDS | options)


class Interruption(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


def interrupted_at(source, number, error=Interruption):
    """A source of which the read of that number raises an error."""
    reads = []

    def read(name):
        reads.append(name)
        if len(reads) == number:
            raise error
        return source.read(name)

    return dataclasses.replace(source, read=read)


def prepare_in_part(folder, data_dir, shards):
    """Prepares ``shards`` shards of two sizes; returns whether there was more to do."""
    source = interrupted_at(open_pictures(folder), 8 * shards + 1)
    try:
        prepare_two(source, data_dir)
    except Interruption:
        return True
    return False


def read_examples(data_dir, config="16"):
    name = f"cats/{config}"
    return {split: list(tfds.data_source(name, split=split, data_dir=data_dir)) for split in SPLITS}


def read_images(data_dir, config="16"):
    """By name; a name is the bytes of the file's."""
    return {row["name"]: row["image"] for rows in read_examples(data_dir, config).values() for row in rows}


def read_rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def read_tree(folder):
    """Every file's bytes, except the lock's."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def published(data_dir):
    return sorted(path.parent.name for path in data_dir.glob("cats/*/1.0.0"))


def area_average(image, height, width):
    """Exact average of the part of the image under each new pixel."""

    def weights(new, old):
        edges = np.arange(new + 1) * old / new
        overlap = np.minimum(edges[1:, None], np.arange(old) + 1) - np.maximum(edges[:-1, None], np.arange(old))
        return np.maximum(overlap, 0) * new / old

    rows, columns = weights(height, image.shape[0]), weights(width, image.shape[1])
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)
