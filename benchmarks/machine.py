"""Describes the machine, and measures and prints for all benchmarks."""

import os
import pathlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence


def describe() -> str:
    """The CPU's name, the number of cores that this process may use, and the date."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or "unknown CPU"
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {time.strftime('%Y-%m-%d')}"


def cpu_seconds(of: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds so far of this process, or of its ended children; of all cores, including the system's."""
    usage = resource.getrusage(of)
    return usage.ru_utime + usage.ru_stime


def say(text: str) -> None:
    """Reports progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, minimum and maximum, as in ``4.2 (4.1 to 4.6)``."""
    median, least, most = (f"{each:,.{digits}f}" for each in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"
