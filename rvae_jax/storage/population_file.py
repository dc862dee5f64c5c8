"""The moments of the training images' codes, and what was fitted to them, in the work directory of a run.

Training leaves the moments of its result, and ``evaluate`` those and the mixture of the checkpoint that it evaluates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvae_jax.errors import UserError, one_line
from rvae_jax.storage.checksums import damage, with_checksums
from rvae_jax.storage.tensor_file import (
    MIXTURE,
    MOMENTS,
    MeanAndCovariance,
    MixtureArrays,
    local_copy,
    population_shapes,
)
from rvae_jax.system.files import require_regular, write_atomically

FILE = "population.safetensors"
_STEP = "step"


class Population(NamedTuple):
    """What is stored.

    Attributes:
      moments: mean ``[d]`` and covariance ``[d, d]`` of the codes.
      mixture: of Gaussians that were fitted to the codes, or None.
    """

    moments: MeanAndCovariance
    mixture: MixtureArrays | None = None


def write(workdir: epath.Path, step: int, moments: MeanAndCovariance, mixture: MixtureArrays | None = None) -> None:
    """Writes what ``Population`` has, of the codes by the checkpoint of ``step``."""
    arrays = dict(zip(MOMENTS, moments, strict=True)) | {_STEP: np.array(step)}
    arrays |= {} if mixture is None else dict(zip(MIXTURE, mixture, strict=True))
    write_atomically(workdir / FILE, save(arrays, with_checksums({}, arrays)))


def read(workdir: epath.Path, step: int, latent_dim: int) -> Population | None:
    """What is stored of the checkpoint of ``step``; None if it is not there, or is of another step.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    require_regular(path)
    try:
        with local_copy(path) as local, safe_open(local, "numpy") as file:
            names = (_STEP, *MOMENTS, *(MIXTURE if set(MIXTURE).intersection(file.keys()) else ()))
            arrays = {name: file.get_tensor(name) for name in names}
            if (reason := damage(file.metadata() or {}, arrays)) is not None:
                raise _damaged(path, reason)
        if int(arrays.pop(_STEP)) != step:
            return None
        _require_sound(path, arrays, latent_dim)
    except (SafetensorError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:  # of odd types
        raise _damaged(path, one_line(error)) from None
    moments, mixture = (tuple(arrays[name] for name in each if name in arrays) for each in (MOMENTS, MIXTURE))
    return Population(moments, mixture or None)


def _require_sound(path: epath.Path, arrays: dict[str, np.ndarray], latent_dim: int) -> None:
    if any(array.dtype.kind != "f" for array in arrays.values()):
        types = " and ".join(str(array.dtype) for array in arrays.values())
        raise _damaged(path, f"types {types}, expected floating point")
    shapes = {name: array.shape for name, array in arrays.items()}
    expected = population_shapes(shapes, latent_dim)
    if shapes != expected:
        found = " and ".join(map(str, shapes.values()))
        raise _damaged(path, f"shapes {found} for {latent_dim} latent dimensions")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise _damaged(path, "values that are not finite")
    if MIXTURE[0] in arrays and not (arrays[MIXTURE[0]] > 0).all():
        raise _damaged(path, "weights of a mixture that are not positive")


def _damaged(path: epath.Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}); delete it: its numbers are then computed from the training images")
