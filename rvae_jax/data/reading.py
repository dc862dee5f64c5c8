"""Images for a trained model, from its run's data set or from the user's own pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rvae_jax.config import Config
from rvae_jax.data import catalog, pipeline
from rvae_jax.data.prepare.decode import decode
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.data.prepare.sources import kinds
from rvae_jax.data.prepare.sources.opening import open_path
from rvae_jax.data.prepare.sources.source import UnusableError, is_picture
from rvae_jax.data.prepare.value_range import look, warn_if_narrow
from rvae_jax.data.records import DamagedError, Images
from rvae_jax.errors import UserError

_THREADS = 8
_SPLITS = ("train", "selection", "validation")


def split_name(config: Config, split: str) -> str:
    """A split in TFDS's syntax: that of the run for ``train``, ``selection`` and ``validation``, else ``split``."""
    return getattr(config.data, f"{split}_split") if split in _SPLITS else split


def read_split(config: Config, split: str, limit: int | None = None) -> np.ndarray:
    """Reads images of a run's data set, as its model takes them; those that cannot be read are left out.

    Args:
      config: of the run.
      split: see ``split_name``.
      limit: how many to read, evenly spaced, or None for all.

    Returns:
      uint8, ``[n, H, W, C]``.

    Raises:
      UserError: the data set or the split is not there, or none of its images can be read.
    """
    return read_labelled(config, split, limit)[0]


def count(config: Config, split: str) -> int:
    """How many images a split has.

    Raises:
      UserError: the data set or the split is not there.
    """
    return len(_open(config, split))


def _open(config: Config, split: str) -> Images:
    # A run's configuration has the name that its folder was prepared under; the folder may be gone.
    data = dataclasses.replace(config.data, folder=None if config.data.name else config.data.folder)
    data = prepare_for(dataclasses.replace(config, data=data)).data
    return catalog.load_dataset(data, split_name(config, split))


def read_labelled(config: Config, split: str, limit: int | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """As ``read_split``, with the labels that are true or false: name to bool ``[n]``; most data sets have none."""
    source = _open(config, split)
    count = len(source) if limit is None else min(limit, len(source))

    def read(position: int) -> np.ndarray | None:
        with contextlib.suppress(DamagedError):
            image = source[position * len(source) // count]
            return pipeline.preprocess(image, config.model.image_shape, config.data.crop)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(read, range(count)))
    kept = [position for position, image in enumerate(found) if image is not None]
    if not kept:
        raise UserError(f"data.name={config.data.name}: no image of split {split!r} can be read; prepare it again")
    labels = source.attributes([position * len(source) // count for position in kept])
    return np.stack([found[position] for position in kept]), labels


def read_folder(path: Path, config: Config) -> tuple[list[str], np.ndarray, list[str]]:
    """Reads the pictures of a folder, zip or tar, or a single one, as a run's model takes them.

    They are turned upright, cut to the model's shape (or to the run's ``data.crop``), scaled, and made grey or RGB as
    the model's images are. Pictures of more than 8 bits are mapped by the ``--range`` of the run's data set, where that
    is on this machine; else a line warns if that would make them dark or flat.

    Args:
      path: the pictures.
      config: of the run.

    Returns:
      Names, images (uint8 ``[n, H, W, C]``), and lines that name the unusable pictures with the reasons.

    Raises:
      UserError: there is no usable picture.
    """
    path = path.expanduser()
    if path.is_file() and is_picture(path.name):
        names, read = [path.name], lambda _: path.read_bytes()
        return _decoded(path, names, read, config)
    with tempfile.TemporaryDirectory() as scratch:
        source = open_path(path, Path(scratch))
        if catalog.value_range(config.data) is None:
            warn_if_narrow(source, look(source))
        names, images, skipped = _decoded(path, sorted(source.files), source.read, config)
        left_out = kinds.left_out(source.ignored)
        return names, images, skipped + ([left_out] if left_out else [])


def _decoded(
    path: Path, names: list[str], read: Callable[[str], bytes], config: Config
) -> tuple[list[str], np.ndarray, list[str]]:
    found, images, skipped = [], [], []
    value_range = catalog.value_range(config.data)
    for name in names:
        try:
            picture = decode(read(name), value_range=value_range).pixels
            crop = config.data.crop
            if crop is not None and (crop[0] > picture.shape[0] or crop[1] > picture.shape[1]):
                raise UnusableError(f"smaller than data.crop={crop}")
            images.append(pipeline.preprocess(picture, config.model.image_shape, crop))
            found.append(name)
        except (UnusableError, OSError) as error:
            skipped.append(f"{name}: {error}")
    if not images:
        raise UserError(f"{path}: no usable picture; {skipped[0] if skipped else 'expected JPEG, PNG, ...'}")
    return found, np.stack(images), skipped
