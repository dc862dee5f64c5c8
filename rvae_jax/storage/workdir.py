"""The work directory of a run, and the configuration that is kept in it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator

import filelock
from etils import epath

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.distributed import processes
from rvae_jax.errors import UserError, install
from rvae_jax.system.files import is_remote, read_json, require_writable, write_atomically

CONFIG_FILE = "config.json"
LOCK_FILE = "training.lock"
EVALUATION_FILE = "evaluation.json"

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems, such as some of clusters
_SHOWN = 3  # fields that differ
_MOST_BYTES = 1 << 20  # of config.json, which has a few thousand


def open_workdir(path: epath.PathLike, flag: str = "--workdir") -> epath.Path:
    """The path of a work directory, or of another flag, local or in an object store such as ``gs://BUCKET/PATH``.

    Raises:
      UserError: it is empty or of a kind that is not supported, or it is in an object store, and the package that reads
        the store is not installed.
    """
    if not os.fspath(path):
        raise UserError(f"{flag} is empty; expected a path")
    scheme, separator, _ = os.fspath(path).partition("://")
    if separator and scheme != "gs":
        raise UserError(f"{flag}={os.fspath(path)}: expected a path here, or gs://BUCKET/PATH")
    workdir = epath.Path(path).expanduser()  # a shell does not expand the ~ of --workdir=~/runs
    if is_remote(workdir):
        try:
            workdir.exists()
        except ImportError as error:
            raise UserError(f"{flag}={workdir}: {error.name} is missing; {install('gcs')}") from None
    return workdir


def read_config(workdir: epath.Path) -> Config:
    """The configuration of the run in ``workdir``.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = workdir / CONFIG_FILE
    try:
        content = read_json(path, _MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"{workdir} holds no run: there is no {CONFIG_FILE}; expected the --workdir of a run") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); put back a copy, or use another --workdir") from None
    try:
        config = config_lib.from_dict(content)
        config_lib.validate_networks(config)
        return config
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def require_same(workdir: epath.Path, config: Config) -> Config | None:
    """Raises if ``workdir`` holds a run of another configuration.

    Schedules are compared in the steps that they mean at the length of the run there. So a run goes on by its schedules
    as they are written, which follow another length, and also by the same schedules written in steps, which stay.

    Returns:
      The configuration of the run there, or None if there is no run.

    Raises:
      UserError: it holds a run whose configuration differs in a field outside ``config.MAY_CHANGE``.
    """
    if not (workdir / CONFIG_FILE).exists():
        return None
    there = read_config(workdir)
    same_length = config_lib.replace_fields(config, {"steps": there.steps})
    found = config_lib.differences(config_lib.in_steps(same_length), config_lib.in_steps(there))
    differing = [name for name in found if name not in config_lib.MAY_CHANGE]
    if differing == ["data.name"] and config.data.folder is not None and config.data.folder == there.data.folder:
        raise UserError(
            f"--workdir={workdir} holds a run on {there.data.name}, but the files in --config.data.folder have changed"
            f" since; to go on with it, give --config.data.name={there.data.name} instead; to train on what is there"
            " now, give another --workdir"
        )
    if differing:
        listed = ", ".join(
            f"{name} is {config_lib.get_field(there, name)!r} there and {config_lib.get_field(config, name)!r} here"
            for name in differing[:_SHOWN]
        )
        listed += f" and so on, {len(differing)} fields in all" * (len(differing) > _SHOWN)
        raise UserError(
            f"--workdir={workdir} holds a run with another configuration: {listed}; use another --workdir, or that"
            " configuration"
        )
    return there


def make_folder(workdir: epath.Path) -> None:
    """Makes the folder unless it is there; files can be written in it.

    Raises:
      UserError: it is a file or lies in one, or it cannot be made or written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--workdir={workdir} is a file; expected a folder, or a path where one can be made") from None
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from None
    require_writable(workdir, f"--workdir={workdir}")


@contextlib.contextmanager
def training_lock(workdir: epath.Path) -> Iterator[None]:
    """Makes the folder; within the context, no other command trains in it.

    The lock ends with the process. Object stores have none.

    Raises:
      UserError: another process trains there, or see ``make_folder``.
    """
    lock = None
    with processes.together():
        if processes.is_first():
            make_folder(workdir)
        if processes.is_first() and not is_remote(workdir):
            lock = filelock.FileLock(workdir / LOCK_FILE, fallback_to_soft=False)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                raise UserError(
                    f"--workdir={workdir}: another process is training there; wait for it, stop it, or give another"
                    " --workdir"
                ) from None
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                print(f"Warning: {workdir} cannot be locked: see to it that no second command trains there")
                lock = None
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # the folder may be gone
                lock.release()


def claim(workdir: epath.Path, config: Config) -> Config | None:
    """Makes the folder ``workdir`` the work directory of the run ``config``, unless it already is.

    Returns:
      The configuration that was there before, or None.

    Raises:
      UserError: it cannot be written to, or it holds another run; see ``require_same``.
    """
    before = require_same(workdir, config)
    content = json.dumps(config_lib.to_dict(config), indent=2) + "\n"
    try:
        write_atomically(workdir / CONFIG_FILE, content.encode())
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: {CONFIG_FILE} cannot be written: {error.strerror}; put that right, and run the same"
            " command again"
        ) from None
    return before
