"""Errors that are not the program's fault, and how messages quote errors of other libraries."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Bad input. The message is one line: which field or file, what was found, what was expected, what to do."""


class MissingError(ImportError):
    """A package of an extra is not installed; the message names the extra."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error's text on one line of at most ``limit`` characters; the name of its type if it has no text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


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
            message = f"{error.name} is missing; pip install 'rvae_jax[{extra}]'"
        if command:
            sys.exit(f"Error: {message}")
        raise MissingError(message) from error
