import itertools

import jax
import numpy as np
import pytest

from rvae_jax.distributed import sharding


@pytest.mark.parametrize(("style", "shape"), [("jit", (8, 2)), ("pmap", (8, 1, 2))])
def test_batches_come_in_order_split_over_the_devices_and_a_few_ahead(style, shape):
    batches = [np.full((8, 2), number, np.uint8) for number in range(6)]
    read = []
    source = (read.append(number) or batch for number, batch in enumerate(batches))
    layout = sharding.data_parallel(style)
    on_devices = layout.to_devices(source, ahead=2)
    first = next(on_devices)
    assert read == [0, 1, 2]
    assert first.shape == shape
    assert first.sharding.is_equivalent_to(layout.batch, first.ndim)
    assert {shard.data.shape for shard in first.addressable_shards} == {(1, *shape[1:])}
    for expected, found in zip(batches, itertools.chain([first], on_devices), strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found.reshape(8, 2), expected)


def test_local_rows_are_those_that_were_split():
    rows = np.arange(32).reshape(16, 2)
    layout = sharding.data_parallel(devices=list(reversed(jax.devices())))
    np.testing.assert_array_equal(sharding.local_rows(layout.split(rows)), rows)
