import importlib.metadata
import json
import pathlib
import sys
import types

import pytest

from rvae_jax.errors import command, install, one_line


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


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'rvae_jax[interop]'"),
        ({"url": "file:///a%20b/clone", "dir_info": {"editable": True}}, "pip install -e '/a b/clone[interop]'"),
        ({"url": "file:///x/rvae_jax-0.1.0-py3-none-any.whl"}, "pip install 'rvae_jax[interop] @ file:///x/rvae_jax-"),
        ({"url": "https://host/r.git", "vcs_info": {}}, "pip install 'rvae_jax[interop] @ https://host/r.git'"),
    ],
)
def test_an_extra_is_installed_from_where_the_program_came(origin, command, monkeypatch):
    record = types.SimpleNamespace(read_text=lambda _: origin and json.dumps(origin))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: record)
    assert install("interop").startswith(command)


def test_commands_are_named_as_the_one_that_is_running(monkeypatch):
    assert command("report") == "python -m rvae_jax.report"
    monkeypatch.setattr(sys, "argv", ["rvae evaluate", "--workdir=x"])
    assert command("report") == "rvae report"


def test_an_extra_is_installed_from_the_clone_in_which_the_program_is(monkeypatch):
    def missing(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    root = pathlib.Path(__file__).parents[1]
    monkeypatch.chdir(root)
    assert install("train") == "pip install -e '.[train]'"
    monkeypatch.chdir(root.parent)
    assert install("train") == f"pip install -e '{root}[train]'"
