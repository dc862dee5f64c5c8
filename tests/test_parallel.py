import itertools

import jax
import numpy as np

from rvae_jax import parallel


def test_batches_come_in_order_split_over_the_devices_and_a_few_ahead():
    batches = [np.full((8, 2), number, np.uint8) for number in range(6)]
    read = []
    source = (read.append(number) or batch for number, batch in enumerate(batches))
    sharding, _ = parallel.data_parallel()
    on_devices = parallel.to_devices(source, sharding, ahead=2)
    first = next(on_devices)
    assert read == [0, 1, 2]
    assert first.sharding.is_equivalent_to(sharding, 2)
    assert {shard.data.shape for shard in first.addressable_shards} == {(8 // jax.device_count(), 2)}
    for expected, found in zip(batches, itertools.chain([first], on_devices), strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
