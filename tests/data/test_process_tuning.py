import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rvae_jax.data

ROOT = Path(__file__).parents[2]
MODULES = sorted(module.name for module in pkgutil.walk_packages(rvae_jax.data.__path__, "rvae_jax.data."))

# Prints whether a call changes what belongs to the process. What the libraries themselves change when they are imported
# is not looked at.
_SCRIPT = """\
import ctypes, importlib, logging, platform, signal, sys
import absl.logging, cv2, grain, jax, tensorflow_datasets
from PIL import Image, PngImagePlugin
from array_record.python import array_record_module


class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "usmblks fsmblks uordblks fordblks keepcost".split()]


def is_mapped():
    \"\"\"Whether the C library asks the system for the memory of a large image each time.\"\"\"
    if platform.libc_ver()[0] != "glibc":
        return None
    count = ctypes.CDLL(None).mallinfo2
    count.restype = Memory
    before = count().hblks
    large = bytes(30 << 20)
    return count().hblks > before


def state():
    return {
        "Pillow": (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY),
        "OpenCV": cv2.getNumThreads(),
        "absl": (absl.logging.get_verbosity(), logging.root.level, list(logging.root.handlers)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "JAX": dict(jax.config.values),
    }


cv2.setNumThreads(3)
before = state()
[importlib.import_module(name) for name in sys.argv[1:]]
print("changed:", *(name for name, value in state().items() if value != before[name]), flush=True)
print("mapped:", is_mapped())
if not sys.argv[1:]:
    from rvae_jax.data.process_tuning import tune_this_process

    tune_this_process()
    print("changed:", *(name for name, value in state().items() if value != before[name]))
    print("mapped:", is_mapped())
"""


def _run(*modules):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, *modules]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_importing_any_module_of_data_leaves_the_process_as_it_was():
    assert len(MODULES) > 20
    changed, mapped = _run(*MODULES)
    assert changed == "changed:"
    assert mapped in ("mapped: True", "mapped: None")


def test_a_process_is_tuned_when_that_is_asked_for():
    _, before, changed, after = _run()
    assert changed == "changed: OpenCV"
    if before == "mapped: None":
        pytest.skip("the C library is not glibc")
    assert (before, after) == ("mapped: True", "mapped: False")
