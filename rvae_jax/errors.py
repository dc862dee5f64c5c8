"""What goes wrong through no fault of the program."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Bad input. The message is one line: which field or file, what was found, what was expected, what to do."""


def one_line(error: BaseException) -> str:
    """An error's message in one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class MissingError(ImportError):
    """A package that an extra brings is not installed; the message says which extra."""


@contextlib.contextmanager
def needs(extra: str, command: bool) -> Iterator[None]:
    """Around imports that an extra of the package brings: if one is missing, says which extra to install.

    Args:
      extra: the extra's name.
      command: whether this is a program, which then ends with that message, and not a module that is imported.

    Raises:
      MissingError: what is imported is missing.
    """
    try:
        yield
    except (ModuleNotFoundError, MissingError) as error:
        message = str(error)  # of a module that has said it of its own extra
        if not isinstance(error, MissingError):
            message = f"{error.name} is missing; pip install 'rvae_jax[{extra}]'"
        if command:
            sys.exit(f"Error: {message}")
        raise MissingError(message) from error
