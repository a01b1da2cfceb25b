"""Options of the form NAME=PLACE, which several commands take."""

from collections import Counter
from collections.abc import Sequence

from synreal.errors import InputError


def named_places(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """The places by name. Raises InputError when a name or place is missing, and for a repeated name."""
    pairs = [_named_place(option, text, example) for text in texts]
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise InputError(f"{option}: the names {twice} are taken; expected another name for each place")
    return dict(pairs)


def _named_place(option: str, text: str, example: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not (equals and name and place):
        raise InputError(f"{option} {text}: expected a name and a place, for example {option} {example}")
    return name, place
