"""A model as one ``.safetensors`` file: its weights by readable names, its configuration in the header.

The names are ``encoder.stage_0.identity_0.conv_1.kernel`` and so on, ``discriminator.layer_0.conv.kernel``, and
``ema.encoder.stem.kernel`` for averaged weights. ``population.mean`` and ``population.covariance`` are of the training
images' codes, ``population.mixture.weights``, ``.means`` and ``.covariances`` of Gaussians that were fitted to them.
Kernels are (height, width, in, out), those of transposed convolutions (height, width, out, in), of dense layers
(in, out).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError, one_line
from rvae_jax.storage import weights as weights_lib
from rvae_jax.storage.checksums import damage, with_checksums
from rvae_jax.system.files import is_remote, require_regular

FORMAT = "rvae_jax 1"

# Of a population of codes; see ``samplers.mean_and_covariance``.
MeanAndCovariance = tuple[np.ndarray, np.ndarray]
MOMENTS = ("population.mean", "population.covariance")  # their names in a file
# Weights ``[K]``, means ``[K, d]`` and covariances ``[K, d, d]``.
MixtureArrays = tuple[np.ndarray, np.ndarray, np.ndarray]
MIXTURE = ("population.mixture.weights", "population.mixture.means", "population.mixture.covariances")

_BEST_SAMPLER = "best_sampler"

_PREFIXES = {
    "vae/params/": "",
    "vae/batch_stats/": "",
    "discriminator/params/": "discriminator.",
    "discriminator/batch_stats/": "discriminator.",
    "ema_params/": "ema.",
}


class Content(NamedTuple):
    """What a file has.

    Attributes:
      config: of the run.
      weights: as ``training.state.TrainState.weights`` has them.
      step: training step of the weights.
      moments: of the training images' codes, or None to leave them out.
      best_sampler: what the evaluation found best to sample from, or None without one.
      mixture: of Gaussians that were fitted to the codes, or None.
    """

    config: Config
    weights: dict[str, Any]
    step: int
    moments: MeanAndCovariance | None = None
    best_sampler: str | None = None
    mixture: MixtureArrays | None = None


def to_bytes(content: Content) -> bytes:
    """The bytes of a file."""
    config, weights, step, moments, best_sampler, mixture = content
    arrays = {_readable(name): np.ascontiguousarray(leaf) for name, leaf in weights_lib.flatten(weights).items()}
    if moments is not None:
        arrays |= {name: value.astype(np.float32) for name, value in zip(MOMENTS, moments, strict=True)}
    if mixture is not None:
        arrays |= {name: value.astype(np.float32) for name, value in zip(MIXTURE, mixture, strict=True)}
    header = {"format": FORMAT, "step": str(step), "config": json.dumps(config_lib.to_dict(config))}
    if best_sampler is not None:
        header[_BEST_SAMPLER] = best_sampler
    return save(arrays, with_checksums(header, arrays))


def population_shapes(there: Mapping[str, tuple[int, ...]], latent_dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes that the moments and the mixture of a file must have, if any of their arrays is there.

    Args:
      there: shapes by name; the first of the mixture's arrays gives the number of components, at least 1.
      latent_dim: d.
    """
    d, shapes = latent_dim, {}
    if any(name in there for name in MOMENTS):
        shapes |= zip(MOMENTS, ((d,), (d, d)), strict=True)
    if of_mixture := [name for name in MIXTURE if name in there]:
        k = max([1, *there[of_mixture[0]][:1]])
        shapes |= zip(MIXTURE, ((k,), (k, d), (k, d, d)), strict=True)
    return shapes


def generator_to_bytes(variables: dict[str, Any], step: int, transform: dict[str, list[np.ndarray]]) -> bytes:
    """A file with the decoder and the linear path of a VAE's variables, under the names that they have in a model's.

    Its header has another format, since it is no whole model.

    Args:
      variables: of the VAE.
      step: training step of the weights.
      transform: what turns noise into codes before them, or {}; see ``samplers.mixture_transform``.
    """
    leaves = weights_lib.flatten({"vae": variables}).items()
    arrays = {_readable(name): leaf for name, leaf in leaves}
    arrays = {name: leaf for name, leaf in arrays.items() if name.startswith(("decoder.", "linear."))}
    arrays |= {f"prior.{name}": np.asarray(parts) for name, parts in transform.items()}
    arrays = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in arrays.items()}
    return save(arrays, with_checksums({"format": f"{FORMAT} generator", "step": str(step)}, arrays))


def read(path: epath.Path) -> Content:
    """Reads what ``to_bytes`` made, to this process's first device.

    Args:
      path: the file.

    Raises:
      UserError: it is not such a file, it is incomplete, or its weights are not those of its configuration.
    """
    with _opened(path) as file:
        config, step = _header(path, file.metadata())
        expected = weights_lib.flatten(weights_lib.expected_weights(config))
        names = {name: _readable(name) for name in expected}
        shapes = {names[name]: tuple(leaf.shape) for name, leaf in expected.items()}
        there = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        found = {name: tuple(tensor.get_shape()) for name, tensor in there.items()}
        shapes |= population_shapes(found, config.model.latent_dim)
        weights_lib.require_same_shapes(
            found, shapes, f"{path} does not fit its configuration", "export it again, or fetch it again"
        )
        arrays = _read_all(path, file, there)
        best_sampler = file.metadata().get(_BEST_SAMPLER)
        if (reason := damage(file.metadata(), arrays)) is not None:
            raise UserError(f"{path} is damaged: {reason}; export it again, or fetch it again")
    weights = weights_lib.unflatten({name: arrays[readable] for name, readable in names.items()})
    moments, mixture = (tuple(arrays[name] for name in each if name in arrays) for each in (MOMENTS, MIXTURE))
    if mixture and not (mixture[0] > 0).all():
        raise UserError(f"{path}: {MIXTURE[0]} is {mixture[0].tolist()}; expected positive numbers; export it again")
    weights = jax.device_put(weights, jax.local_devices()[0])
    return Content(config, weights, step, moments or None, best_sampler, mixture or None)


def _readable(name: str) -> str:
    prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return _PREFIXES[prefix] + name.removeprefix(prefix).replace("/", ".")


def _header(path: epath.Path, header: dict[str, str] | None) -> tuple[Config, int]:
    header = header or {}
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} is a .safetensors file, but not one that rvae_jax.export wrote: its header's format is"
            f" {header.get('format')!r}; expected {FORMAT!r}"
        )
    try:
        config, step = config_lib.from_dict(json.loads(header["config"])), int(header["step"])
        config_lib.validate_networks(config)
        if step < 0:
            raise ValueError(f"step {step}; expected 0 or more")
        return config, step
    except (KeyError, ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path} has a header that cannot be read: {error}; it may be of a newer rvae_jax") from None


def _read_all(path: epath.Path, file: Any, there: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of which ``there`` has the headers; raises unless they are float32 and finite."""
    for name, tensor in there.items():
        if tensor.get_dtype() != "F32":
            raise UserError(f"{path}: {name} is {tensor.get_dtype()}; expected F32")
    arrays = {name: file.get_tensor(name) for name in there}
    weights_lib.require_finite(arrays, str(path))
    return arrays


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[Any]:
    require_regular(path)
    try:
        with local_copy(path) as local, safe_open(local, "numpy") as file:
            yield file
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a complete .safetensors file ({one_line(error)}); export it again, or fetch it again"
        ) from None


@contextlib.contextmanager
def local_copy(path: epath.Path) -> Iterator[Path]:
    """The file itself, or a local copy of one in an object store."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy
