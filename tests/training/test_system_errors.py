"""What the system refuses is one line, and its kind says whether to start again."""

import errno

import pytest
from etils import epath

from rvae_jax.errors import PassingError, UserError
from rvae_jax.training.system_errors import system_errors_named

REFUSALS = {
    "full": (OSError(errno.ENOSPC, "", "x/metrics.jsonl"), UserError, "x/metrics.jsonl: No space left on device"),
    "elsewhere": (PermissionError(errno.EACCES, "", "/else"), UserError, "/else: Permission denied"),
    "no reader": (BrokenPipeError(errno.EPIPE, ""), UserError, "Broken pipe"),
    "device": (OSError(errno.EIO, ""), PassingError, "Input/output error"),
    "server": (TimeoutError(errno.ETIMEDOUT, ""), PassingError, "Connection timed out"),
    "TensorStore's": (ValueError("UNKNOWN: Error [os_error_code='5']\nmore"), PassingError, "Input/output error"),
    "TensorStore's, full": (
        ValueError("RESOURCE_EXHAUSTED [os_error_code='28']"),
        UserError,
        "No space left on device",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("is_cause", [False, True])
def test_a_refusal_is_one_line(name, is_cause, tmp_path):
    error, kind, expected = REFUSALS[name]
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises((UserError, PassingError)) as refused, system_errors_named(epath.Path(tmp_path)):
        if is_cause:
            raise RuntimeError("of another library") from error
        raise error
    assert type(refused.value) is kind
    advice = "Put that right, and run" if kind is UserError else "Run"
    there = "complete checkpoints are there of steps 4"
    assert str(refused.value) == f"--workdir={tmp_path}: {expected}; {there}. {advice} the same command again"


def test_an_error_of_the_program_stays_what_it_is(tmp_path):
    with pytest.raises(KeyError), system_errors_named(epath.Path(tmp_path)):
        raise KeyError("x")


def test_what_the_user_can_put_right_stays_what_it_is(tmp_path):
    with pytest.raises(UserError, match=r"^mine$"), system_errors_named(epath.Path(tmp_path)):
        raise UserError("mine") from OSError(errno.EIO, "")
