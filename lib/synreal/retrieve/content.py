"""What of a corpus is embedded: its images, its captions, or vectors that it carries already."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import datasets
import numpy as np
from PIL import Image

from synreal.data.decode import DECODING_ERRORS, open_record, to_rgb
from synreal.data.overlap import reason_of
from synreal.errors import InputError
from synreal.retrieve.encoder import Encoder
from synreal.retrieve.stamps import Row, rows_of

COMPARED, SEARCHED = 8, 64  # carried vectors that are made again, and rows drawn to look for them
SAME = 0.98  # cosine; half precision and other decoders stay above 0.999, other models far below


class Content(Protocol):
    """One kind of content; rows are those of an image set whose images are not decoded."""

    column: str  # of the rows, that holds it

    def read(self, row: Row) -> Any:
        """The content of a row; raises one of DECODING_ERRORS where there is none."""

    def encode(self, contents: Sequence[Any]) -> np.ndarray:
        """Unit vectors, float32 [N, D]."""


class Images:
    """The images, decoded."""

    column = "image"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def read(self, row: Row) -> Image.Image:
        return to_rgb(open_record(row["image"]))

    def encode(self, contents: Sequence[Image.Image]) -> np.ndarray:
        return self._encoder(contents)


class CaptionTexts:
    """The captions."""

    column = "caption"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def read(self, row: Row) -> str:
        if not (row["caption"] or "").strip():
            raise ValueError("the row holds no caption")
        return row["caption"]

    def encode(self, contents: Sequence[str]) -> np.ndarray:
        return self._encoder.texts(contents)


class Carried:
    """Vectors in a column of the corpus, as the encoder would make them."""

    def __init__(self, column: str, encoder: Encoder) -> None:
        self.column, self._encoder = column, encoder

    def read(self, row: Row) -> np.ndarray:
        vector = np.asarray(row[self.column] or [], np.float32)
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or length == 0:
            raise ValueError(f"column {self.column} holds no vector, or one that is not finite or zero")
        return vector / length

    def encode(self, contents: Sequence[np.ndarray]) -> np.ndarray:
        name, shape = self._encoder.name, (self._encoder.size,)
        if wrong := [vector.shape for vector in contents if vector.shape != shape]:
            raise InputError(f"column {self.column}: vectors of shape {wrong[0]}, but {name} makes {shape}")
        return np.stack(contents)


def check_carried(rows: datasets.Dataset, carried: Carried, computed: Content, encoder: Encoder) -> None:
    """Raise InputError when vectors of the column are not what `encoder` makes.

    Vectors of another model are not told by their shape, so a few are made again: of rows drawn from the
    whole corpus, since one that was put together may have begun with another model.
    """
    column = carried.column
    drawn = np.random.default_rng(0).choice(len(rows), min(SEARCHED, len(rows)), replace=False)
    pairs = list(islice(_both(rows.select(drawn), carried, computed), COMPARED))
    if not pairs:
        raise InputError(f"column {column}: no vector beside an image in {len(drawn)} rows drawn to check it")
    given = carried.encode([vector for vector, _ in pairs])
    cosine = (given * computed.encode([content for _, content in pairs])).sum(axis=1).min()
    if cosine < SAME:
        raise InputError(
            f"column {column}: not made by {encoder.name}, whose own vectors differ (cosine {cosine:.3f}); "
            "name the checkpoint that made the column, or leave the column out to embed anew"
        )


def read_all(rows: Sequence[Row], content: Content) -> tuple[list[str], list[Any], dict[str, str]]:
    """(ids of rows that have content, the contents, id -> why there is none)."""
    ids, contents, missing = [], [], {}
    for row in rows:
        try:
            contents.append(content.read(row))
            ids.append(row["id"])
        except DECODING_ERRORS as error:
            missing[row["id"]] = reason_of(error)
    return ids, contents, missing


def _both(rows: datasets.Dataset, first: Content, second: Content) -> Iterator[tuple[Any, Any]]:
    for batch in rows_of(rows):
        for row in batch:
            good = [contents for _, contents, _ in (read_all([row], c) for c in (first, second)) if contents]
            if len(good) == 2:
                yield good[0][0], good[1][0]
