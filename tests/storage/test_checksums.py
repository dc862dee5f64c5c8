"""Checksums of arrays against their definition, and against damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rvae_jax.distributed import processes
from rvae_jax.storage.checksums import checksums, checksums_here, with_checksums


def by_definition(array):
    words = np.ravel(array).view(f"u{array.dtype.itemsize}")
    return f"{sum((2 * i + 1) * int(word) for i, word in enumerate(words)) % 2**64:016x}"


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7,), (4, 8), (2, 3, 4, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, jnp.bfloat16, np.uint8, np.float64])
def test_a_checksum_is_as_defined(shape, dtype):
    array = np.random.default_rng(0).normal(scale=100, size=shape).astype(dtype)
    for find in (checksums, checksums_here):
        assert find({"a": [array]}) == {"a/0": by_definition(array)}
    if dtype != np.float64:
        assert checksums({"a": [jnp.asarray(array)]}) == {"a/0": by_definition(array)}


@pytest.mark.parametrize("spec", [(), ("x",), (None, "x"), ("y", "x"), (("x", "y"),)])
def test_the_layout_on_devices_does_not_matter(spec):
    array = np.random.default_rng(0).normal(size=(8, 4, 3)).astype(np.float32)
    mesh = jax.make_mesh((4, 2), ("x", "y"))
    laid_out = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert checksums([laid_out]) == {"0": by_definition(array)}


def test_every_changed_bit_changes_it():
    array = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    found = {checksums_here([array])["0"]}
    for bit in range(array.nbytes * 8):
        content = bytearray(array.tobytes())
        content[bit // 8] ^= 1 << bit % 8
        found.add(checksums_here([np.frombuffer(content, np.float32).reshape(3, 2)])["0"])
    assert len(found) == 1 + array.nbytes * 8


def test_zeroed_pages_and_exchanged_parts_change_it():
    array = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    zeroed, exchanged = array.copy(), array.copy()
    zeroed[1024:2048] = 0
    exchanged[:1024], exchanged[1024:2048] = array[1024:2048], array[:1024]
    assert len({checksums_here([each])["0"] for each in (array, zeroed, exchanged)}) == 3


def test_those_of_files_need_no_other_process(monkeypatch):
    """One process alone writes files, and each reads them by itself."""

    def together(*_):
        raise AssertionError("waits for the others")

    for name in ("exchange", "gather"):
        monkeypatch.setattr(processes, name, together)
    array = np.arange(6, dtype=np.float32)
    assert by_definition(array) in with_checksums({"step": "1"}, {"a": array})["checksums"]
    assert checksums_here([jnp.asarray(array)]) == {"0": by_definition(array)}
