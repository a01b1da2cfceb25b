"""Stamps of what is embedded: one per row of a corpus, which changes when the row's content does."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from synreal.data.labels import shorten
from synreal.errors import InputError
from synreal.retrieve.embeddings import Embeddings

Row = dict[str, Any]
SAMPLED = 2000  # rows of a corpus that are compared with what was embedded before anything is retrieved


def stamps_of(rows: datasets.Dataset, column: str) -> list[str]:
    """sha256 of each row's content, cheap to get; images are not decoded.

    column: "image" (the encoded bytes count; of an image left on disk, size and time), "caption", or one of
    vectors.
    """
    known: dict[str, Callable[[Row], bytes]] = {"image": _image, "caption": _caption}
    seen = known.get(column, partial(_vector, column))
    kept = rows.select_columns([column])
    if column == "image":
        kept = kept.cast_column(column, datasets.Image(decode=False))
    return [hashlib.sha256(seen(row)).hexdigest() for batch in rows_of(kept) for row in batch]


def refuse_changed(embeddings: Embeddings, rows: datasets.Dataset) -> None:
    """Raise InputError when rows of a corpus hold anything else than what was embedded under their ids."""
    known, column = embeddings.stamps, embeddings.column
    if column not in rows.column_names:
        raise InputError(
            f"embedded: the corpus has no column {column}, which was embedded; embed this corpus"
        )
    part = rows.select(np.flatnonzero([key in known for key in rows["id"]]))
    now = zip(part["id"], stamps_of(part, column), strict=True)
    if changed := [key for key, stamp in now if stamp != known[key]]:
        raise InputError(
            f"embedded: {len(changed)} of {len(part)} rows compared hold another {column} than was "
            f"embedded: {shorten(changed)}; embed this corpus, see embed_corpus"
        )


def sampled_rows(corpus: datasets.Dataset) -> datasets.Dataset:
    """Rows from all of the corpus, always the same ones."""
    if len(corpus) <= SAMPLED:
        return corpus
    drawn = np.random.default_rng(0).choice(len(corpus), SAMPLED, replace=False)
    return corpus.select(np.sort(drawn))


def rows_of(rows: datasets.Dataset, batch_size: int = 1024) -> Iterator[list[Row]]:
    """The rows, a list of dictionaries at a time."""
    for batch in rows.iter(batch_size=batch_size):
        yield [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def _image(row: Row) -> bytes:
    record = row["image"] or {"bytes": b"", "path": None}
    if record["bytes"] is not None or record["path"] is None:
        return record["bytes"] or b""
    path = Path(record["path"])
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode() if path.is_file() else b""


def _caption(row: Row) -> bytes:
    return (row["caption"] or "").encode()


def _vector(column: str, row: Row) -> bytes:
    return np.asarray(row[column] or [], np.float32).tobytes()
