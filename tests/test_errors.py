import pytest

from rvae_jax.errors import one_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b"), "a b"),
        (KeyError(), "KeyError"),
        (OSError(" \n"), "OSError"),
        (ValueError("x" * 9), "xxxxx"),
    ],
)
def test_an_error_is_one_line_of_limited_length(error, text):
    limit = 5 if text == "xxxxx" else 300
    assert one_line(error, limit) == text
