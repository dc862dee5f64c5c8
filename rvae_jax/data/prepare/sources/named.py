"""Opens the pictures that a user names: a path, or one of the known face data sets."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from rvae_jax.data.prepare.sources import faces, portraits
from rvae_jax.data.prepare.sources.opening import open_path, open_paths
from rvae_jax.data.prepare.sources.source import Source
from rvae_jax.data.prepared import PORTRAITS
from rvae_jax.errors import UserError


@contextlib.contextmanager
def open_named(
    name: str, path: Path | None, data_dir: Path, height: int, count: int | None = None, further: Sequence[str] = ()
) -> Iterator[Source]:
    """The pictures that ``name`` means: ``celeb_a``, ``celeb_a_hq``, ``lfw``, ``portraits``, a folder, a zip or a tar.

    Args:
      name: the data set's name or the path.
      path: where the archives of a named one are, if not where TFDS has them.
      data_dir: folder of prepared data sets. A compressed tar is unpacked there, and removed when this ends.
      height: the largest height wanted.
      count: how many portraits.
      further: paths of further folders, zips or tars, where ``name`` is a path, too.

    Raises:
      UserError: it is not there, or cannot be downloaded.
    """
    prefix = f".unpacked.{socket.gethostname()}."
    _remove_left_over(data_dir, prefix)
    scratch = data_dir / f"{prefix}{os.getpid()}"
    try:
        if name == PORTRAITS and not further:
            yield _open_portraits(count, height)
        else:
            yield _open([name, *further], path, data_dir, scratch, height)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_left_over(data_dir: Path, prefix: str) -> None:
    """Removes what processes of this host unpacked that were killed since."""
    for folder in data_dir.glob(f"{prefix}*"):
        try:
            os.kill(int(folder.name.removeprefix(prefix)), 0)
        except ProcessLookupError:  # it was killed
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, ValueError):  # of another user, or of a host whose name begins with this one's
            continue


def _open_portraits(count: int | None, height: int) -> Source:
    if count is None and Path(PORTRAITS).exists():
        raise UserError(
            f"{PORTRAITS} may be the portraits that this program generates, or what has that name here; expected"
            f" {PORTRAITS} --count={portraits.COUNT}, or ./{PORTRAITS}"
        )
    return portraits.open_portraits(count, height)


def _open(names: Sequence[str], path: Path | None, data_dir: Path, scratch: Path, height: int) -> Source:
    name = names[0]
    try:
        if len(names) > 1:
            return open_paths([Path(each).expanduser() for each in names], scratch)
        if name in faces.FACE_SETS:
            return faces.FACE_SETS[name].open(path, data_dir, scratch, height)
        folder = Path(name).expanduser()
        if faces.is_celebamask_hq(folder):
            return faces.open_celebamask_hq(folder)
        return open_path(folder, scratch)
    except OSError as error:
        raise UserError(f"{error.filename or name}: {error.strerror or error}; expected pictures to read") from error
