"""Files that are complete or not there, and the folder for what may be deleted at any time."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

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


def require_writable(path: epath.Path, flag: str) -> None:
    """Checks that a file can be written, before work whose result it will hold; makes its folder.

    Raises:
      UserError: it cannot; the message names the flag.
    """
    if is_remote(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".part"):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; expected a file")
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be written: {error.strerror}") from None


def cache_folder(name: str) -> Path:
    """The folder of this user for what can be computed again, such as compiled programs; it may not exist yet."""
    return platformdirs.user_cache_path("rvae_jax", appauthor=False) / name
