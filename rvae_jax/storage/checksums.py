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
      tree: arrays of JAX or NumPy; with several processes, each calls this with its parts of the same arrays.

    Returns:
      16 hexadecimal digits for each array, in every process.
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    with ThreadPoolExecutor(_THREADS) as pool:
        mine = dict(zip(leaves, pool.map(_sum_here, leaves.values()), strict=True))
    everyone = processes.exchange(mine)
    return {name: f"{sum(each[name] for each in everyone) % _MODULUS:016x}" for name in leaves}


def with_checksums(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The header of a ``.safetensors`` file, with checksums of it and of the file's arrays."""
    return {**header, _HEADER: json.dumps(_of_file(header, arrays))}


def damage(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with the content of a ``.safetensors`` file, in words; None if nothing, or it has no checksums."""
    if _HEADER not in header:
        return None
    try:
        return difference(_of_file(header, arrays), dict(json.loads(header[_HEADER])))
    except (ValueError, TypeError):  # of JSON, of another form
        return "its checksums cannot be read"


def _of_file(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    texts = {f"header/{name}": np.frombuffer(text.encode(), np.uint8) for name, text in header.items()}
    texts.pop(f"header/{_HEADER}", None)
    return checksums({**texts, **arrays})


def difference(found: Mapping[str, str], saved: Mapping[str, str]) -> str | None:
    """In words, which of the arrays do not have the checksums that they were saved with; None if all do."""
    differing = [name for name, checksum in found.items() if saved.get(name) != checksum]
    if not differing:
        return None
    return f"{len(differing)} of {len(found)} arrays are not as they were saved, such as {differing[0]}"


def _sum_here(array: jax.Array | np.ndarray) -> int:
    """The part of the sum that this process has; of equal copies, one counts."""
    if not isinstance(array, jax.Array):
        return _sum(np.asarray(array), (0,) * np.ndim(array), np.shape(array))
    shards = (shard for shard in array.addressable_shards if shard.replica_id == 0)
    return sum(
        _sum(np.asarray(shard.data), tuple(part.start or 0 for part in shard.index), array.shape) for shard in shards
    )


def _sum(part: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """The sum of a part of an array of ``shape`` that begins at ``start``.

    An element's number i is the sum over the axes of stride times position. So sums across all other axes are enough:
    no array of products is made.
    """
    words = part.view(f"u{part.dtype.itemsize}")
    total = int(words.sum(dtype=np.uint64))
    for axis, first in enumerate(start):
        others = tuple(each for each in range(words.ndim) if each != axis)
        sums = words.sum(axis=others, dtype=np.uint64)
        positions = np.arange(first, first + len(sums), dtype=np.uint64)
        total += 2 * math.prod(shape[axis + 1 :]) * int((positions * sums).sum())
    return total
