"""How images of a class are looked up: which words in captions, and which neighbours by CLIP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from synreal.data.labels import shorten
from synreal.errors import InputError
from synreal.paths import located
from synreal.retrieve.match import ClassQuery, Matcher, read_classes
from synreal.retrieve.semantic import Semantic


@dataclass(frozen=True)
class Lookup:
    """A matcher of captions by name, or "none"; and the `nearest` neighbours of each text of a class.

    classes: YAML file, see `read_classes`; empty for the names of the classes alone.
    Raises InputError for another matcher, fewer than 0 neighbours, and when neither way is left.
    """

    classes: str = ""
    matcher: str = "tokens"
    nearest: int = 0

    def __post_init__(self) -> None:
        known = (*get_args(Matcher), "none")
        if self.matcher not in known:
            raise InputError(f"matcher: found {self.matcher!r}, expected one of {', '.join(known)}")
        least = 1 if self.matcher == "none" else 0
        if self.nearest < least:
            raise InputError(
                f"nearest: found {self.nearest}, expected {least} or more with matcher {self.matcher}"
            )

    def ways(self, captioned: bool) -> tuple[Matcher | None, Semantic | None]:
        """What `retrieve` takes: the matcher, and a search of the images and, if there are any, captions."""
        chosen: dict[str, Matcher] = {name: name for name in get_args(Matcher)}
        semantic = Semantic(self.nearest, captions=captioned) if self.nearest else None
        return chosen.get(self.matcher), semantic

    def queries(self, names: Sequence[str]) -> list[ClassQuery]:
        """A query for each of these classes; InputError where the file lacks one.

        Without a file, a class whose name is part of another's excludes that one ("shirt" is no "t-shirt")
        where captions are matched; without a matcher, a corpus needs no captions.
        """
        if not self.classes:
            longer = {name: tuple(n for n in names if name in n and n != name) for name in names}
            matched = self.matcher != "none"
            return [
                ClassQuery(name=name, synonyms=(), exclude=longer[name] if matched else ()) for name in names
            ]
        by_name = {query.name: query for query in read_classes(located(self.classes))}
        if lacking := [name for name in names if name not in by_name]:
            raise InputError(f"classes: {self.classes} lacks {shorten(lacking)}, which are classes of a task")
        return [by_name[name] for name in names]
