"""The one exception for what a user can put right."""


class UserError(Exception):
    """Bad input. The message is one line: which field or file, what was found, what was expected, what to do."""
