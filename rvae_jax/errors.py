"""Errors that are not the program's fault, and what messages quote: others' errors, names, and commands."""

import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """Bad input. The message is one line: which field or file, what was found, what was expected, what to do."""


class PassingError(Exception):
    """The system refused what it may do the next time. The message is one line."""


class MissingError(ImportError):
    """A package of an extra is not installed; the message names the extra."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error's text on one line of at most ``limit`` characters; the name of its type if it has no text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its text, of at most 200 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def printable(name: str) -> str:
    """A name of a file for a terminal: what is no text, or would control the terminal, is spelled out."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


def command(name: str) -> str:
    """A command of this program, in the form in which the one that is running was given: ``rvae NAME`` or a module."""
    return f"rvae {name}" if sys.argv[0].startswith("rvae ") else f"python -m rvae_jax.{name}"


def install(extra: str) -> str:
    """The command that installs an extra from where this program came: a clone, a wheel, an address, or an index."""
    try:
        record = importlib.metadata.distribution("rvae_jax").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # run from a clone, by its path
        return f"pip install -e '{_from_here(Path(__file__).parents[1])}[{extra}]'"
    origin = json.loads(record or "{}")
    if "url" not in origin:
        return f"pip install 'rvae_jax[{extra}]'"
    if origin.get("dir_info", {}).get("editable"):
        from urllib.parse import urlparse  # slow, and needed here alone
        from urllib.request import url2pathname

        return f"pip install -e '{_from_here(Path(url2pathname(urlparse(origin['url']).path)))}[{extra}]'"
    return f"pip install 'rvae_jax[{extra}] @ {origin['url']}'"


def _from_here(folder: Path) -> str:
    return "." if folder.resolve() == Path.cwd() else str(folder)


@contextlib.contextmanager
def needs(extra: str, command: bool) -> Iterator[None]:
    """Wraps imports of an extra's packages; if one is missing, names the extra to install.

    Args:
      extra: name of the extra.
      command: whether the importing module is a command, which then exits with the message.

    Raises:
      MissingError: a package is missing and ``command`` is false.
    """
    try:
        yield
    except (ModuleNotFoundError, MissingError) as error:
        message = str(error)  # of a module that has named its own extra
        if not isinstance(error, MissingError):
            message = f"{error.name} is missing; {install(extra)}"
        if command:
            sys.exit(f"Error: {message}")
        raise MissingError(message) from error
