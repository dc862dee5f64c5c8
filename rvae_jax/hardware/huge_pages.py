"""Large pages for what the host computes in."""

import os
import sys


def missing() -> dict[str, str]:
    """What glibc, which reads its settings when a process starts, must find in the environment to ask for large pages.

    Nothing where there is no glibc of Linux, or a ``GLIBC_TUNABLES``, which stays as it is.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return {}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def use() -> None:
    """Starts the program again, as the same process, unless the environment has all that it needs for large pages.

    XLA's CPU backend takes the memory of temporary results from the system at each step, and gives it back. In pages of
    4 KB, each of which the system first clears, that is a fifth of the time of a training step (docs/performance.md).
    """
    if found := missing():
        sys.stdout.flush()
        os.environ |= found
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
