"""Options of the form NAME=PLACE, which several commands take."""

from synreal.errors import InputError


def named_place(option: str, text: str, example: str) -> tuple[str, str]:
    """("name", "place") of "name=place". Raises InputError, with an example, when one is missing."""
    name, equals, place = text.partition("=")
    if not (equals and name and place):
        raise InputError(f"{option} {text}: expected a name and a place, for example {option} {example}")
    return name, place
