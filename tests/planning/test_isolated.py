import math
import os
import time

import pytest

from rvae_jax.errors import UserError
from rvae_jax.planning import isolated
from rvae_jax.planning.isolated import NotCompiledError


def test_the_result_of_the_function_is_returned():
    assert isolated.run(math.gcd, 12, 18, what="a divisor", time_limit_s=60.0) == 6


def test_a_function_that_takes_too_long_is_ended():
    with pytest.raises(NotCompiledError, match="4 images per device: not compiled within 1s; raise --time_limit_s"):
        isolated.run(time.sleep, 60.0, what="4 images per device", time_limit_s=1.0)


def test_a_crash_is_reported_with_its_status():
    with pytest.raises(NotCompiledError, match="crashing: the compiler ended with status -6"):
        isolated.run(os.abort, what="crashing", time_limit_s=60.0)


def test_an_exception_is_reported_on_one_line():
    with pytest.raises(UserError, match=r"^ValueError: math domain error$"):
        isolated.run(math.sqrt, -1.0, what="a root", time_limit_s=60.0)
