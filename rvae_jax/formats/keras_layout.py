"""The author's weight files, ``*.weights.h5`` of Keras 3: which layer of theirs is which of ours.

A file names layers by class and by a number within their container, ``conv2d``, ``conv2d_1``, ..., in the order in
which the author's program makes them; that order is written down here. Their tensors are ours, of the same shapes.
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
from rvae_jax.errors import UserError
from rvae_jax.storage import weights as weights_lib

ENCODER = "layers/vae/encoder_model"
DECODER = "layers/vae/decoder_model"
SAMPLER = "layers/vae/layers/sampler"
DISCRIMINATOR = "discriminator_model/layers/functional"

# The tensors of a layer, in the order of their numbers there.
_CONVOLUTION = ("kernel", "bias")
_TENSORS = {
    "conv2d": _CONVOLUTION,
    "conv2d_transpose": _CONVOLUTION,
    "dense": _CONVOLUTION,
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layer_normalization": ("gamma", "beta"),
}
_OF_BLOCK = {"bn": "batch_normalization", "conv": "conv2d", "convt": "conv2d_transpose"}

# Learning rate of the optimizer that the author's program compiles and does not use: Keras's default.
_UNUSED_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of the file.

    Attributes:
      group: where it is there.
      tensors: the names of its tensors.
      name: ours, such as ``encoder/stage_0/down/conv_4``; None for a layer without weights.
    """

    group: str
    tensors: tuple[str, ...] = ()
    name: str | None = None

    def datasets(self) -> Iterator[tuple[str, str]]:
        """Each tensor's place in the file, and our name, as ``storage.weights.flatten`` has it."""
        player = "discriminator" if self.name and self.name.startswith("discriminator/") else "vae"
        for number, tensor in enumerate(self.tensors):
            kind = "batch_stats" if tensor.startswith("moving_") else "params"
            name = self.name.removeprefix("discriminator/")
            yield f"{self.group}/vars/{number}", f"{player}/{kind}/{name}/{tensor}"


def layers(config: Config) -> list[Layer]:
    """The layers of a configuration, those without weights too."""
    found = [
        *_numbered(ENCODER, _encoder(config.model)),
        Layer(f"{SAMPLER}/flatten"),
        Layer(f"{SAMPLER}/dense1", _CONVOLUTION, "sampler/z_mean"),
        Layer(f"{SAMPLER}/dense2", _CONVOLUTION, "sampler/z_log_var"),
        *_numbered(DECODER, _decoder(config.model)),
    ]
    if config.loss.adversarial != "none":
        found += _numbered(DISCRIMINATOR, _discriminator(config.model))
    return found


# A layer's class, and our name or None.
_Made = tuple[str, str | None]


def _encoder(model: ModelConfig) -> Iterator[_Made]:
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


def _decoder(model: ModelConfig) -> Iterator[_Made]:
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


def _discriminator(model: ModelConfig) -> Iterator[_Made]:
    yield "input_layer", None
    last = len(model.discriminator_filters) - 1
    for layer in range(last + 1):
        yield "conv2d", f"discriminator/layer_{layer}/conv"
        yield "batch_normalization", f"discriminator/layer_{layer}/bn"
        if layer < last:
            yield "leaky_re_lu", None
        yield "dropout", None


def _identity(name: str) -> Iterator[_Made]:
    return _block(name, ("bn_1", "conv_1", "bn_2", "conv_2", "bn_3", "conv_3"), activations=1)


def _block(name: str, parts: tuple[str, ...], activations: int) -> Iterator[_Made]:
    """Its layers; it adds its two branches, and its layers share ``activations`` layers of that class."""
    for part in parts:
        yield _OF_BLOCK[part.split("_")[0]], f"{name}/{part}"
    yield from [("activation", None)] * activations
    yield "add", None


def _numbered(container: str, made: Iterator[_Made]) -> list[Layer]:
    counts = collections.Counter()
    found = []
    for kind, name in made:
        number = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        found.append(Layer(f"{container}/layers/{kind}{number}", _TENSORS.get(kind, ()), name))
    return found


def read(path: epath.Path, config: Config) -> dict[str, Any]:
    """Reads the weights of both players; optimizers, where there are any, are passed over.

    Args:
      path: of the file.
      config: with the networks that it is of.

    Returns:
      What ``training.state.TrainState.weights`` has of a run without averaged weights.

    Raises:
      UserError: it is no such file, or of other networks than the configuration's: each of its tensors must have its
        place there, and each place its tensor.
    """
    there = _read_datasets(path)
    places = dict(place for layer in layers(config) for place in layer.datasets())
    _require_author(path, there)
    _require_players(path, there, config)
    expected = {
        name: tuple(leaf.shape) for name, leaf in weights_lib.flatten(weights_lib.expected_weights(config)).items()
    }
    wrong = [
        f"{dataset} ({name}) is {_described(there.get(dataset))}; expected float32 of shape {expected[name]}"
        for dataset, name in places.items()
        if dataset not in there or (there[dataset].shape, there[dataset].dtype) != (expected[name], np.float32)
    ]
    wrong += [f"{dataset} has no place in the configuration's networks" for dataset in there if dataset not in places]
    if wrong:
        raise UserError(
            f"{path} is of other networks than --config.model: {wrong[0]}"
            f"{f', and {len(wrong) - 1} more of {len(places)} tensors' if len(wrong) > 1 else ''}."
            f" The file has {_summary(there)}; give the configuration that it was trained with"
        )
    return weights_lib.unflatten({name: there[dataset] for dataset, name in places.items()})


def to_bytes(config: Config, weights: dict[str, Any]) -> bytes:
    """The content of a file as the author's program would have saved it, with its optimizers at their first step.

    Args:
      config: of the run.
      weights: as ``training.state.TrainState.weights`` has them; averaged weights, if any, are taken for the VAE's.
    """
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
            file[dataset] = np.asarray(leaves[name])
        for group, rate in _optimizers(config).items():
            file[f"{group}/vars/0"] = np.int64(0)
            file[f"{group}/vars/1"] = np.float32(rate)
    return content.getvalue()


def _optimizers(config: Config) -> dict[str, float]:
    rate = config.optimizer.learning_rate
    if config.loss.adversarial == "none":
        return {"optimizer": rate}
    return {"optimizer": _UNUSED_RATE, "generator_optimizer": rate, "discriminator_optimizer": rate}


def _read_datasets(path: epath.Path) -> dict[str, np.ndarray]:
    """Everything in the file but the optimizers."""
    if not path.exists() or path.is_dir():
        raise UserError(f"--weights={path} is {'a folder' if path.exists() else 'not there'}; expected a *.weights.h5")
    content = io.BytesIO(path.read_bytes())
    if zipfile.is_zipfile(content):
        raise UserError(f"--weights={path} is a zip, as *.keras files are; unpack it, and give the *.weights.h5 in it")
    found = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset) and not name.split("/")[0].endswith("optimizer"):
            found[name] = node[()]

    try:
        with h5py.File(content, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:  # each damage has its own
        raise UserError(
            f"--weights={path} is no HDF5 file, or not a whole one ({error}); expected a *.weights.h5"
        ) from None
    return found


def _require_author(path: epath.Path, there: Mapping[str, np.ndarray]) -> None:
    if not any(name.startswith((ENCODER, DECODER)) for name in there):
        groups = sorted({"/".join(name.split("/")[:2]) for name in there})
        raise UserError(
            f"--weights={path} is not from the author's program: there is neither {ENCODER} nor {DECODER} in it, but"
            f" {', '.join(groups[:6]) or 'nothing'}"
        )
    if not any(name.startswith(SAMPLER) for name in there):
        raise UserError(
            f"--weights={path} lacks the sampler ({SAMPLER}/dense1 and dense2, which make mean and log variance): it"
            " was saved before the model's first call, and is of no use; save it again after one"
        )


def _require_players(path: epath.Path, there: Mapping[str, np.ndarray], config: Config) -> None:
    has = any(name.startswith("discriminator_model/") for name in there)
    adversarial = config.loss.adversarial
    if has and adversarial == "none":
        raise UserError(
            f"--weights={path} has a discriminator, for which --config.loss.adversarial=none has no place; give"
            " --config.loss.adversarial=bce"
        )
    if not has and adversarial != "none":
        raise UserError(
            f"--weights={path} has no discriminator, as the baseline's files, and --config.loss.adversarial="
            f"{adversarial} asks for one; give the baseline's --config.loss.adversarial=none, --config.loss.kl=standard"
        )


def _described(tensor: np.ndarray | None) -> str:
    return "missing" if tensor is None else f"{np.asarray(tensor).dtype} of shape {np.shape(tensor)}"


def _summary(there: Mapping[str, np.ndarray]) -> str:
    """What a user knows the networks by."""
    images, codes = f"{ENCODER}/layers/layer_normalization/vars/0", f"{SAMPLER}/dense1/vars/1"
    size = f"images of {'x'.join(map(str, there[images].shape))}, " if images in there else ""
    stages = sum(name.startswith(f"{DECODER}/layers/conv2d_transpose") for name in there) // 4
    return f"{size}{stages} stages and {np.size(there.get(codes, ()))} latent dimensions"
