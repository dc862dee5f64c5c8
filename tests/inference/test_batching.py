import jax
import numpy as np
import pytest

from rvae_jax.inference.batching import Batched


@pytest.mark.parametrize("count", [1, 7, 8, 16, 100])
def test_every_row_once_and_in_order_on_all_devices(count):
    placed = []

    def function(weight, x, y):
        jax.debug.inspect_array_sharding(x, callback=lambda sharding: placed.append(sharding.num_devices))
        return {"sum": weight * x + y, "rows": x[:, 0]}

    x, y = np.random.default_rng(0).normal(size=(2, count, 3)).astype(np.float32)
    batched = Batched(function, np.float32(2.0), batch_size=4)
    found = batched(x, y)
    np.testing.assert_allclose(found["sum"], 2 * x + y, rtol=1e-6)
    np.testing.assert_array_equal(found["rows"], x[:, 0])
    assert len(jax.devices()) == 8 and set(placed) == {8}
    batched(x, y)
    assert len(placed) == 1, "compiled more than once"


def test_progress_is_shown_by_name(capsys):
    Batched(lambda _, x: x)(np.zeros((5, 1), np.float32), label="looking")
    assert "looking: 100%" in capsys.readouterr().err


def test_requests_of_any_size_compile_few_programs(caplog):
    batched = Batched(lambda weight, x: {"product": weight * x}, np.float32(2.0), batch_size=4)
    with jax.log_compiles():
        for count in [*range(1, 40), 100, 333]:
            x = np.arange(count, dtype=np.float32)[:, None]
            np.testing.assert_array_equal(batched(x)["product"], 2 * x)
    assert len(jax.devices()) == 8
    compiled = [record for record in caplog.records if record.getMessage().startswith("Compiling ")]
    assert len(compiled) == 3, "of 1, 2 and 4 rows a device"
