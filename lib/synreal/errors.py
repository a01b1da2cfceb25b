"""Errors that a user can mend."""

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input: the message names the file or parameter, what was found, what was expected, what to do."""


def shorten(names: Sequence[object], most: int = 8) -> str:
    """The first names of a long list, for error messages."""
    shown = ", ".join(str(name) for name in names[:most])
    return f"[{shown}, ... {len(names)} in all]" if len(names) > most else f"[{shown}]"
