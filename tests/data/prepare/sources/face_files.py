"""Files such as the face data sets have, and what is prepared from them."""

import dataclasses
import hashlib
import io
import itertools
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources.named import open_named
from rvae_jax.data.prepare.sources.source import SPLITS
from rvae_jax.errors import UserError

ATTRIBUTES = [f"Attribute_{i}" for i in range(38)] + ["Male", "Young"]


def make_jpeg(seed, h, w):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def claim(monkeypatch, name, files):
    """Lets TFDS expect these files, instead of the real ones of the same names."""
    builder = tfds.builder_cls(name)
    infos = {
        url: dataclasses.replace(info, size=len(content), checksum=hashlib.sha256(content).hexdigest())
        for url, info in builder.url_infos.items()
        for content in [files[info.filename]]
    }
    monkeypatch.setattr(builder, "url_infos", infos)
    return infos


def prepare_named(name, data_dir, *shapes, path=None, **settings):
    settings = PreparationSettings(shapes=shapes or ((16, 16, 3),), **settings)
    with open_named(name, path, data_dir, max(shape[0] for shape in settings.shapes)) as source:
        preparation.prepare(source, settings, "them", data_dir, processes=1)
    return source


def examples_of(data_dir, config="16"):
    return {split: list(tfds.data_source(f"them/{config}", split=split, data_dir=data_dir)) for split in SPLITS}


def examples_by_name(data_dir, config="16"):
    rows = itertools.chain(*examples_of(data_dir, config).values())
    return {row["name"].decode(): row for row in rows}


def error_of(call, *args, **kwargs):
    with pytest.raises(UserError) as info:
        call(*args, **kwargs)
    return str(info.value)


def make_tar_of(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
