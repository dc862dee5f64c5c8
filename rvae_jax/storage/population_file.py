"""The moments of the training images' codes, in the work directory of a finished run."""

from __future__ import annotations

import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvae_jax.errors import UserError, one_line
from rvae_jax.storage.checksums import damage, with_checksums
from rvae_jax.storage.tensor_file import MOMENTS, MeanAndCovariance, local_copy
from rvae_jax.system.files import require_regular, write_atomically

FILE = "population.safetensors"
_STEP = "step"


def write(workdir: epath.Path, step: int, moments: MeanAndCovariance) -> None:
    """Writes mean ``[d]`` and covariance ``[d, d]`` of the codes by the checkpoint of ``step``."""
    arrays = dict(zip(MOMENTS, moments, strict=True)) | {_STEP: np.array(step)}
    write_atomically(workdir / FILE, save(arrays, with_checksums({}, arrays)))


def read(workdir: epath.Path, step: int, latent_dim: int) -> MeanAndCovariance | None:
    """The moments by the checkpoint of ``step``; None if they are not there, or are of another step.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    require_regular(path)
    try:
        with local_copy(path) as local, safe_open(local, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in (_STEP, *MOMENTS)}
            if (reason := damage(file.metadata() or {}, arrays)) is not None:
                raise _damaged(path, reason)
        if int(arrays[_STEP]) != step:
            return None
        mean, covariance = (arrays[name] for name in MOMENTS)
    except (SafetensorError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:  # of odd types
        raise _damaged(path, one_line(error)) from None
    if (mean.dtype.kind, covariance.dtype.kind) != ("f", "f"):
        raise _damaged(path, f"types {mean.dtype} and {covariance.dtype}, expected floating point")
    if (mean.shape, covariance.shape) != ((latent_dim,), (latent_dim, latent_dim)):
        raise _damaged(path, f"shapes {mean.shape} and {covariance.shape} for {latent_dim} latent dimensions")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise _damaged(path, "values that are not finite")
    return mean, covariance


def _damaged(path: epath.Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}); delete it: its numbers are then computed from the training images")
