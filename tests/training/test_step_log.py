"""What a run says of its steps, and how far it goes ahead of them."""

import time
import types

import jax.numpy as jnp
import pytest

from rvae_jax.config import Config, replace_fields
from rvae_jax.errors import UserError
from rvae_jax.training.metric_log import SilentWriter
from rvae_jax.training.step_log import StepLog


def step_log(checkpoints=None, **changes):
    config = replace_fields(Config(), {"steps": 100, "log_every": 50, "batch_size": 10, "eval_every": 100, **changes})
    return StepLog(types.SimpleNamespace(config=config, sources={}), checkpoints, 0, SilentWriter())


class Running:
    """A metric of a step that takes some seconds; ``waits`` has the steps that were waited for."""

    def __init__(self, step, seconds, waits):
        self._step, self._seconds, self._waits = step, seconds, waits

    def block_until_ready(self):
        time.sleep(self._seconds)
        self._waits.append(self._step)


def test_a_step_is_dispatched_when_the_one_before_the_last_is_done():
    log, waits = step_log(), []
    for number in range(1, 6):
        log.add(number, {"loss/total": Running(number, 0.0, waits)})
        assert waits == list(range(1, number))


def test_the_pace_is_said_after_two_steps_where_the_first_row_is_far(capsys):
    for seconds, said in ((0.2, True), (0.0, False)):
        log = step_log(**{"loss.texture_start": 60, "loss.adversarial_start": 60})
        for number in range(1, 5):
            log.add(number, {"loss/total": Running(number, seconds, [])})
        lines = capsys.readouterr().out.splitlines()
        assert [line.startswith("step 2/100  0.") and "s a step, " in line for line in lines] == [True] * said
        assert all(line.endswith("to step 60, where texture starts") for line in lines)


def test_the_time_left_is_to_the_start_of_texture_and_then_to_the_end(capsys):
    log = step_log(**{"loss.texture_start": 20, "loss.adversarial_start": 20})
    for number in (10, 20, 30):
        log.add(number, {"loss/total": jnp.float32(1), "loss/reconstruction": jnp.float32(0.1)})
        log.write()
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.endswith("to step 20, where texture starts") and second.endswith("s to step 20, where texture starts")
    assert third.endswith(" left")


@pytest.mark.parametrize(
    ("saved", "clip_norm", "expected"),
    [
        (
            [],
            None,
            "stopped; there was no checkpoint yet. Try --config.optimizer.learning_rate=3e-05",
        ),
        (
            [5, 9],
            None,
            "stopped; checkpoints of steps 5, 9 are intact. Try .* or --config.*clip_norm=1000, in",
        ),
        ([5], 20.0, "Try .* or --config.optimizer.clip_norm=2, in a new --workdir"),
    ],
)
def test_advice_for_a_loss_that_is_not_finite_fits_the_run(saved, clip_norm, expected):
    checkpoints = types.SimpleNamespace(steps=lambda: saved)
    log = step_log(checkpoints, **{"optimizer.clip_norm": clip_norm})
    log.add(12, {"loss/total": jnp.float32("nan"), "loss/reconstruction": jnp.float32(0.1)})
    with pytest.raises(UserError, match=f"step 12: loss/total is nan; .*{expected}"):
        log.write()
