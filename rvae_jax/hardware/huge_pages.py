"""Large memory pages for computing on the CPU."""

import os
import signal
import sys

from rvae_jax.system import signals


def missing() -> dict[str, str]:
    """The environment variables that are still missing for large pages.

    glibc reads its settings when a process starts. Nothing is missing on systems other than Linux, or if the user has
    set ``GLIBC_TUNABLES``.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return {}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def use() -> None:
    """Restarts the program in the same process, unless the environment is set for large pages already.

    XLA's CPU backend allocates its temporary results anew in each step, and the system clears each page first. With
    pages of 4 KB that takes a fifth of a training step's time (docs/performance.md). Signals that come meanwhile wait
    for ``system.signals.exit_at_once``: Python would meet them with a traceback while it starts.
    """
    if found := missing():
        sys.stdout.flush()
        os.environ |= found
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
