"""The author's weight files, ``*.weights.h5`` of Keras 3: which of their layers is which of ours.

A file names a layer by its class and a number within its container, ``conv2d``, ``conv2d_1``, ..., in the order in
which the author's program creates the layers. This module lists that order. The tensors have the same shapes as ours.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from etils import epath

from rvae_jax.config import Config, ModelConfig
from rvae_jax.errors import UserError, one_line, printable
from rvae_jax.storage import weights as weights_lib
from rvae_jax.system.files import require_regular

ENCODER = "layers/vae/encoder_model"
DECODER = "layers/vae/decoder_model"
SAMPLER = "layers/vae/layers/sampler"
DISCRIMINATOR = "discriminator_model/layers/functional"

# The tensors of each class of layer, in the order of their numbers in the file.
_CONVOLUTION = ("kernel", "bias")
_TENSORS = {
    "conv2d": _CONVOLUTION,
    "conv2d_transpose": _CONVOLUTION,
    "dense": _CONVOLUTION,
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layer_normalization": ("gamma", "beta"),
}
_OF_BLOCK = {"bn": "batch_normalization", "conv": "conv2d", "convt": "conv2d_transpose"}

# Learning rate of the optimizer that the author's program compiles with and never uses: Keras's default.
_UNUSED_RATE = 1e-3

_MOST_BYTES = 1 << 31  # of a file, and of its tensors


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of the file.

    Attributes:
      group: its HDF5 group.
      tensors: names of its tensors, as ours.
      name: our name of the layer, such as ``encoder/stage_0/down/conv_4``; None for a layer without weights.
    """

    group: str
    tensors: tuple[str, ...] = ()
    name: str | None = None

    def datasets(self) -> Iterator[tuple[str, str]]:
        """Each tensor's HDF5 data set, and its name by ``storage.weights.flatten``."""
        player = "discriminator" if self.name and self.name.startswith("discriminator/") else "vae"
        for number, tensor in enumerate(self.tensors):
            kind = "batch_stats" if tensor.startswith("moving_") else "params"
            name = self.name.removeprefix("discriminator/")
            yield f"{self.group}/vars/{number}", f"{player}/{kind}/{name}/{tensor}"


def layers(config: Config) -> list[Layer]:
    """The layers of a configuration, including those without weights."""
    found = [
        *_numbered(ENCODER, _encoder(config.model)),
        Layer(f"{SAMPLER}/flatten"),
        Layer(f"{SAMPLER}/dense1", _CONVOLUTION, "sampler/z_mean"),
        Layer(f"{SAMPLER}/dense2", _CONVOLUTION, "sampler/z_log_var"),
        *_numbered(DECODER, _decoder(config.model)),
    ]
    if config.loss.adversarial != "none" and config.model.discriminator == "patch":
        found += _numbered(DISCRIMINATOR, _discriminator(config.model))
    return found


def require_author_networks(config: Config) -> None:
    """Raises unless the networks are the author's, without anything that his program does not have.

    Raises:
      UserError: naming the field that says otherwise.
    """
    for field, expected in (("network", "paper"), ("linear_path", "none")):
        found = getattr(config.model, field)
        if found != expected:
            raise UserError(
                f"model.{field}={found!r}: the author's program has no such network; expected {expected!r}. Use the"
                " formats safetensors, onnx or stablehlo"
            )


# A layer's class in Keras, and our name of the layer or None.
_KerasLayer = tuple[str, str | None]


def _encoder(model: ModelConfig) -> Iterator[_KerasLayer]:
    yield "input_layer", None
    if model.input_norm:
        yield "layer_normalization", "encoder/norm"
    yield "conv2d", "encoder/stem"
    for stage in range(len(model.encoder_filters) - 1):
        for block in range(model.encoder_identity_blocks):
            yield from _identity(f"encoder/stage_{stage}/identity_{block}")
        down = ("bn_1", "conv_1", "bn_2", "conv_2", "bn_3", "conv_3", "bn_4", "conv_4")
        yield from _block(f"encoder/stage_{stage}/down", down, activations=2)
    yield "conv2d", "encoder/head"


def _decoder(model: ModelConfig) -> Iterator[_KerasLayer]:
    yield "input_layer", None
    yield "dense", "decoder/dense"
    yield "reshape", None
    yield "conv2d", "decoder/stem"
    for stage in range(len(model.decoder_filters) - 1):
        for block in range(model.decoder_identity_blocks):
            yield from _identity(f"decoder/stage_{stage}/identity_{block}")
        up = ("bn_1", "conv_1", "bn_2", "convt_2", "bn_3", "convt_3")
        yield from _block(f"decoder/stage_{stage}/up", up, activations=1)
    yield "conv2d", "decoder/head"


def _discriminator(model: ModelConfig) -> Iterator[_KerasLayer]:
    yield "input_layer", None
    last = len(model.discriminator_filters) - 1
    for layer in range(last + 1):
        yield "conv2d", f"discriminator/layer_{layer}/conv"
        yield "batch_normalization", f"discriminator/layer_{layer}/bn"
        if layer < last:
            yield "leaky_re_lu", None
        yield "dropout", None


def _identity(name: str) -> Iterator[_KerasLayer]:
    return _block(name, ("bn_1", "conv_1", "bn_2", "conv_2", "bn_3", "conv_3"), activations=1)


def _block(name: str, parts: tuple[str, ...], activations: int) -> Iterator[_KerasLayer]:
    """The layers of a residual block; its convolutions share ``activations`` activation layers."""
    for part in parts:
        yield _OF_BLOCK[part.split("_")[0]], f"{name}/{part}"
    yield from [("activation", None)] * activations
    yield "add", None


def _numbered(container: str, made: Iterator[_KerasLayer]) -> list[Layer]:
    counts = collections.Counter()
    found = []
    for kind, name in made:
        number = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        found.append(Layer(f"{container}/layers/{kind}{number}", _TENSORS.get(kind, ()), name))
    return found


def read(path: epath.Path, config: Config) -> dict[str, Any]:
    """Reads the weights of both players, without their optimizers.

    Args:
      path: the file.
      config: a configuration with the networks of the file.

    Returns:
      The weights, in the form of ``training.state.TrainState.weights`` for a run without averaged weights.

    Raises:
      UserError: it is not a file of the author's program, or its tensors are not exactly those of the configuration's
        networks.
    """
    return place(path, read_tensors(path), config)


def place(path: epath.Path, tensors: Mapping[str, np.ndarray], config: Config) -> dict[str, Any]:
    """The tensors of a file as weights; see ``read``."""
    require_author_networks(config)
    names = dict(pair for layer in layers(config) for pair in layer.datasets())
    _require_players(path, tensors, config)
    _require_networks(path, tensors, names, config)
    return weights_lib.unflatten({name: tensors[dataset] for dataset, name in names.items()})


def to_bytes(config: Config, weights: dict[str, Any]) -> bytes:
    """The content of a file as the author's program saves it, with its optimizers at their first step.

    Args:
      config: configuration of the run.
      weights: in the form of ``training.state.TrainState.weights``; averaged weights, if any, are written as the VAE's.

    Raises:
      UserError: the networks are not the author's.
    """
    require_author_networks(config)
    leaves = weights_lib.flatten({**weights, "vae": weights_lib.evaluation_variables(weights)})
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        found = layers(config)
        for group in ("", "layers/vae", ENCODER, DECODER, SAMPLER, *(layer.group for layer in found)):
            file.create_group(f"{group}/vars")
        if config.loss.adversarial != "none":
            for group in ("discriminator_model", DISCRIMINATOR):
                file.create_group(f"{group}/vars")
        for dataset, name in itertools.chain.from_iterable(layer.datasets() for layer in found):
            array = np.asarray(leaves[name])
            # HDF5 checks the sum when the array is read, in any program. Only arrays in chunks can have one.
            file.create_dataset(dataset, data=array, chunks=array.shape, fletcher32=True)
        for group, rate in _optimizers(config).items():
            file[f"{group}/vars/0"] = np.int64(0)
            file[f"{group}/vars/1"] = np.float32(rate)
    return content.getvalue()


def _optimizers(config: Config) -> dict[str, float]:
    rate = config.optimizer.learning_rate
    if config.loss.adversarial == "none":
        return {"optimizer": rate}
    return {"optimizer": _UNUSED_RATE, "generator_optimizer": rate, "discriminator_optimizer": rate}


def read_tensors(path: epath.Path) -> dict[str, np.ndarray]:
    """The data sets of a file by name, without the optimizers.

    Raises:
      UserError: it is not a file of the author's program, or it lacks the encoder, the decoder or the sampler.
    """
    if not path.exists() or path.is_dir():
        found = "is a folder" if path.exists() else "does not exist"
        raise UserError(f"--weights={path} {found}; expected a *.weights.h5 file")
    require_regular(path, _MOST_BYTES)
    content = io.BytesIO(path.read_bytes())
    if zipfile.is_zipfile(content):
        raise UserError(f"--weights={path} is a *.keras file; unzip it, and give the *.weights.h5 inside")
    found = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset) and not name.split("/")[0].endswith("optimizer"):
            _require_here(path, name, node, sum(tensor.nbytes for tensor in found.values()))
            found[name] = node[()]

    try:
        with h5py.File(content, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # depending on where it is damaged
        raise UserError(
            f"--weights={path} is not an HDF5 file, or is incomplete ({one_line(error)}); expected a *.weights.h5 file"
        ) from None
    _require_author(path, found)
    return found


def _require_here(path: epath.Path, name: str, node: h5py.Dataset, before: int) -> None:
    """Raises if a data set is in other files, or does not fit beside ``before`` bytes: it may claim any size."""
    if node.external or node.is_virtual:
        raise UserError(f"--weights={path}: {printable(name)} is in another file; expected all tensors in this one")
    if before + node.nbytes > _MOST_BYTES:
        raise UserError(
            f"--weights={path}: {printable(name)} is {node.dtype} of shape {node.shape}; expected at most"
            f" {_MOST_BYTES:,} bytes in all"
        )


def _require_author(path: epath.Path, tensors: Mapping[str, np.ndarray]) -> None:
    if not any(name.startswith((ENCODER, DECODER)) for name in tensors):
        groups = sorted({"/".join(name.split("/")[:2]) for name in tensors})
        raise UserError(
            f"--weights={path} is not from the author's program: expected {ENCODER} and {DECODER} in it, found"
            f" {printable(', '.join(groups[:6])) or 'nothing'}"
        )
    if not any(name.startswith(SAMPLER) for name in tensors):
        raise UserError(
            f"--weights={path} lacks the sampler ({SAMPLER}/dense1 and dense2, for mean and log variance): it was saved"
            " before the model's first call; call the model once, and save it again"
        )


def _require_players(path: epath.Path, tensors: Mapping[str, np.ndarray], config: Config) -> None:
    has_discriminator = any(name.startswith("discriminator_model/") for name in tensors)
    adversarial = config.loss.adversarial
    if has_discriminator and adversarial == "none":
        raise UserError(
            f"--weights={path} has a discriminator, and --config.loss.adversarial=none has none; give"
            " --config.loss.adversarial=bce"
        )
    if not has_discriminator and adversarial != "none":
        raise UserError(
            f"--weights={path} has no discriminator, and --config.loss.adversarial={adversarial} needs one; if it is"
            " the baseline, give --config.loss.adversarial=none --config.loss.kl=standard"
        )


def _require_networks(
    path: epath.Path, tensors: Mapping[str, np.ndarray], names: Mapping[str, str], config: Config
) -> None:
    """Raises unless the file has every tensor of the configuration's networks, and no other."""
    shapes = weights_lib.shapes(weights_lib.expected_weights(config))
    wrong = [
        f"{dataset} ({name}) is {_type_and_shape(tensors.get(dataset))}; expected float32 of shape {shapes[name]}"
        for dataset, name in names.items()
        if dataset not in tensors or (tensors[dataset].shape, tensors[dataset].dtype) != (shapes[name], np.float32)
    ]
    wrong += [
        f"{printable(dataset)} is not in the configuration's networks" for dataset in tensors if dataset not in names
    ]
    if wrong:
        others = f", and {len(wrong) - 1} more differ of {len(names)} tensors" if len(wrong) > 1 else ""
        raise UserError(
            f"--weights={path} does not fit the networks of --config.model: {wrong[0]}{others}. The file has"
            f" {_sizes(tensors)}; give the configuration that it was trained with"
        )


def _type_and_shape(tensor: np.ndarray | None) -> str:
    return "missing" if tensor is None else f"{np.asarray(tensor).dtype} of shape {np.shape(tensor)}"


def _sizes(tensors: Mapping[str, np.ndarray]) -> str:
    """The sizes by which a user recognizes the networks."""
    images, codes = f"{ENCODER}/layers/layer_normalization/vars/0", f"{SAMPLER}/dense1/vars/1"
    size = f"images of {'x'.join(map(str, tensors[images].shape))}, " if images in tensors else ""
    stages = sum(name.startswith(f"{DECODER}/layers/conv2d_transpose") for name in tensors) // 4
    return f"{size}{stages} stages and {np.size(tensors.get(codes, ()))} latent dimensions"
