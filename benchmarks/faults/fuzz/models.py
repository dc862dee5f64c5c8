"""Readers of what a run or an export is made of, and of the networks that others have trained."""

from __future__ import annotations

import functools
import io
import json
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks.faults.fuzz import mutations
from benchmarks.faults.fuzz.reader import Reader
from rvae_jax import config as config_lib
from rvae_jax.evaluation import results
from rvae_jax.evaluation.diagnosis import diagnose
from rvae_jax.evaluation.metrics import inception
from rvae_jax.formats import keras_layout, keras_networks
from rvae_jax.storage import checkpoints, population_file, tensor_file, workdir
from rvae_jax.storage import weights as weights_lib
from rvae_jax.training import metric_log

_CONFIG = config_lib.replace_fields(
    config_lib.Config(),
    {
        "model.image_shape": (8, 8, 2),
        "model.latent_dim": 8,
        "model.encoder_filters": (4, 6),
        "model.decoder_filters": (6, 2),
        "model.encoder_identity_blocks": 0,
        "model.decoder_identity_blocks": 0,
        "model.discriminator_filters": (4, 1),
        "model.discriminator_strides": (2, 1),
        "steps": 40,
    },
)
_STEP = 3
_EVALUATION = pathlib.Path(__file__).parents[3] / "tests/evaluation/evaluation_of_0_1.json"


def _remembered(
    expected: Callable[[config_lib.Config], dict[str, Any]],
) -> Callable[[config_lib.Config], dict[str, Any]]:
    """The same, computed once for the same networks: it takes long, and most configurations have the same."""
    known: dict[str, dict[str, Any]] = {}

    def remembered(config: config_lib.Config) -> dict[str, Any]:
        networks = str((config.model, config.loss.adversarial, config.optimizer.ema_decay))
        if networks not in known:
            known[networks] = expected(config)
        return known[networks]

    return remembered


weights_lib.expected_weights = _remembered(weights_lib.expected_weights)


def _configurations(_: pathlib.Path) -> Iterator[bytes]:
    yield json.dumps(config_lib.to_dict(_CONFIG)).encode()
    yield json.dumps(config_lib.to_dict(config_lib.make_tiny(_CONFIG))).encode()


def _read_configuration(path: pathlib.Path) -> None:
    weights_lib.expected_weights(workdir.read_config(epath.Path(path.parent)))


@functools.cache
def _checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """A checkpoint in a work directory of its own."""
    items = {"weights": {"a": jax.numpy.zeros(3)}, "training": {"step": jax.numpy.int32(_STEP)}}
    with checkpoints.Checkpoints(folder) as saved:
        saved.save(items, _CONFIG, selection_error=0.5)
    return folder / "checkpoints" / str(_STEP)


def _checksum_items(folder: pathlib.Path) -> Iterator[bytes]:
    yield (_checkpoint(folder) / "checksums/metadata").read_bytes()


def _read_checksums(path: pathlib.Path) -> None:
    """As ``restore`` does; Orbax would take a second to find that there is nothing else to read."""
    folder = path.parent / "seeds"
    path.replace(_checkpoint(folder) / "checksums/metadata")
    _opened(folder)._compare(_STEP, {"weights/a": "0" * 16})


@functools.cache
def _opened(folder: pathlib.Path) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(folder, read_only=True)


def _selection_errors(folder: pathlib.Path) -> Iterator[bytes]:
    yield (_checkpoint(folder) / "metrics/metrics").read_bytes()


def _read_selection_error(path: pathlib.Path) -> None:
    folder = path.parent / "seeds"
    path.replace(_checkpoint(folder) / "metrics/metrics")
    with checkpoints.Checkpoints(folder, read_only=True) as opened:
        opened.best_step()


@functools.cache
def _weights() -> dict[str, Any]:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights_lib.expected_weights(_CONFIG))


def _moments() -> tensor_file.MeanAndCovariance:
    return np.zeros(8, np.float32), np.zeros((8, 8), np.float32)


def _mixture() -> tensor_file.MixtureArrays:
    mean, covariance = _moments()
    return np.full(2, 0.5), np.stack([mean, mean]), np.stack([covariance, covariance])


def _tensor_files(_: pathlib.Path) -> Iterator[bytes]:
    yield tensor_file.to_bytes(tensor_file.Content(_CONFIG, _weights(), _STEP))


def _headers(_: pathlib.Path) -> Iterator[bytes]:
    """Without the arrays after it."""
    content = tensor_file.to_bytes(tensor_file.Content(_CONFIG, _weights(), _STEP, _moments(), "mixture", _mixture()))
    yield content[8 : 8 + struct.unpack("<Q", content[:8])[0]]


def _with_arrays(header: bytes) -> bytes:
    """A file of zeros, as many as the seed has."""
    arrays = (*jax.tree.leaves(_weights()), *_moments())
    return struct.pack("<Q", len(header)) + header + bytes(sum(array.nbytes for array in arrays))


def _populations(folder: pathlib.Path) -> Iterator[bytes]:
    population_file.write(epath.Path(folder), _STEP, _moments())
    yield (folder / population_file.FILE).read_bytes()


def _metrics(_: pathlib.Path) -> Iterator[bytes]:
    names = ("loss/total", "images_per_second", "discriminator/accuracy_real", "discriminator/accuracy_fake")
    rows = [{"step": step, **dict.fromkeys(names, 0.5)} for step in (1, 39, 40)]
    yield b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    yield b'{"step": 40, "loss/total": NaN}\n{"step": 41, "best/st'


def _read_metrics(path: pathlib.Path) -> None:
    folder = epath.Path(path.parent)
    rows = metric_log.read_metrics(folder)
    diagnose(_evaluation(), rows, _CONFIG)
    metric_log._keep_rows(path, 39)  # as a run does that resumes, which opens TensorBoard's file, too
    kept = [row for row in rows if row["step"] <= 39]
    assert str(metric_log.read_metrics(folder)) == str(kept), "rows are lost"
    (path.parent / metric_log.UNREADABLE_FILE).unlink(missing_ok=True)


@functools.cache
def _evaluation() -> results.Evaluation:
    return results.from_dict(json.loads(_EVALUATION.read_text()))


def _evaluations(_: pathlib.Path) -> Iterator[bytes]:
    yield _EVALUATION.read_bytes()


def _read_evaluation(path: pathlib.Path) -> None:
    evaluation = results.read(epath.Path(path.parent), 4)
    if evaluation is not None:
        diagnose(evaluation, [], _CONFIG)
        results.to_bytes(evaluation)


def _keras_files(_: pathlib.Path) -> Iterator[bytes]:
    yield keras_layout.to_bytes(_CONFIG, _weights())


def _read_keras(path: pathlib.Path) -> None:
    file = epath.Path(path)
    tensors = keras_layout.read_tensors(file)
    config = keras_networks.infer(file, tensors, _CONFIG)
    config_lib.validate(config, device_count=1)
    keras_layout.place(file, tensors, config)


def _inception_pickles(_: pathlib.Path) -> Iterator[bytes]:
    """The first layer of the network, as TorchScript pickles it."""
    layer = {name: _pickled_tensor((2,)) for name in ("beta", "mean", "var")}
    layer |= {"weight": _pickled_tensor((2, 3, 1, 1)), "stride": b"K\2"}
    layer["padding"] = b"ctorch.jit._pickle\nbuild_intlist\n(](K\0K\0etR"
    layers = {"conv": _pickled_module(layer), "pool": b"N"}
    yield _pickled_module({"net": _pickled_module({"layers": _pickled_module(layers)})}) + b"."


def _pickled_module(parts: dict[str, bytes]) -> bytes:
    items = b"".join(b"X" + struct.pack("<I", len(name)) + name.encode() + part for name, part in parts.items())
    return b"c__torch__.net\nModule\n)\x81}(" + items + b"ub"


def _pickled_tensor(shape: tuple[int, ...]) -> bytes:
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    numbers = (b"(" + b"".join(b"K" + bytes([number]) for number in each) + b"t" for each in (shape, strides))
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\x08tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + b"".join(numbers) + b"\x89NtR"


def _in_archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", content)
        archive.writestr("net/data/0", bytes(32))
    return file.getvalue()


def _inception_archives(folder: pathlib.Path) -> Iterator[bytes]:
    for content in _inception_pickles(folder):
        yield _in_archive(content)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(inception.FILE, b"no archive")
    yield file.getvalue()


JSON = mutations.of_json
READERS = {
    "config": Reader(_configurations, _read_configuration, workdir.CONFIG_FILE, JSON),
    "checksums": Reader(_checksum_items, _read_checksums, mutate=JSON),
    "selection-error": Reader(_selection_errors, _read_selection_error, mutate=JSON),
    "safetensors": Reader(_tensor_files, lambda path: tensor_file.read(epath.Path(path))),
    "safetensors-header": Reader(
        _headers, lambda path: tensor_file.read(epath.Path(path)), mutate=JSON, complete=_with_arrays
    ),
    "population": Reader(
        _populations, lambda path: population_file.read(epath.Path(path.parent), _STEP, 8), population_file.FILE
    ),
    "metrics": Reader(_metrics, _read_metrics, metric_log.METRICS_FILE, JSON),
    "evaluation": Reader(_evaluations, _read_evaluation, results.FILE, JSON),
    "keras": Reader(_keras_files, _read_keras),
    "inception": Reader(_inception_pickles, lambda path: inception.load(path), complete=_in_archive),
    "inception-archive": Reader(_inception_archives, lambda path: inception.load(path)),
}
