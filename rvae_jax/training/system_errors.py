"""Errors of the system during a run, in one line: a full disk, a folder that is gone, a device that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from etils import epath

from rvae_jax.errors import PassingError, UserError
from rvae_jax.storage.checkpoints import complete_steps
from rvae_jax.system.files import is_remote
from rvae_jax.system.refusals import Refusal, refusal


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
        found = Refusal("the folder is gone", None, passes=False) if _is_gone(workdir) else refusal(error)
        if found is None:
            raise
        kind, advice = (PassingError, "Run") if found.passes else (UserError, "Put that right, and run")
        place = found.path or f"--workdir={workdir}"
        raise kind(f"{place}: {found.reason}; {_left(workdir)}. {advice} the same command again") from error


def _is_gone(workdir: epath.Path) -> bool:
    try:
        return not is_remote(workdir) and not workdir.exists()
    except OSError:  # the device fails here, too
        return False


def _left(workdir: epath.Path) -> str:
    """What is left, in words."""
    if is_remote(workdir):
        return f"{workdir} has the checkpoints that were complete"
    try:
        steps = ", ".join(map(str, complete_steps(workdir)))
    except OSError:  # the device fails here, too
        return f"which checkpoints {workdir} has cannot be seen"
    return f"{workdir} has complete checkpoints of steps {steps}" if steps else f"{workdir} has no complete checkpoint"
