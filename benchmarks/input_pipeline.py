"""Images per second of our training input, of other loaders that do the same work, and of our preparation.

    pip install -e '.[train]' tensorflow-cpu torch
    python benchmarks/input_pipeline.py --json=input_pipeline.json

All read the same folder of JPEGs of CelebA's size (178 wide, 218 high, about 10 KB), crop the middle 148x148, and
deliver shuffled, randomly mirrored uint8 batches of 64. All resize by area, except for ``linear``, a cheaper filter of
tf.data that aliases. Contenders run one after the other, each in a process of its own, for several rounds; medians are
printed. The preparation is timed as a command, including its writing.

    python benchmarks/input_pipeline.py --memory

instead reads 200,000 images, and prints the memory at intervals.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

BATCH = 64
CROP = 148


def make_jpegs(folder: Path, count: int) -> None:
    """Writes smooth noise that compresses about as well as CelebA's faces."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        octaves = (
            cv2.resize(rng.normal(size=(n, n, 3)), (178, 218), interpolation=cv2.INTER_CUBIC) * 60 / n**0.5
            for n in (4, 8, 16, 32, 64)
        )
        image = np.clip(128 + sum(octaves), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 85])


def prepare_records(folder: Path, size: int) -> float:
    """Prepares the JPEGs; returns images per second of the command, including its start-up."""
    data_dir = folder / f"datasets{size}"
    shutil.rmtree(data_dir, ignore_errors=True)
    command = [sys.executable, "-m", "rvae_jax.prepare", folder / "jpegs", "--name=faces", f"--size={size}"]
    began = time.monotonic()
    subprocess.run([*command, f"--crop={CROP}", f"--data_dir={data_dir}"], check=True, capture_output=True)
    return len(list((folder / "jpegs").iterdir())) / (time.monotonic() - began)


def ours(folder: Path, size: int, from_records: bool) -> Iterator[np.ndarray]:
    """Our training input, from JPEGs in a TFDS data set or from raw records."""
    from rvae_jax.config import Config, DataConfig, ModelConfig
    from rvae_jax.data import catalog, pipeline
    from rvae_jax.data.process_tuning import tune_this_process

    tune_this_process()
    data = DataConfig("faces", data_dir=str(folder / f"datasets{size}"))
    if not from_records:
        data = DataConfig("jpegs", data_dir=str(folder / "tfds"), crop=(CROP, CROP))
    config = catalog.resolve(Config(batch_size=BATCH, model=ModelConfig(image_shape=(size, size, 3)), data=data))
    return pipeline.train_batches(catalog.load_dataset(config.data, "train"), config)


def write_tfds_jpegs(folder: Path) -> None:
    """Writes the JPEGs as the TFDS data set ``jpegs``."""
    import tensorflow_datasets as tfds

    class Jpegs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            image = tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg")
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": image}))

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator:
            for path in sorted((folder / "jpegs").iterdir()):
                yield path.name, {"image": path}

    Jpegs(data_dir=folder / "tfds", file_format="array_record").download_and_prepare()


def tf_data(folder: Path, size: int, from_records: bool, linear: bool = False) -> Iterator[np.ndarray]:
    """tf.data as its guide recommends: AUTOTUNE, fused decoding and cropping, prefetch."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    def decode(path: tf.Tensor) -> tf.Tensor:
        image = tf.image.decode_and_crop_jpeg(tf.io.read_file(path), [35, 15, CROP, CROP], channels=3)
        image = tf.image.resize(image, (size, size), method="bilinear" if linear else "area")
        return tf.cast(image, tf.uint8)

    def parse(record: tf.Tensor) -> tf.Tensor:
        features = tf.io.parse_single_example(record, {"image": tf.io.FixedLenFeature([], tf.string)})
        return tf.reshape(tf.io.decode_raw(features["image"], tf.uint8), (size, size, 3))

    if from_records:
        path = folder / f"raw{size}.tfrecord"
        if not path.exists():
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in _raw_records(folder, size):
                    writer.write(record)
        images = tf.data.TFRecordDataset(str(path)).repeat().shuffle(1024).map(parse, tf.data.AUTOTUNE)
    else:
        paths = sorted(map(str, (folder / "jpegs").iterdir()))
        paths = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
        images = paths.map(decode, tf.data.AUTOTUNE, deterministic=False)
    images = images.map(tf.image.random_flip_left_right, tf.data.AUTOTUNE)
    return images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def torch_loader(folder: Path, size: int, from_records: bool) -> Iterator[np.ndarray]:
    """PyTorch's DataLoader with one process per core, and Pillow."""
    import torch
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    class Jpegs(torch.utils.data.Dataset):
        paths = sorted((folder / "jpegs").iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> np.ndarray:
            image = Image.open(self.paths[index]).crop((15, 35, 15 + CROP, 35 + CROP))
            image = np.asarray(image.resize((size, size), Image.Resampling.BOX))
            return np.ascontiguousarray(image[:, ::-1]) if torch.rand(()) < 0.5 else image.copy()

    class Records(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.records = ArrayRecordDataSource(_shards(folder, size))

        def __len__(self) -> int:
            return len(self.records)

        def __getitem__(self, index: int) -> np.ndarray:
            example = tf_example_pb2.Example.FromString(self.records[index])
            image = np.frombuffer(example.features.feature["image"].bytes_list.value[0], np.uint8)
            image = image.reshape(size, size, 3)
            return np.ascontiguousarray(image[:, ::-1]) if torch.rand(()) < 0.5 else image.copy()

    loader = torch.utils.data.DataLoader(
        Records() if from_records else Jpegs(),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count(),
        persistent_workers=True,
        prefetch_factor=4,
    )
    while True:
        yield from (batch.numpy() for batch in loader)


def _shards(folder: Path, size: int) -> list[str]:
    return sorted(map(str, (folder / f"datasets{size}").rglob("*-train.array_record*")))


def _raw_records(folder: Path, size: int) -> Iterator[bytes]:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    yield from ArrayRecordDataSource(_shards(folder, size))


SOURCES: dict[str, Callable[[Path, int], Iterator[np.ndarray]]] = {
    "ours, JPEG": lambda folder, size: ours(folder, size, from_records=False),
    "ours, records": lambda folder, size: ours(folder, size, from_records=True),
    "tf.data, JPEG": lambda folder, size: tf_data(folder, size, from_records=False),
    "tf.data, JPEG, linear": lambda folder, size: tf_data(folder, size, from_records=False, linear=True),
    "tf.data, records": lambda folder, size: tf_data(folder, size, from_records=True),
    "torch, JPEG": lambda folder, size: torch_loader(folder, size, from_records=False),
    "torch, records": lambda folder, size: torch_loader(folder, size, from_records=True),
}


def contend(name: str, folder: Path, size: int, seconds: float) -> float:
    """Images per second of one contender, after one second of warm-up."""
    batches = SOURCES[name](folder, size)
    count, began = 0, time.monotonic()
    while time.monotonic() < began + 1:
        batch = next(batches)
    if batch.shape != (BATCH, size, size, 3) or batch.dtype != np.uint8:
        raise ValueError(f"{name}: {batch.shape} {batch.dtype}")
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        next(batches)
        count += BATCH
    return count / (time.monotonic() - began)


def measure_memory(folder: Path, size: int, images: int = 200_000) -> None:
    """Prints the memory of this process while it reads an epoch of our records."""
    page = os.sysconf("SC_PAGE_SIZE")
    batches = ours(folder, size, from_records=True)
    for step in range(images // BATCH + 1):
        if step % (images // BATCH // 10) == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            print(f"{step * BATCH:>8,} images  {resident / 1e6:.0f} MB", flush=True)
        next(batches)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(contend(arguments.contender, arguments.folder, arguments.sizes[0], arguments.seconds))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_jpegs(folder / "jpegs", arguments.images)
        if arguments.memory:
            prepare_records(folder, arguments.sizes[0])
            measure_memory(folder, arguments.sizes[0])
            return
        write_tfds_jpegs(folder)
        results = {size: _rounds(folder, size, arguments) for size in arguments.sizes}
    for size, rates in results.items():
        best = max(rate for name, rate in rates.items() if name.startswith("tf.data, JPEG"))
        print(f"\n{size}x{size}, images per second (and ratio to tf.data's best from JPEG)")
        for name, rate in rates.items():
            print(f"  {name:24} {rate:8,.0f}  {rate / best:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _rounds(folder: Path, size: int, arguments: argparse.Namespace) -> dict[str, float]:
    rates: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        rates.setdefault("our preparation", []).append(prepare_records(folder, size))
        for name in SOURCES:
            command = [sys.executable, __file__, f"--contender={name}", f"--folder={folder}", f"--sizes={size}"]
            run = subprocess.run(
                [*command, f"--seconds={arguments.seconds}"], check=False, capture_output=True, text=True
            )
            if run.returncode:
                print(f"{name}: left out, {run.stderr.strip().splitlines()[-1]}")
                continue
            rates.setdefault(name, []).append(float(run.stdout.split()[-1]))
            print(f"{size}x{size}  {name:24} {rates[name][-1]:8,.0f} images/s", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


if __name__ == "__main__":
    main()
