"""The kinds of picture files that can be read here: all usual ones, and those of phones by what is installed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.util import find_spec

from rvae_jax.errors import install

_USUAL = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
}
_OF_PHONES = {"AVIF": (".avif",), "HEIF": (".heic", ".heif", ".hif")}  # by Pillow's names of the formats
_DECODERS = {"AVIF": "PIL._avif", "HEIF": "pillow_heif"}
_EXTRA = "heic"

_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"mif1"), "HEIF")

_MISSING = {kind: suffixes for kind, suffixes in _OF_PHONES.items() if find_spec(_DECODERS[kind]) is None}
_READ = _USUAL | {kind: suffixes for kind, suffixes in _OF_PHONES.items() if kind not in _MISSING}
FORMATS = tuple(_READ)
SUFFIXES = tuple(suffix for suffixes in _READ.values() for suffix in suffixes)


@functools.cache
def let_pillow_read_heif() -> None:
    """Before Pillow opens one of ``FORMATS``."""
    if "HEIF" in FORMATS:
        import pillow_heif  # of an extra

        pillow_heif.register_heif_opener()


def missing_for(data: bytes) -> str | None:
    """What to install for a picture, by its first bytes; None where nothing is missing for it."""
    kind = _BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    return f"{kind} needs {install(_EXTRA)}" if kind in _MISSING else None


def left_out(ignored: Mapping[str, int]) -> str | None:
    """How many pictures were left out for want of a decoder, and what to install; None where there are none.

    Args:
      ignored: the numbers of files that were not looked at, by suffix.
    """
    suffixes = [suffix for kinds in _MISSING.values() for suffix in kinds if suffix in ignored]
    if not suffixes:
        return None
    count = sum(ignored[suffix] for suffix in suffixes)
    return f"{count:,} pictures ({', '.join(suffixes)}) were left out: to read them, {install(_EXTRA)}"
