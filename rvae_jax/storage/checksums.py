"""Checksums of arrays: what is read is what was saved, however it is laid out on devices and processes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from rvae_jax.distributed import processes

_HEADER = "checksums"  # in the header of a .safetensors file
_MODULUS = 1 << 64
_THREADS = 8


def checksums(tree: Any) -> dict[str, str]:
    """The checksum of every array of a tree, by a name such as ``weights/vae/params/sampler/z_mean/kernel``.

    With the array's bits as words w_0, w_1, ... (one for each element), it is the sum of (2 i + 1) w_i modulo 2^64. One
    changed word always changes it, since 2 i + 1 is odd. The order of the sum does not matter, so each device's part is
    summed where it is, and the result is the same for every sharding.

    Args:
      tree: arrays of JAX or NumPy; several processes call this together, each with its parts of JAX's arrays.

    Returns:
      16 hexadecimal digits for each array, in every process.
    """
    leaves = _by_name(tree)
    with ThreadPoolExecutor(_THREADS) as pool:
        mine = np.array([*pool.map(_sum_of_parts, leaves.values())], np.uint64)
    total = processes.gather(mine[None]).sum(axis=0)
    return {name: _as_text(int(each)) for name, each in zip(leaves, total, strict=True)}


def checksums_here(tree: Any) -> dict[str, str]:
    """As ``checksums``, of arrays that this process has in full, and without the other processes."""
    leaves = _by_name(tree)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(leaves, pool.map(lambda leaf: _as_text(_sum(np.asarray(leaf))), leaves.values()), strict=True))


def difference(found: Mapping[str, str], saved: Mapping[str, str]) -> str | None:
    """In words, which of the arrays do not have the checksums that they were saved with; None if all do."""
    differing = [name for name, checksum in found.items() if saved.get(name) != checksum]
    if not differing:
        return None
    return f"{len(differing)} of {len(found)} arrays are not as they were saved, such as {differing[0]}"


def with_checksums(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The header of a ``.safetensors`` file, with checksums of it and of the file's arrays."""
    return {**header, _HEADER: json.dumps(_of_file(header, arrays))}


def damage(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with the content of a ``.safetensors`` file, in words; None if nothing, or it has no checksums."""
    if _HEADER not in header:
        return None
    try:
        return difference(_of_file(header, arrays), dict(json.loads(header[_HEADER])))
    except (ValueError, TypeError, RecursionError):  # of JSON, of another form
        return "its checksums cannot be read"


def _of_file(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    texts = {f"header/{name}": np.frombuffer(text.encode(), np.uint8) for name, text in header.items()}
    texts.pop(f"header/{_HEADER}", None)
    return checksums_here({**texts, **arrays})


def _by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _as_text(total: int) -> str:
    return f"{total:016x}"


def _sum_of_parts(array: jax.Array | np.ndarray) -> int:
    """The part of the sum that this process has; of equal copies, one counts."""
    if not isinstance(array, jax.Array):  # NumPy's, of which every process has a copy
        return _sum(np.asarray(array)) if processes.is_first() else 0
    shards = (shard for shard in array.addressable_shards if shard.replica_id == 0)
    parts = (_sum(np.asarray(s.data), tuple(part.start or 0 for part in s.index), array.shape) for s in shards)
    return sum(parts) % _MODULUS


def _sum(part: np.ndarray, start: tuple[int, ...] | None = None, shape: tuple[int, ...] | None = None) -> int:
    """The sum of a part of an array of ``shape`` that begins at ``start``; by default, of a complete array.

    An element's number i is the sum over the axes of stride times position. So sums across all other axes are enough:
    no array of products is made.
    """
    start, shape = start or (0,) * part.ndim, shape or part.shape
    words = part.view(f"u{part.dtype.itemsize}")
    total = int(words.sum(dtype=np.uint64))
    for axis, first in enumerate(start):
        others = tuple(each for each in range(words.ndim) if each != axis)
        sums = words.sum(axis=others, dtype=np.uint64)
        positions = np.arange(first, first + len(sums), dtype=np.uint64)
        total += 2 * math.prod(shape[axis + 1 :]) * int((positions * sums).sum())
    return total % _MODULUS
