"""Errors that a user can mend."""


class InputError(ValueError):
    """Bad input: the message names the file or parameter, what was found, what was expected, what to do."""
