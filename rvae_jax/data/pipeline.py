"""Images from a TFDS data set, and the batches that training and evaluation see.

Reads TFDS data sets in array_record format, without TensorFlow. Grain makes the batches: training's batch k depends on
the seed and k alone, so that a resumed run needs no other state than its step.
"""

import difflib
import importlib.util
import io
import os
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from rvae_jax.config import Config, DataConfig
from rvae_jax.data import orl
from rvae_jax.errors import UserError

cv2.setNumThreads(0)  # a thread of Grain's makes a whole batch; more threads inside it only get in the way

_THREADS = min(os.cpu_count() or 1, 16)
_READ_OPTIONS = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=2 * _THREADS)  # Grain's own: 500 batches

ImageSource = Sequence[np.ndarray]  # uint8 images [h, w, c] of any size


class Images(Sequence):
    """The images of a prepared data set, read and decoded when asked for.

    TFDS's own decoding goes through every feature of an example in Python: for CelebA with its 50 labels that is 1 ms
    besides the picture, in one thread at a time.
    """

    def __init__(self, where: str, records: Sequence[bytes], channels: int) -> None:
        self._where = where
        self._records = records
        self._channels = channels

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]  # an index beyond the end must be an IndexError, by which iteration ends
        example = tf_example_pb2.Example.FromString(self._records[index])
        encoded = np.frombuffer(example.features.feature["image"].bytes_list.value[0], np.uint8)
        colour = cv2.IMREAD_GRAYSCALE if self._channels == 1 else cv2.IMREAD_COLOR
        image = cv2.imdecode(encoded, colour | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise UserError(f"{self._where}: image {index} cannot be decoded; delete the folder and prepare it again")
        return image[:, :, None] if self._channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def load_dataset(data: DataConfig, split: str) -> Images:
    """Opens a split of the data set that the configuration names; ``orl`` is prepared first where it is missing.

    Args:
      data: the data set's name and folder.
      split: a split or a slice of one in TFDS's syntax, ``train[80%:]``.

    Returns:
      The images in the order of the files, grey ``[h, w, 1]`` or RGB ``[h, w, 3]``.

    Raises:
      UserError: the data set is unknown, not prepared or only in part, not in array_record format, without a feature
        ``image``, or has no images in that split.
    """
    if data.name == "orl":
        orl.prepare(data.data_dir)
    builder = _find_prepared(data)
    info = builder.info
    where = f"data.name={data.name}: the data set in {info.data_dir}"

    if tfds.core.FileFormat.ARRAY_RECORD not in info.available_file_formats():
        command = _prepare_command(data.name, f"{_data_dir(data)}_array_record")
        raise UserError(f"{where} has the format {info.file_format.value}, expected array_record; run {command}")

    features = dict(info.features.items())
    feature = features.get("image")
    if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8 or feature.shape[-1] not in (1, 3):
        found = ", ".join(f"{name} {value}" for name, value in features.items())
        raise UserError(f"{where} has the features {found}; expected image, a grey or RGB uint8 Image")

    try:
        count, reason = info.splits[split].num_examples, "no images"
    except ValueError as error:
        count, reason = 0, str(error).splitlines()[-1]
    if count < 1:  # TFDS counts the slice train[9:5] as -4
        splits = ", ".join(f"{name} ({value.num_examples} images)" for name, value in info.splits.items())
        raise UserError(f"{where}: split {split!r}: {reason}; expected one of {splits}, or a slice such as train[:90%]")

    records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    for file in info.splits[split].file_instructions:
        if not Path(file.filename).is_file():
            raise UserError(f"{where} is incomplete: no {file.filename}; delete the folder and prepare it again")
    return Images(where, records, feature.shape[-1])


def download(name: str, data_dir: str) -> None:
    """Fetches a data set of TFDS and prepares it in array_record format, without TensorFlow.

    All that celeb_a and celeb_a_hq use of TensorFlow are its functions for files, to find and open archives. Where it
    is not installed, Python's own take their place for the rest of the process. Some other data sets do need it.

    Args:
      name: a data set of TFDS, with its configuration where it has some, ``celeb_a_hq/256``.
      data_dir: folder of prepared TFDS data sets.
    """
    if importlib.util.find_spec("tensorflow") is None:
        gfile = types.SimpleNamespace(GFile=_Archive, exists=os.path.exists)
        object.__setattr__(tfds.core.lazy_imports_utils.tensorflow, "io", types.SimpleNamespace(gfile=gfile))
    tfds.builder(name, data_dir=data_dir, file_format="array_record").download_and_prepare()


def preprocess(image: np.ndarray, image_shape: tuple[int, int, int], crop: tuple[int, int] | None) -> np.ndarray:
    """Cuts the middle out of an image, scales it without aliasing, and makes it grey or RGB as the model wants it.

    Args:
      image: ``[h, w, c]``, uint8.
      image_shape: the model's (height, width, channels).
      crop: (height, width) of what is cut out, or None for the largest box of the model's aspect ratio.

    Returns:
      ``[height, width, channels]``, uint8.

    Raises:
      UserError: the crop is larger than the image, or the channels are not 1 or 3 where they differ.
    """
    h, w, c = image.shape
    height, width, channels = image_shape
    if crop is None:
        crop = min(h, round(w * height / width)), min(w, round(h * width / height))
    if crop[0] > h or crop[1] > w:
        raise UserError(f"data.crop={crop}: larger than an image of {h}x{w}; expected at most that, or None")
    if c != channels and {c, channels} != {1, 3}:
        raise UserError(f"model.image_shape={image_shape}: {channels} channels for images of {c}; expected 1 or 3")

    top, left = (h - crop[0]) // 2, (w - crop[1]) // 2
    image = image[top : top + crop[0], left : left + crop[1]]
    # In two steps, since the area filter does not average along one axis while the other one grows.
    shrunk = min(width, crop[1]), min(height, crop[0])
    image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    if c != channels:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if c == 1 else cv2.COLOR_RGB2GRAY)
    return image.reshape(image_shape)


def train_batches(source: ImageSource, config: Config, start_step: int = 0) -> Iterator[np.ndarray]:
    """Endless batches for training, from step ``start_step`` on; batch k is a function of ``config.seed`` and k alone.

    Each epoch has every image once, in an order and with mirrorings of its own. An epoch may begin within a batch.

    Args:
      source: the images.
      config: its seed, batch size, image shape and ``data``.
      start_step: step of the first batch.

    Returns:
      An iterator of float32 ``[batch_size, height, width, channels]`` in [-1, 1].

    Raises:
      UserError: there are fewer images than the batch has, or see ``preprocess``.
    """
    if len(source) < config.batch_size:
        raise UserError(
            f"batch_size={config.batch_size}: more than the {len(source)} images of data.train_split"
            f"={config.data.train_split}; take a smaller batch or more images"
        )
    images = _preprocessed(source, config).seed(config.seed).shuffle().repeat()
    if config.data.flip:
        images = images.random_map(_mirror_half)
    if config.data.jitter:
        images = images.random_map(lambda image, rng: zoom_and_shift(image, rng, config.data.jitter))
    batches = images.batch(config.batch_size, drop_remainder=True).map(_to_float)
    return iter(batches[start_step:].to_iter_dataset(_READ_OPTIONS))


def eval_batches(source: ImageSource, config: Config, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every image once, in order; the last batch is filled up with copies of the last image.

    Args:
      source: the images.
      config: its image shape and ``data.crop``.
      batch_size: images a batch.

    Returns:
      An iterator of images, float32 ``[batch_size, height, width, channels]`` in [-1, 1], and a mask, bool
      ``[batch_size]``, that is False for the copies.

    Raises:
      UserError: see ``preprocess``.
    """
    batches = _preprocessed(source, config).batch(batch_size).map(_to_float)
    return (_fill_up(images, batch_size) for images in batches.to_iter_dataset(_READ_OPTIONS))


def mean_image(source: ImageSource, config: Config, limit: int = 4096) -> np.ndarray:
    """Mean of the preprocessed images, or of at most ``limit`` of them at equal distances.

    Args:
      source: the images.
      config: its image shape and ``data.crop``.
      limit: largest number of images that are read.

    Returns:
      ``[height, width, channels]``, float32 in [-1, 1].

    Raises:
      UserError: see ``preprocess``.
    """
    stride = -(-len(source) // limit)
    images = _preprocessed(source, config)[::stride].map(_to_float)
    total = np.zeros(config.model.image_shape, np.float64)
    for image in images.to_iter_dataset(_READ_OPTIONS):
        total += image
    return (total / len(images)).astype(np.float32)


def _preprocessed(source: ImageSource, config: Config) -> grain.MapDataset:
    image_shape, crop = config.model.image_shape, config.data.crop
    preprocess(source[0], image_shape, crop)  # so that a wrong setting is told now, and not by a thread
    return grain.MapDataset.source(source).map(lambda image: preprocess(image, image_shape, crop))


def _mirror_half(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image[:, ::-1] if rng.random() < 0.5 else image


def zoom_and_shift(image: np.ndarray, rng: np.random.Generator, jitter: float) -> np.ndarray:
    """Zooms about the centre by 1 - jitter to 1 + jitter, and shifts by up to jitter / 2 of the size along each axis.

    What comes in from beyond the border is the image's mirror.

    Args:
      image: ``[h, w, c]``, uint8.
      rng: where the zoom and the shifts are drawn from, uniformly.
      jitter: share of the size.

    Returns:
      ``[h, w, c]``, uint8.
    """
    size = np.array(image.shape[1::-1])  # x before y, as OpenCV has it
    zoom = 1.0 + rng.uniform(-jitter, jitter)
    shift = rng.uniform(-jitter / 2, jitter / 2, 2) * size
    centre = (size - 1) / 2
    matrix = np.column_stack([np.eye(2) * zoom, centre + shift - zoom * centre])
    moved = cv2.warpAffine(image, matrix, tuple(size.tolist()), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return moved.reshape(image.shape)


def _to_float(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _fill_up(images: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    mask = np.arange(batch_size) < len(images)
    copies = np.repeat(images[-1:], batch_size - len(images), axis=0)
    return np.concatenate([images, copies]), mask


class _Archive(io.FileIO):
    """A file that stays open, as TensorFlow's do, when a ``with`` ends: TFDS goes on to read from it."""

    def __exit__(self, *args: object) -> None:
        pass

    def __del__(self) -> None:
        self.close()


def _find_prepared(data: DataConfig) -> tfds.core.DatasetBuilder:
    try:
        return tfds.core.read_only_builder.builder_from_files(data.name, data_dir=data.data_dir)
    except tfds.core.DatasetNotFoundError:
        pass
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data.name={data.name}: {reason}; expected name, name/config or name:version") from None

    name = data.name.partition("/")[0].partition(":")[0]
    data_dir = Path(_data_dir(data))
    try:
        manual = tfds.builder_cls(name).MANUAL_DOWNLOAD_INSTRUCTIONS
    except tfds.core.DatasetNotFoundError:
        there = _folders(data_dir)
        known = [*there, "orl", *tfds.list_builders(with_community_datasets=False)]
        similar = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"data.name={data.name}: not a data set of TFDS, nor prepared in {data_dir}"
            f" (there: {', '.join(there) or 'none'}); expected orl or one of those"
            + (f"; did you mean {similar[0]}?" if similar else "")
        ) from None

    there = _folders(data_dir / name)
    first = ""
    if manual:
        catalog = f"https://www.tensorflow.org/datasets/catalog/{name}"
        first = f"put the archives that {catalog} names into {data_dir}/downloads/manual, then "
    raise UserError(
        f"data.name={data.name}: not prepared in {data_dir / name} (there: {', '.join(there) or 'none'});"
        f" {first}run {_prepare_command(data.name, str(data_dir))}"
    )


def _folders(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    return [name for name in names if name != "downloads" and not name.startswith("incomplete.")]


def _prepare_command(name: str, data_dir: str) -> str:
    return f'python -c "from rvae_jax.data import pipeline; pipeline.download({name!r}, {data_dir!r})"'


def _data_dir(data: DataConfig) -> str:
    return str(Path(data.data_dir or tfds.core.constants.DATA_DIR).expanduser())
