"""Stored embeddings of a corpus, and the content hashes that say which image each belongs to."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pandas as pd

from synreal.errors import InputError, shorten

MANIFEST = "embeddings.json"
HASHES = "stamps"  # key of the content hashes in files; another would embed every corpus anew
What = Literal["image", "caption"]


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of a corpus, by id."""

    what: What
    model: str  # name of the checkpoint
    fingerprint: str  # of the checkpoint, see Encoder
    content: str  # hash of what was embedded, and of its ids
    ids: list[str]
    shards: list[np.ndarray]  # float16 [n, D] each, memory-mapped
    missing: dict[str, str] = field(default_factory=dict)  # id -> why there is no vector
    column: str = "image"  # what was embedded: image, caption, or a column of vectors that the corpus carries
    hashes: dict[str, str] = field(default_factory=dict)  # id -> what was embedded, see content_hashes

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return self.shards[0].shape[1]

    def check_ids(self, ids: set[str]) -> None:
        """Raise InputError when the rows embedded, or found without content, are not these."""
        if other := sorted(ids ^ {*self.ids, *self.missing}):
            raise InputError(
                f"embedded: {len(other)} ids are in the corpus or among its {self.what} embeddings, but not "
                f"in both: {shorten(other)}; embed this corpus, see embed_corpus"
            )

    def blocks(self, rows: int = 65536) -> Iterator[np.ndarray]:
        """All vectors in order, float32 [at most `rows`, D] at a time."""
        for shard in self.shards:
            for start in range(0, len(shard), rows):
                yield _unit(shard[start : start + rows])

    def take(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """The vectors of these ids, float32 [N, D]. InputError for ids without a vector."""
        rows = self._row_of.get_indexer(pd.Index(ids, dtype=object))
        if (rows < 0).any():
            unknown = [key for key, row in zip(ids, rows, strict=True) if row < 0]
            raise InputError(f"{len(unknown)} ids have no {self.what} embedding: {shorten(unknown)}")
        return self.rows(rows)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """The vectors at these places, int [N], 0 up to len(self): float32 [N, D]."""
        ends = np.cumsum([len(shard) for shard in self.shards])
        place = np.searchsorted(ends, rows, side="right")
        vectors = np.empty((len(rows), self.size), np.float32)
        for number in np.unique(place):
            here, shard = place == number, self.shards[number]
            vectors[here] = shard[rows[here] - (ends[number] - len(shard))]
        return _unit(vectors)

    @cached_property
    def _row_of(self) -> pd.Index:
        return pd.Index(self.ids, dtype=object)


def load_embeddings(folder: str | Path) -> Embeddings:
    """The embeddings in a folder that `embed_set` filled. InputError when it is not there or unfinished."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: no {MANIFEST} there; expected a folder written by embed_set")
    manifest = json.loads((folder / MANIFEST).read_text())
    starts = range(0, manifest["count"], manifest["shard"])
    unfinished = [start for start in starts if not record_path(folder, start).exists()]
    if unfinished:
        raise InputError(
            f"{folder}: {len(unfinished)} of {len(starts)} shards are not there yet; run embed_set again, "
            "which goes on where it stopped"
        )
    records = [json.loads(record_path(folder, start).read_text()) for start in starts]
    if any(HASHES not in record for record in records):
        raise InputError(f"{folder}: does not say what each row held; run embed_set again, which replaces it")
    shards = [np.load(vector_path(folder, start), mmap_mode="r") for start in starts]
    ids = [key for record in records for key in record["ids"]]
    missing = {key: reason for record in records for key, reason in record["missing"].items()}
    if not ids:
        what = "an image" if manifest["what"] == "image" else "a caption"
        raise InputError(f"{folder}: none of {len(missing)} rows holds {what} to embed")
    content = hashlib.sha256(" ".join(record["content"] for record in records).encode()).hexdigest()[:16]
    origin = (manifest["what"], manifest["model"], manifest["fingerprint"], content)
    filled = [shard for shard in shards if len(shard)]
    hashes = dict(zip(ids, (own for record in records for own in record[HASHES]), strict=True))
    return Embeddings(*origin, ids, filled, missing, records[0]["column"], hashes)


def vector_path(folder: Path, start: int) -> Path:
    """Where the vectors of the shard that begins with this row lie."""
    return folder / f"{start:010d}.npy"


def record_path(folder: Path, start: int) -> Path:
    """Where its ids lie; the shard counts once this file exists."""
    return folder / f"{start:010d}.json"


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Half precision leaves lengths that are 1 to three digits; these are 1 to seven."""
    wide = vectors.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


# Content hashes: one per row of a corpus, which changes when what is embedded of the row does.


Row = dict[str, Any]
SAMPLED = 2000  # rows of a corpus that are compared with what was embedded before anything is retrieved


def content_hashes(rows: datasets.Dataset, column: str) -> list[str]:
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
    known, column = embeddings.hashes, embeddings.column
    if column not in rows.column_names:
        raise InputError(
            f"embedded: the corpus has no column {column}, which was embedded; embed this corpus"
        )
    part = rows.select(np.flatnonzero([key in known for key in rows["id"]]))
    now = zip(part["id"], content_hashes(part, column), strict=True)
    if changed := [key for key, content in now if content != known[key]]:
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
