"""What the system refuses is one line, and its kind says whether to start again."""

import errno
import os
import pathlib
import socket
import ssl
import subprocess
import sys

import pytest
from etils import epath

from rvae_jax.errors import PassingError, UserError
from rvae_jax.training.system_errors import system_errors_named

ROOT = pathlib.Path(__file__).parents[2]


def refusal(number, path=None):
    return OSError(number, os.strerror(number), path)


REFUSALS = {
    "full": (refusal(errno.ENOSPC), UserError, "No space left on device"),
    "elsewhere": (refusal(errno.EACCES, "/else"), UserError, "/else: Permission denied"),
    "device": (refusal(errno.EIO), PassingError, "Input/output error"),
    "server": (refusal(errno.ETIMEDOUT), PassingError, "Connection timed out"),
    "name": (
        socket.gaierror(-3, "Temporary failure in name resolution"),
        PassingError,
        "Temporary failure in name res",
    ),
    "TLS": (ssl.SSLError(1, "[SSL] record layer failure"), PassingError, "[SSL] record layer failure"),
    "TensorStore's": (ValueError("UNKNOWN: Error [os_error_code='5']\nmore"), PassingError, "Input/output error"),
    "TensorStore's, full": (ValueError("Error [os_error_code='28']"), UserError, "No space left on device"),
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
    said = str(refused.value)
    assert said.startswith(expected if name == "elsewhere" else f"--workdir={tmp_path}: {expected}")
    advice = "Put that right, and run" if kind is UserError else "Run"
    assert said.endswith(f"; {tmp_path} has complete checkpoints of steps 4. {advice} the same command again")


def test_a_device_that_fails_again_does_not_hide_the_error(tmp_path, monkeypatch):
    def fail(_):
        raise refusal(errno.EIO)

    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(type(epath.Path(tmp_path)), "iterdir", fail)
    seen = r"No space left on device; which checkpoints .* has cannot be seen"
    with pytest.raises(UserError, match=seen), system_errors_named(epath.Path(tmp_path)):
        raise refusal(errno.ENOSPC)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EISDIR, errno.EINVAL])
def test_a_file_that_is_missing_or_of_another_kind_is_an_error_of_the_program(number, tmp_path):
    with pytest.raises(OSError) as kept, system_errors_named(epath.Path(tmp_path)):
        raise refusal(number, "x")
    assert kept.value.errno == number


def test_an_error_that_was_dealt_with_is_not_the_cause(tmp_path):
    with pytest.raises(KeyError), system_errors_named(epath.Path(tmp_path)):
        try:
            raise refusal(errno.EIO)
        except OSError:
            raise KeyError("x") from None


SCRIPT = """
from rvae_jax import command_line, errors, main
from rvae_jax.training import loop

def train(*_, **__):
    raise errors.KIND("in one line")

loop.train = train
command_line.run(main.main, main.CONFIG, required=["config", "workdir"])
"""


@pytest.mark.parametrize(("kind", "status"), [("UserError", 1), ("PassingError", 70)])
def test_the_status_says_whether_to_start_again(kind, status, tmp_path):
    line = [sys.executable, "-c", SCRIPT.replace("KIND", kind), "--config=orl:tiny", f"--workdir={tmp_path}"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.splitlines()[-1:]) == (status, ["Error: in one line"])


def test_an_error_of_the_program_stays_what_it_is(tmp_path):
    with pytest.raises(KeyError), system_errors_named(epath.Path(tmp_path)):
        raise KeyError("x")


def test_what_the_user_can_put_right_stays_what_it_is(tmp_path):
    with pytest.raises(UserError, match=r"^mine$"), system_errors_named(epath.Path(tmp_path)):
        raise UserError("mine") from OSError(errno.EIO, "")
