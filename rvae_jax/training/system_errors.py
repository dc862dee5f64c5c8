"""Errors of the system during a run, in one line: a full disk, a folder that is gone, a device that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from etils import epath

from rvae_jax.errors import PassingError, UserError
from rvae_jax.storage.checkpoints import complete_steps
from rvae_jax.system.files import is_remote

# They stay until somebody puts them right: starting again would fail again.
_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EPIPE)


@contextlib.contextmanager
def system_errors_named(workdir: epath.Path) -> Iterator[None]:
    """Says in one line what the system refused, and which checkpoints are left.

    Enter it before the checkpoints are opened: when it lists them, they are closed, and a save that failed has ended.

    Raises:
      UserError: it lasts, such as a full disk, or a folder that is gone or read-only.
      PassingError: it may pass, such as a device or a server that did not answer.
    """
    try:
        yield
    except (UserError, PassingError):
        raise
    except Exception as error:
        found = _refusal(error)
        is_gone = not is_remote(workdir) and not workdir.exists()
        if found is None and not is_gone:
            raise
        number, reason = (errno.ENOSPC, "the folder is gone") if is_gone else found
        saved = ", ".join(map(str, complete_steps(workdir)))
        there = f"complete checkpoints are there of steps {saved}" if saved else "there is no complete checkpoint"
        kind, advice = (UserError, "Put that right, and run") if number in _LASTING else (PassingError, "Run")
        raise kind(f"--workdir={workdir}: {reason}; {there}. {advice} the same command again") from error


def _refusal(error: BaseException | None) -> tuple[int, str] | None:
    """The number of the system's error that an error comes from, and the error in words; None if it comes from none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            place = "" if error.filename is None else f"{error.filename}: "
            return error.errno, f"{place}{os.strerror(error.errno)}"
        if found := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
            return int(found[1]), os.strerror(int(found[1]))
        error = error.__cause__ or error.__context__
    return None
