import jax
import pytest


@pytest.fixture
def float64():
    """Computes in float64, for exact identities."""
    with jax.enable_x64(True):
        yield
