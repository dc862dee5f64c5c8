"""The batches for training and evaluation.

Grain makes them. Training's batch k depends on the seed and k alone: a resumed run needs no state but its step, and any
number of hosts read parts of the same batches.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import grain
import numpy as np

from rvae_jax.config import Config, DataConfig
from rvae_jax.data import images as pixels
from rvae_jax.data.pixels import evenly_spaced, to_float
from rvae_jax.data.records import DamagedError
from rvae_jax.errors import UserError

_THREADS = min(os.cpu_count() or 1, 16)

ImageSource = Sequence[np.ndarray]  # uint8 images [h, w, c] of any size; one that cannot be read raises DamagedError


def preprocess(image: np.ndarray, image_shape: tuple[int, int, int], crop: tuple[int, int] | None) -> np.ndarray:
    """Cuts the middle out of an image, scales it without aliasing, and makes it grey or RGB as the model's images are.

    Nothing is distorted: the largest box of the model's aspect ratio is cut out of the crop.

    Args:
      image: ``[h, w, c]``, uint8.
      image_shape: the model's (height, width, channels).
      crop: (height, width) of the centre crop, or None for the entire image.

    Returns:
      ``[height, width, channels]``, uint8.

    Raises:
      UserError: the crop is larger than the image, or the channels are not 1 or 3 where they differ.
    """
    h, w, c = image.shape
    height, width, channels = image_shape
    if crop is not None and (crop[0] > h or crop[1] > w):
        raise UserError(f"data.crop={crop}: larger than an image of {h}x{w}; expected at most that, or None")
    if c != channels and {c, channels} != {1, 3}:
        raise UserError(f"model.image_shape={image_shape}: {channels} channels for images of {c}; expected 1 or 3")

    image = pixels.cut(image, pixels.centre_crop(h, w, crop, height, width))
    if image.shape[:2] != (height, width):
        image = pixels.resize(image, height, width)
    return pixels.with_channels(image, channels)


def train_batches(
    source: ImageSource, config: Config, start_step: int = 0, host: int = 0, hosts: int = 1
) -> Iterator[np.ndarray]:
    """Endless batches for training, from step ``start_step`` on; batch k is a function of ``config.seed`` and k alone.

    Each epoch has every image once, in an order of its own, and mirrored anew. An epoch may begin within a batch. Host
    i of n reads the i-th of n equal parts of each batch, and nothing else. An image that cannot be read is replaced by
    the next one that can be; ``source.damaged`` counts them.

    Args:
      source: the images.
      config: its seed, batch size, image shape and ``data``.
      start_step: step of the first batch.
      host: index of this host.
      hosts: number of hosts.

    Returns:
      An iterator of uint8 ``[batch_size / hosts, height, width, channels]``; see ``to_float``.

    Raises:
      UserError: there are fewer images than in a batch, the hosts cannot share it equally, or see ``preprocess``.
    """
    if len(source) < config.batch_size:
        raise UserError(
            f"batch_size={config.batch_size}: more than the {len(source)} images of data.train_split"
            f"={config.data.train_split}; take a smaller batch or more images"
        )
    if config.batch_size % hosts:
        raise UserError(f"batch_size={config.batch_size}: expected a multiple of the {hosts} hosts")
    _check_settings(source, config)
    images = _Replacing(source)
    part_size = config.batch_size // hosts

    # Grain's unit is a part of a batch: for each unit it takes ten times as long as reading an image.
    def read(position: int, indices: np.ndarray) -> np.ndarray:
        step, part = divmod(position, hosts)
        draws = np.random.default_rng((config.seed, step)).random((config.batch_size, 4))
        batch = np.empty((part_size, *config.model.image_shape), np.uint8)
        for row, index in enumerate(indices):
            image = preprocess(images[index], config.model.image_shape, config.data.crop)
            batch[row] = _augment(image, draws[part * part_size + row], config.data)
        return batch

    order = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat()
    parts = order.batch(part_size, drop_remainder=True).map_with_index(read)
    return iter(parts[start_step * hosts + host :: hosts].to_iter_dataset(_read_options(source)))


def eval_batches(
    source: ImageSource, config: Config, batch_size: int, host: int = 0, hosts: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every image once, in order; the last batch is padded. All hosts get the same number of batches.

    Args:
      source: the images.
      config: its image shape and ``data.crop``.
      batch_size: images in a batch over all hosts; a multiple of ``hosts``.
      host: index of this host, which gets its part of each batch.
      hosts: number of hosts.

    Returns:
      An iterator of images, float32 ``[batch_size / hosts, height, width, channels]`` in [-1, 1], and a mask, bool
      ``[batch_size / hosts]``, that is False for padding and for images that cannot be read.

    Raises:
      UserError: see ``preprocess``.
    """
    _check_settings(source, config)
    part_size = batch_size // hosts

    def read(position: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((part_size, *config.model.image_shape), np.uint8)
        mask = np.zeros(part_size, bool)
        first = position * part_size
        for row in range(min(part_size, len(source) - first)):
            with contextlib.suppress(DamagedError):
                images[row] = preprocess(source[first + row], config.model.image_shape, config.data.crop)
                mask[row] = True
        return to_float(images), mask

    parts = grain.MapDataset.range(-(-len(source) // batch_size) * hosts).map(read)[host::hosts]
    return iter(parts.to_iter_dataset(_read_options(source)))


def evenly_spaced_images(source: ImageSource, limit: int) -> ImageSource:
    """The images, or ``limit`` of them, evenly spaced; ``source.damaged`` goes on counting."""
    return source if len(source) <= limit else _Subset(source, evenly_spaced(limit, len(source)))


def mean_image(source: ImageSource, config: Config, limit: int = 4096) -> np.ndarray:
    """Mean of the preprocessed images, or of at most ``limit`` of them, evenly spaced.

    Args:
      source: the images.
      config: its image shape and ``data.crop``.
      limit: the largest number of images to read.

    Returns:
      ``[height, width, channels]``, float32 in [-1, 1].

    Raises:
      UserError: see ``preprocess``.
    """
    _check_settings(source, config)
    images = _Replacing(source)
    stride = -(-len(source) // limit)
    total = np.zeros(config.model.image_shape, np.float64)
    with ThreadPoolExecutor(_THREADS) as pool:
        indices = range(0, len(source), stride)
        for image in pool.map(lambda i: preprocess(images[i], config.model.image_shape, config.data.crop), indices):
            total += image
    return (total / len(indices) / 127.5 - 1).astype(np.float32)


def _read_options(source: ImageSource) -> grain.ReadOptions:
    """How batches are read ahead; Grain's defaults would hold 500 of them.

    Images are decoded in threads, without Python's lock. Raw pixels need so little work without it that more threads
    are slower: 2 are 0.9 times as fast as 1, and 4 are 0.6 times.
    """
    threads = 1 if getattr(source, "is_raw", False) else _THREADS
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * _THREADS)


class _Subset(Sequence):
    """Images of given indices."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self._source, self._indices = source, indices
        self.is_raw = getattr(source, "is_raw", False)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._source[int(self._indices[index])]


class _Replacing(Sequence):
    """Images; one that cannot be read is replaced by the next one that can be."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        for other in range(index, index + len(self)):
            with contextlib.suppress(DamagedError):
                return self._source[other % len(self)]
        raise UserError(f"none of the {len(self)} images of the training split can be read; prepare them again")


def _check_settings(source: ImageSource, config: Config) -> None:
    """Raises the UserError of a wrong setting now, and not in a thread."""
    preprocess(_Replacing(source)[0], config.model.image_shape, config.data.crop)


def _augment(image: np.ndarray, draws: np.ndarray, data: DataConfig) -> np.ndarray:
    """Mirrors, zooms and shifts an image, as four numbers in [0, 1) decide."""
    if data.flip and draws[0] < 0.5:
        image = cv2.flip(image, 1).reshape(image.shape)
    if data.jitter:
        zoom, shift = 1 + data.jitter * (2 * draws[1] - 1), data.jitter * (draws[2:] - 0.5)
        image = zoom_and_shift(image, zoom, shift)
    return image


def zoom_and_shift(image: np.ndarray, zoom: float, shift: np.ndarray) -> np.ndarray:
    """Zooms about the centre and shifts; the image is mirrored beyond its border.

    Args:
      image: ``[h, w, c]``, uint8.
      zoom: above 1 enlarges.
      shift: to the right and down, ``[2]``, as shares of the width and the height.

    Returns:
      ``[h, w, c]``, uint8.
    """
    size = np.array(image.shape[1::-1])  # x before y, as OpenCV has it
    centre = (size - 1) / 2
    matrix = np.column_stack([np.eye(2) * zoom, centre + shift * size - zoom * centre])
    moved = cv2.warpAffine(image, matrix, tuple(size.tolist()), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return moved.reshape(image.shape)
