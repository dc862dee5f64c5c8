import os
import subprocess
import sys

import pytest

from rvae_jax.hardware import huge_pages

SCRIPT = """
import os, sys
from rvae_jax.hardware import huge_pages
print("started", flush=True)
huge_pages.use()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:])
"""


def _run(**environment):
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", SCRIPT, "an argument"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=inherited | environment) as process:
        return process.pid, process.stdout.read().splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_the_program_restarts_once_in_the_same_process_with_its_arguments():
    pid, lines = _run()
    assert lines == ["started", "started", f"{pid} glibc.malloc.hugetlb=1 an argument"]


def test_the_setting_of_the_user_is_kept(monkeypatch):
    pid, lines = _run(GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert lines == ["started", f"{pid} glibc.malloc.hugetlb=0 an argument"]
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert huge_pages.missing() == {}
