import math
import re

import jax
import pytest

from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.hardware import memory

GB = 1e9


@pytest.mark.parametrize("known", [(8,), (40, 80), (800,), (800, 1600), (80, 100, 120)])
@pytest.mark.parametrize("padding", [1, 8])
def test_largest_is_found_by_few_compilations(known, padding):
    """Also where the compiler rounds up, and where it refuses all that is far too large."""
    asked = []

    def bytes_of(number):
        asked.append(number)
        size = 10 + 2 * (-(-number // padding) * padding)
        return size if size < 1000 else math.inf

    number, size = memory.largest(bytes_of, 210, {each: bytes_of(each) for each in known})
    assert size == bytes_of(number) <= 210
    assert 97 - padding < number <= 100
    assert len(asked) <= 9


def test_nothing_fits_where_the_state_alone_does_not():
    assert memory.largest(lambda number: 300 + number, 210, {64: 364}) is None
    assert memory.largest(lambda number: math.inf, 210, {64: math.inf}) is None


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def refusal(config, devices, available, per_image):
    """What is said of a step that needs 0.1 GB and so many for each of a device's images."""

    def bytes_of(batch_size):
        assert batch_size % (devices * config.accumulate_steps) == 0
        return 0.1 * GB + per_image * batch_size / devices / config.accumulate_steps

    with pytest.raises(UserError) as error:
        memory.require_room(config, devices, bytes_of(config.batch_size), available, bytes_of)
    return str(error.value)


@pytest.mark.usefixtures("on_gpu")
def test_a_batch_without_room_is_refused_with_one_that_has(capsys):
    said = refusal(Config(batch_size=64), 1, 10 * GB, GB)
    assert (
        "--config.batch_size=64: a step needs 64.10 GB of each device, and there are 10.00 GB; expected at most 8"
        in said
    )
    assert "try it with --config.remat_stages=2 or --config.accumulate_steps=8" in said
    assert "\n" not in said
    assert "Compiling smaller batches" in capsys.readouterr().out


@pytest.mark.usefixtures("on_gpu")
def test_the_batch_that_fits_is_a_multiple_of_devices_and_parts():
    said = refusal(Config(batch_size=96, accumulate_steps=2, remat_stages=1), 4, 10 * GB, GB)
    # 8 images of a device's part are 8.10 GB; twice as many on each of 4 devices.
    assert "expected at most 64, which needs 8.10 GB" in said
    assert "try it with --config.accumulate_steps=3" in said and "remat" not in said


def test_batch_norm_is_not_told_to_accumulate():
    config = Config(batch_size=64)
    config.model.norm = "batch"
    assert "accumulate" not in refusal(config, 1, 10 * GB, GB)


def test_cpus_are_not_told_of_rematerialisation_which_saves_nothing_there():
    assert refusal(Config(batch_size=64), 1, 10 * GB, GB).endswith(". Or try it with --config.accumulate_steps=8")


@pytest.mark.usefixtures("on_gpu")
def test_no_batch_may_fit():
    said = refusal(Config(batch_size=64), 1, GB, GB)
    assert "no smaller one fits either. Or try it with --config.remat_stages=2" in said


def test_what_the_compiler_refuses_is_more_than_there_is():
    with pytest.raises(UserError, match=r"a step needs more than the 10.00 GB of each device; expected at most 8, "):
        memory.require_room(
            Config(batch_size=64), 1, math.inf, 10 * GB, lambda size: (0.1 + size) * GB if size < 20 else math.inf
        )


def test_a_close_fit_is_warned_of_and_a_good_one_is_not(capsys):
    memory.require_room(Config(), 1, 9.5 * GB, 10 * GB, None)
    assert re.search("Warning: --config.batch_size=20: .* may not fit", capsys.readouterr().out)
    memory.require_room(Config(), 1, 8.5 * GB, 10 * GB, None)
    assert not capsys.readouterr().out


def test_a_cpus_devices_share_the_machines_memory(monkeypatch):
    whole = memory.limit()
    monkeypatch.setattr(jax, "local_device_count", lambda: 4 * len(jax.local_devices()))
    assert memory.limit() == pytest.approx(whole / 4, abs=1)
    assert 2**30 < whole * len(jax.local_devices()) < 2**50
