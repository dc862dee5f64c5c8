"""The types of the command's arguments, for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path


def size(text: str) -> tuple[int, int]:
    """``64`` or ``64x48``, as (height, width)."""
    height, _, width = text.partition("x")
    try:
        found = int(height), int(width or height)
    except ValueError:
        found = (0, 0)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a size such as 64, or 64x48 for a height of 64")
    return found


def crop(text: str) -> tuple[int, int] | str:
    """A size, or ``max``."""
    return text if text == "max" else size(text)


def number(least: float, most: float) -> Callable[[str], float]:
    """A number in a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a number from {least:g} to {most:g}")
        return value

    return parse


def value_range(text: str) -> tuple[float, float] | str:
    """``LOW,HIGH``, or ``auto``."""
    if text == "auto":
        return text
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; expected LOW,HIGH such as 0,4095, or auto")
    return low, high


def count(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1")
    return int(text)


def path(text: str) -> Path:
    """A path; a shell does not expand the ~ of --from=~/archives."""
    return Path(text).expanduser()
