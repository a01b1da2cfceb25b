"""Which captions speak of a class: explicit matchers, with synonyms and exclusions per class.

P2's "substring" retrieval was an unquoted full-text query, which is the `tokens` matcher here: "great white
shark" also matches "a great photo of a shark on white sand".
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args
from unicodedata import normalize

import numpy as np
import pandas as pd
import regex
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from synreal.errors import InputError, shorten
from synreal.strict_yaml import read_yaml

Matcher = Literal["tokens", "phrase", "regex", "substring"]
WORD = regex.compile(r"(?:[^\W_]|\p{M})+")  # with combining marks, which are parts of words in many scripts


class ClassQuery(BaseModel):
    """What to look for in captions for one class.

    patterns: what the regex matcher looks for in place of the name and its synonyms, which stay the label and
    the texts that CLIP compares with images. Without patterns it looks for the terms as they are written.
    exclude: terms; for the regex matcher, patterns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1)
    synonyms: tuple[str, ...] = Field((), strict=False)
    exclude: tuple[str, ...] = Field((), strict=False)
    patterns: tuple[str, ...] = Field(default=(), strict=False)

    @property
    def terms(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.synonyms)

    def sought(self, matcher: Matcher) -> tuple[str, ...]:
        """What to give this matcher: the terms, or patterns for regex."""
        if matcher != "regex":
            return self.terms
        return self.patterns or tuple(regex.escape(term) for term in self.terms)


def read_classes(file: str | Path) -> list[ClassQuery]:
    """The classes of a YAML file: a list of names, or of mappings with the fields of ClassQuery.

    Raises InputError for a file that says anything else, or says a class twice.
    """
    path = Path(file)
    entries = read_yaml(path, "a list of classes")
    if not isinstance(entries, list):
        raise InputError(
            f"{path}: found {type(entries).__name__}, expected a list of classes, such as `- cat`"
        )
    for entry in entries:
        if not isinstance(entry, str | dict):
            raise InputError(
                f"{path}: found {entry!r} in the list of classes, expected text; put it in quotes"
            )
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    try:
        queries = TypeAdapter(list[ClassQuery]).validate_python(entries)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"{path}: entry {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    check_classes(queries, str(path))
    return queries


def check_classes(queries: Sequence[ClassQuery], where: str) -> None:
    """Raise InputError when there are no classes, or two of one name."""
    names = [query.name for query in queries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise InputError(f"{where}: found {shorten(names)}; expected different classes, at least one")


def fold(text: str) -> str:
    """The text with differences of case and of compatible characters removed.

    Unicode's compatibility caseless form, composed again: casefold and NFKC, until nothing changes.
    """
    decomposed = normalize("NFKD", normalize("NFD", text).casefold())
    return normalize("NFKC", normalize("NFKD", decomposed.casefold()))


def compatible(pattern: str) -> str:
    """A pattern with compatible characters replaced as NFKC does it in captions; none becomes an operator."""

    def replaced(found: regex.Match) -> str:
        text = found[0]
        return text if text.isascii() else regex.escape(normalize("NFKC", text.removeprefix("\\")))

    return normalize("NFKC", regex.sub(r"(?s)\\.|[^\x00-\x7f]", replaced, normalize("NFC", pattern)))


class Captions:
    """Captions made ready for many queries. A caption that is None counts as empty and matches nothing."""

    def __init__(self, captions: Sequence[str | None]) -> None:
        self._captions = [caption or "" for caption in captions]
        self._texts = pd.Series([fold(caption) for caption in self._captions], dtype="str")

    def __len__(self) -> int:
        return len(self._texts)

    def matches(self, terms: Sequence[str], matcher: Matcher) -> np.ndarray:
        """Which captions match at least one of the terms: bool [N].

        tokens: every word of the term occurs, anywhere. phrase: its words occur one after the other.
        substring: its characters occur, within words too. regex: the pattern occurs, in any case; compatible
        characters, such as letters of full width, are the same in patterns as in captions.
        Words are runs of letters, digits and marks; scripts written without spaces need substring.
        Raises InputError for an empty term and for a pattern that does not compile.
        """
        if matcher not in get_args(Matcher):
            raise InputError(f"matcher: found {matcher!r}, expected one of {', '.join(get_args(Matcher))}")
        found = np.zeros(len(self), bool)
        for term in terms:
            found |= getattr(self, f"_{matcher}")(term)
        return found

    @cached_property
    def _words(self) -> list[list[str]]:
        return [WORD.findall(text) for text in self._texts]

    @cached_property
    def _compatible(self) -> list[str]:
        """Not folded: of a pattern only the `regex` module knows what is text, whose case may be folded."""
        return [normalize("NFKC", caption) for caption in self._captions]

    @cached_property
    def _spaced(self) -> pd.Series:
        return pd.Series([f" {' '.join(words)} " for words in self._words], dtype="str")

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Word -> rows of the captions that hold it."""
        rows: dict[str, list[int]] = {}
        for row, words in enumerate(self._words):
            for word in set(words):
                rows.setdefault(word, []).append(row)
        return {word: np.array(where) for word, where in rows.items()}

    def _tokens(self, term: str) -> np.ndarray:
        found = np.ones(len(self), bool)
        for word in set(_words_of(term)):
            has = np.zeros(len(self), bool)
            has[self._rows.get(word, [])] = True
            found &= has
        return found

    def _phrase(self, term: str) -> np.ndarray:
        found = self._tokens(term)
        rows = np.flatnonzero(found)
        phrase = f" {' '.join(_words_of(term))} "
        found[rows] = self._spaced.iloc[rows].str.contains(phrase, regex=False).to_numpy(bool)
        return found

    def _substring(self, term: str) -> np.ndarray:
        if not fold(term).strip():
            raise InputError(f"term {term!r}: it is empty and would match every caption; remove it")
        return self._texts.str.contains(fold(term), regex=False).to_numpy(bool)

    def _regex(self, term: str) -> np.ndarray:
        try:
            pattern = regex.compile(compatible(term), regex.IGNORECASE | regex.FULLCASE)
        except regex.error as error:
            raise InputError(f"term {term!r}: not a regular expression ({error})") from error
        if pattern.search(""):
            raise InputError(f"term {term!r}: the pattern matches an empty caption, so it matches every one")
        return np.array([pattern.search(text) is not None for text in self._compatible], bool)


def matcher_counts(captions: Sequence[str | None], queries: Sequence[ClassQuery]) -> pd.DataFrame:
    """How many captions each matcher finds: a row per class, a column per matcher. Exclusions don't count."""
    ready = Captions(captions)
    counts = {
        matcher: [int(ready.matches(query.sought(matcher), matcher).sum()) for query in queries]
        for matcher in get_args(Matcher)
    }
    return pd.DataFrame(counts, index=pd.Index([query.name for query in queries], name="class"))


def _words_of(term: str) -> list[str]:
    words = WORD.findall(fold(term))
    if not words:
        raise InputError(f"term {term!r}: it holds no word; use the matcher substring, or remove it")
    return words
