"""The images of a prepared data set, read from array_record files when asked for. TensorFlow is not needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from rvae_jax.errors import UserError, one_line

MAX_DAMAGED = 0.01  # share of a split's images


class DamagedError(Exception):
    """An image that cannot be read."""


class Images(Sequence):
    """The images of a split.

    TFDS would decode every feature of an example in Python: for CelebA with its 50 labels that takes 1 ms besides the
    picture, in one thread at a time.

    Attributes:
      is_raw: whether the images are stored as pixels, which need no decoding.
      damaged: the images that could not be read so far, each with the reason.
    """

    def __init__(self, where: str, records: Sequence[bytes], feature: tfds.features.FeatureConnector) -> None:
        self._where = where
        self._records = records
        self._shape = feature.shape
        self.is_raw = not isinstance(feature, tfds.features.Image)
        self._lock = threading.Lock()
        self.damaged: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        """An image, ``[h, w, c]`` uint8.

        Raises:
          DamagedError: it cannot be read.
          UserError: more than a share ``MAX_DAMAGED`` of the images cannot be read.
          IndexError: there is no such image.
        """
        index = range(len(self))[index]  # raises the IndexError, by which iteration ends
        try:
            return self._read(index)
        except MemoryError:
            raise
        except Exception as error:  # of the format of the file, the example or the image
            reason = one_line(error)
            with self._lock:
                self.damaged[index] = reason
                count = len(self.damaged)
        if count > max(1, MAX_DAMAGED * len(self)):
            raise UserError(
                f"{self._where} is damaged: {count:,} of {len(self):,} images cannot be read so far, expected at most"
                f" {MAX_DAMAGED:.0%}; the last: {reason}. Delete the folder and prepare it again"
            )
        raise DamagedError(f"{self._where}: image {index} cannot be read: {reason}")

    def attributes(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """The labels of these images that are true or false: name to bool ``[n]``; most data sets have none.

        A label is one if all its values are 0 and 1, or -1 and 1, and it has both.
        """
        columns: dict[str, list[int]] = {}
        for index in indices:
            features = tf_example_pb2.Example.FromString(self._records[index]).features.feature
            for name, value in features.items():
                if name.startswith("attributes/") and len(value.int64_list.value) == 1:
                    columns.setdefault(name.removeprefix("attributes/"), []).append(value.int64_list.value[0])
        return {
            name: np.array(values) > 0
            for name, values in sorted(columns.items())
            if len(values) == len(indices) and set(values) in ({0, 1}, {-1, 1})
        }

    def _read(self, index: int) -> np.ndarray:
        try:
            return self._decode(self._records[index])
        except Exception:
            if index in self.damaged:
                raise
        return self._decode(self._records[index])  # a file server may have failed for a moment

    def _decode(self, record: bytes) -> np.ndarray:
        example = tf_example_pb2.Example.FromString(record)
        content = example.features.feature["image"].bytes_list.value[0]
        pixels = np.frombuffer(content, np.uint8)
        if self.is_raw:
            return pixels.reshape(self._shape)
        _require_whole_chunks(content)
        grey = self._shape[-1] == 1
        colour = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
        image = cv2.imdecode(pixels, colour | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise ValueError("not a JPEG or PNG")
        return image[:, :, None] if grey else image


def _require_whole_chunks(content: bytes) -> None:
    """Raises a ValueError if a PNG ends within a chunk: OpenCV would make room for all bytes that the chunk claims."""
    kind, place = b"", 8 if content.startswith(b"\x89PNG\r\n\x1a\n") else len(content)
    while place < len(content) and kind != b"IEND":  # perhaps with something behind it
        kind = content[place + 4 : place + 8]
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    if place > len(content):
        raise ValueError("a PNG that ends within a chunk")


def open_prepared(folder: Path, split: str) -> Images:
    """Opens a split of the data set in ``folder``; see ``open_split``."""
    return open_split(tfds.core.read_only_builder.builder_from_directory(folder), split, str(folder))


def open_split(builder: tfds.core.DatasetBuilder, split: str, where: str) -> Images:
    """Opens a split of a prepared data set.

    Args:
      builder: of the data set.
      split: a split or a slice of one in TFDS's syntax, ``train[80%:]``.
      where: what the data set is called in errors.

    Returns:
      The images in the order of the files.

    Raises:
      UserError: it has no usable feature ``image``, no images in that split, or a file is missing or incomplete.
    """
    info = builder.info
    features = dict(info.features.items())
    feature = features.get("image")
    if not _is_usable(feature):
        found = ", ".join(f"{name} {value}" for name, value in features.items())
        raise UserError(f"{where} has the features {found}; expected image, a grey or RGB uint8 Image")
    try:
        count, reason = info.splits[split].num_examples, "no images"
    except ValueError as error:
        count, reason = 0, str(error).splitlines()[-1]
    if count < 1:  # TFDS counts the slice train[9:5] as -4
        splits = ", ".join(f"{name} ({value.num_examples} images)" for name, value in info.splits.items())
        raise UserError(f"{where}: split {split!r}: {reason}; expected one of {splits}, or a slice such as train[:90%]")
    records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES).data_source
    for instruction in info.splits[split].file_instructions:
        _require_complete(Path(instruction.filename), instruction.examples_in_shard, where)
    return Images(where, records, feature)


def count_records(path: Path) -> int:
    """How many records an array_record file has; 0 if it is damaged."""
    reader = array_record_module.ArrayRecordReader(str(path), options="readahead_buffer_size:0")
    count = reader.num_records() if reader.ok() else 0
    with contextlib.suppress(RuntimeError):  # a reader that is not ok raises it
        reader.close()
    return count


def _is_usable(feature: tfds.features.FeatureConnector | None) -> bool:
    if not isinstance(feature, tfds.features.Image | tfds.features.Tensor) or feature.np_dtype != np.uint8:
        return False
    is_raw = not isinstance(feature, tfds.features.Image)
    return len(feature.shape) == 3 and feature.shape[-1] in (1, 3) and not (is_raw and None in feature.shape)


def _require_complete(path: Path, count: int, where: str) -> None:
    if not path.is_file():
        raise UserError(f"{where} is incomplete: no {path}; delete the folder and prepare it again")
    there = count_records(path)
    if there != count:
        raise UserError(
            f"{where} is incomplete: {path} has {there:,} of {count:,} images; delete the folder and prepare it again"
        )
