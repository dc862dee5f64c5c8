"""Files that are complete or not there, and the folder for what may be deleted at any time."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import platformdirs
from etils import epath

from rvae_jax.errors import UserError


def is_remote(path: epath.Path) -> bool:
    """Whether it is in an object store."""
    return "://" in str(path)


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that appears under its name only when it is complete; makes its folder."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # An object appears when all of it has arrived, and is slow to rename.
        path.write_bytes(content)
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may write the same file
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def require_regular(path: epath.PathLike, most_bytes: int | None = None) -> None:
    """Checks that what is there is a file that ends, before it is read.

    Args:
      path: the file; one that is missing, or in an object store, is not checked.
      most_bytes: limit of its size, or None.

    Raises:
      UserError: it is a folder, a pipe or a device, or it is too large.
    """
    path = epath.Path(path)
    if is_remote(path) or not path.exists():
        return
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file; expected one, and no folder, pipe or device")
    if most_bytes is not None and status.st_size > most_bytes:
        raise UserError(f"{path} has {status.st_size:,} bytes; expected at most {most_bytes:,}")


def read_json(path: epath.PathLike, most_bytes: int = 1 << 28) -> dict[str, Any]:
    """Reads a file that holds one JSON object, as all do that this program writes.

    Args:
      path: the file.
      most_bytes: limit of its size.

    Raises:
      FileNotFoundError: it is not there.
      UserError: it is no regular file, or too large.
      ValueError: it holds something else.
    """
    require_regular(path, most_bytes)
    try:
        content = json.loads(epath.Path(path).read_bytes())
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    return content


def require_writable(folder: epath.Path, given: str) -> None:
    """Makes a folder, and checks that files can be written there, before the work whose result it will hold.

    Args:
      folder: the folder; one in an object store is not checked.
      given: what the user gave, for the message, such as ``--workdir=runs/orl``.

    Raises:
      UserError: it cannot be written to.
    """
    if is_remote(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part"):
            pass
    except OSError as error:
        raise UserError(f"{given}: cannot be written to: {error.strerror}") from None


def cache_folder(name: str) -> Path:
    """The folder of this user for what can be computed again, such as compiled programs; it may not exist yet."""
    return platformdirs.user_cache_path("rvae_jax", appauthor=False) / name
