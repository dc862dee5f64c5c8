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
def test_the_largest_batch_is_found_with_few_compilations(known, padding):
    """Also if the compiler rounds up, and if it refuses to compile what is far too large."""
    asked = []

    def bytes_of(number):
        asked.append(number)
        size = 10 + 2 * (-(-number // padding) * padding)
        return size if size < 1000 else math.inf

    number, size = memory.largest(bytes_of, 210, {each: bytes_of(each) for each in known})
    assert size == bytes_of(number) <= 210
    assert 97 - padding < number <= 100
    assert len(asked) <= 9


def test_no_batch_fits_if_the_state_alone_does_not():
    assert memory.largest(lambda number: 300 + number, 210, {64: 364}) is None
    assert memory.largest(lambda number: math.inf, 210, {64: math.inf}) is None


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def refusal(config, devices, available, per_image):
    """The message for a step that needs 0.1 GB, and ``per_image`` bytes for each image of a device."""

    def bytes_of(batch_size):
        assert batch_size % (devices * config.accumulate_steps) == 0
        return 0.1 * GB + per_image * batch_size / devices / config.accumulate_steps

    with pytest.raises(UserError) as error:
        memory.require_room(config, devices, bytes_of(config.batch_size), available, bytes_of)
    return str(error.value)


@pytest.mark.usefixtures("on_gpu")
def test_a_batch_that_does_not_fit_is_refused_and_the_largest_that_fits_is_named(capsys):
    said = refusal(Config(batch_size=64), 1, 10 * GB, GB)
    assert "--config.batch_size=64: a step needs 64.10 GB per device, which has 10.00 GB; expected at most 8" in said
    assert "Or keep the batch and try --config.remat_stages=2 or --config.accumulate_steps=8" in said
    assert "\n" not in said
    assert "Compiling smaller batches" in capsys.readouterr().out


@pytest.mark.usefixtures("on_gpu")
def test_the_batch_that_fits_is_a_multiple_of_devices_and_accumulation_steps():
    said = refusal(Config(batch_size=96, accumulate_steps=2, remat_stages=1), 4, 10 * GB, GB)
    # 8 images in each of 2 accumulation steps on each of 4 devices; 8 images need 8.10 GB.
    assert "expected at most 64, which needs 8.10 GB" in said
    assert "try --config.accumulate_steps=3" in said and "remat" not in said


def test_accumulation_is_not_offered_with_batch_norm():
    config = Config(batch_size=64)
    config.model.norm = "batch"
    assert "accumulate" not in refusal(config, 1, 10 * GB, GB)


def test_rematerialisation_is_not_offered_on_cpus():
    assert refusal(Config(batch_size=64), 1, 10 * GB, GB).endswith(
        ". Or keep the batch and try --config.accumulate_steps=8"
    )


@pytest.mark.usefixtures("on_gpu")
def test_that_no_batch_fits_is_said():
    said = refusal(Config(batch_size=64), 1, GB, GB)
    assert "no smaller batch fits either. Or keep the batch and try --config.remat_stages=2" in said


def test_a_step_that_the_compiler_refuses_does_not_fit():
    with pytest.raises(UserError, match=r"more than the 10.00 GB that each device has; expected at most 8, "):
        memory.require_room(
            Config(batch_size=64), 1, math.inf, 10 * GB, lambda size: (0.1 + size) * GB if size < 20 else math.inf
        )


def test_only_a_close_fit_is_warned_of(capsys):
    memory.require_room(Config(), 1, 9.5 * GB, 10 * GB, None)
    assert re.search("Warning: --config.batch_size=20: .* may not fit", capsys.readouterr().out)
    memory.require_room(Config(), 1, 8.5 * GB, 10 * GB, None)
    assert not capsys.readouterr().out


def test_the_devices_of_a_cpu_share_the_memory_of_the_machine(monkeypatch):
    whole = memory.limit()
    monkeypatch.setattr(jax, "local_device_count", lambda: 4 * len(jax.local_devices()))
    assert memory.limit() == pytest.approx(whole / 4, abs=1)
    assert 2**30 < whole * len(jax.local_devices()) < 2**50
