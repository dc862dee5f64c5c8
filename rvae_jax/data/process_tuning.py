"""What a process that works on many images sets for itself. Importing this package sets none of it."""

from __future__ import annotations

import cv2


def tune_this_process() -> None:
    """Makes OpenCV and the C library's memory fast for many images; called by commands and by their worker processes.

    OpenCV's own threads are switched off: images are worked on in threads or processes already. The memory of an image
    is kept when it is freed: glibc keeps freed blocks of up to the size of the largest one that was freed so far.
    Otherwise it returns the memory of every image to the system and asks for it anew, which at 256x256 takes as long as
    the rest of the preparation.
    """
    cv2.setNumThreads(0)
    bytes(31 << 20)  # made and freed; below glibc's limit of 32 MiB
