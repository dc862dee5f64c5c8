"""What the system refuses: which of its errors another error comes from, and whether it may pass."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import socket
import ssl

# They stay until somebody puts them right: starting again would fail again.
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
# A device or a server that failed may answer the next time. Others, such as a missing file, are errors of a program.
_PASSING = {
    *(errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.EPIPE),
    *(errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
}


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What the system refused.

    Attributes:
      reason: in words.
      path: the file or folder, or None.
      passes: whether the same may succeed the next time.
    """

    reason: str
    path: str | None
    passes: bool


def refusal(error: BaseException | None) -> Refusal | None:
    """The refusal that an error comes from, or None."""
    while error is not None:
        if found := _own_refusal(error):
            return found
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _own_refusal(error: BaseException) -> Refusal | None:
    if isinstance(error, socket.gaierror | ssl.SSLError | TimeoutError):  # their numbers are not the system's
        return Refusal(error.strerror or str(error) or "timed out", None, passes=True)
    if isinstance(error, OSError):
        number, path = error.errno, None if error.filename is None else str(error.filename)
        reason = error.strerror or str(error)
    elif found := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
        number, path = int(found[1]), None
        reason = os.strerror(number)
    else:
        return None
    return Refusal(reason, path, number in _PASSING) if number in _LASTING | _PASSING else None
