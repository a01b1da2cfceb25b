"""Embeddings of a corpus: unit vectors in shards on disk, opened without being read into memory.

A folder holds `embeddings.json` (what was embedded, by which model), and per shard `0000000.npy` (float16
[n, D]) with `0000000.json` (ids, the rows without an image, and the hash of what was embedded).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import datasets
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from synreal.data.decode import DECODING_ERRORS, open_record, to_rgb
from synreal.data.labels import shorten
from synreal.errors import InputError
from synreal.retrieve.encoder import Encoder

MANIFEST = "embeddings.json"
What = Literal["image", "caption"]
Read = Callable[[dict[str, Any]], Any]  # the content of a row; raises one of DECODING_ERRORS where none is


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of a corpus, by id."""

    what: What
    model: str  # name of the checkpoint
    fingerprint: str  # of the checkpoint, see Encoder
    ids: list[str]
    shards: list[np.ndarray]  # float16 [n, D] each, memory-mapped
    missing: dict[str, str] = field(default_factory=dict)  # id -> why there is no vector

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return self.shards[0].shape[1]

    @cached_property
    def content(self) -> str:
        """16 hexadecimal digits of the ids and of what model made vectors of them."""
        parts = "\n".join([self.what, self.fingerprint, *self.ids])
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def blocks(self, rows: int = 65536) -> Iterator[np.ndarray]:
        """All vectors in order, float32 [at most `rows`, D] at a time."""
        for shard in self.shards:
            for start in range(0, len(shard), rows):
                yield _unit(shard[start : start + rows])

    def take(self, ids: Sequence[str]) -> np.ndarray:
        """The vectors of these ids, float32 [N, D]. InputError for ids without a vector."""
        rows = self._row_of.get_indexer(pd.Index(ids))
        if (rows < 0).any():
            unknown = [key for key, row in zip(ids, rows, strict=True) if row < 0]
            raise InputError(f"{len(unknown)} ids have no {self.what} embedding: {shorten(unknown)}")
        vectors = np.empty((len(rows), self.size), np.float32)
        place = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(place):
            here = place == number
            shard = self.shards[number]
            vectors[here] = shard[rows[here] - (self._ends[number] - len(shard))]
        return _unit(vectors)

    @cached_property
    def _row_of(self) -> pd.Index:
        return pd.Index(self.ids)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(shard) for shard in self.shards])


def embed_set(
    images: datasets.Dataset,
    encoder: Encoder,
    folder: str | Path,
    what: What = "image",
    shard: int = 8192,
    column: str | None = None,
) -> Embeddings:
    """The embeddings of an image set (or corpus) by a checkpoint, computed into `folder` shard by shard.

    what: its images, or its column caption. column: vectors that the set already carries, taken instead of
    computing them; the first eight are computed, and refused where they differ.
    A shard that exists and holds the same content is not computed again, so an interrupted run goes on, and a
    corpus that has grown costs only what was added. Rows without an image that can be decoded (or without a
    caption) get no vector; `missing` lists them.
    Raises InputError when the folder holds shards of another model, kind or size, and when nothing is there
    to embed.
    """
    if what not in get_args(What):
        raise InputError(f"what: found {what!r}, expected image or caption")
    for name in (what, column or what):
        if name not in images.column_names:
            raise InputError(f"no column {name} to embed; found {shorten(images.column_names, 20)}")
    folder = Path(folder)
    _claim(folder, encoder, what, shard, len(images))
    source = _source(images, encoder, what, column)
    for start in tqdm(range(0, len(images), shard), desc=f"embed {what}s", delay=5):
        _embed_shard(source, slice(start, min(start + shard, len(images))), folder)
    return load_embeddings(folder)


def load_embeddings(folder: str | Path) -> Embeddings:
    """The embeddings in a folder that `embed_set` has filled. InputError when it is not there or unfinished."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: no {MANIFEST} there; expected a folder written by embed_set")
    manifest = json.loads((folder / MANIFEST).read_text())
    starts = range(0, manifest["count"], manifest["shard"])
    unfinished = [start for start in starts if not _record_path(folder, start).exists()]
    if unfinished:
        raise InputError(
            f"{folder}: {len(unfinished)} of {len(starts)} shards are not there yet; run embed_set again, "
            "which goes on where it stopped"
        )
    records = [json.loads(_record_path(folder, start).read_text()) for start in starts]
    vectors = [np.load(_vector_path(folder, start), mmap_mode="r") for start in starts]
    ids = [key for record in records for key in record["ids"]]
    missing = {key: reason for record in records for key, reason in record["missing"].items()}
    if not ids:
        raise InputError(f"{folder}: none of {len(missing)} rows holds a {manifest['what']} to embed")
    keep = [block for block in vectors if len(block)]
    return Embeddings(manifest["what"], manifest["model"], manifest["fingerprint"], ids, keep, missing)


@dataclass(frozen=True)
class _Source:
    """What a shard is made from: rows, how a row is read and hashed, and how contents become vectors."""

    rows: datasets.Dataset
    read: Read
    stamp: Callable[[dict[str, Any]], bytes]
    encode: Callable[[list[Any]], np.ndarray]


def _source(images: datasets.Dataset, encoder: Encoder, what: What, column: str | None) -> _Source:
    rows = images.select_columns(list(dict.fromkeys(["id", what, *([column] if column else [])])))
    if what == "image":
        rows = rows.cast_column("image", datasets.Image(decode=False))
    computed = (
        _Source(rows, _read_image, _stamp_image, encoder)
        if what == "image"
        else _Source(rows, _read_caption, lambda row: (row["caption"] or "").encode(), encoder.texts)
    )
    if column is None:
        return computed
    carried = _Source(
        rows, lambda row: _read_vector(row, column), lambda row: repr(row[column]).encode(), _stack
    )
    _check_carried(carried, computed, column, encoder)
    return carried


def _embed_shard(source: _Source, cut: slice, folder: Path) -> None:
    rows = source.rows.select(range(cut.start, cut.stop))
    content = _content(rows, source.stamp)
    record = _record_path(folder, cut.start)
    if record.exists() and json.loads(record.read_text())["content"] == content:
        return
    record.unlink(missing_ok=True)  # its vectors are about to be replaced
    ids, missing, parts = [], {}, []
    for batch in rows.iter(batch_size=1024):
        good, bad, contents = _read_batch(batch, source.read)
        ids += good
        missing |= bad
        if good:
            parts.append(source.encode(contents).astype(np.float16))
    vectors = np.concatenate(parts) if parts else np.empty((0, 0), np.float16)
    _write_whole(_vector_path(folder, cut.start), lambda file: _save_array(file, vectors))
    text = json.dumps({"content": content, "ids": ids, "missing": missing})
    _write_whole(record, lambda file: file.write_text(text))


def _read_batch(batch: dict[str, list[Any]], read: Read) -> tuple[list[str], dict[str, str], list[Any]]:
    """(ids that have content, id -> reason of the others, the contents)."""
    ids, missing, contents = [], {}, []
    for values in zip(*batch.values(), strict=True):
        row = dict(zip(batch, values, strict=True))
        try:
            contents.append(read(row))
            ids.append(row["id"])
        except DECODING_ERRORS as error:
            missing[row["id"]] = str(error) or type(error).__name__
    return ids, missing, contents


def _read_image(row: dict[str, Any]) -> Any:
    return to_rgb(open_record(row["image"]))


def _read_caption(row: dict[str, Any]) -> str:
    if not (row["caption"] or "").strip():
        raise ValueError("the row holds no caption")
    return row["caption"]


def _read_vector(row: dict[str, Any], column: str) -> np.ndarray:
    if row[column] is None:
        raise ValueError(f"column {column} holds no vector")
    vector = np.asarray(row[column], np.float32)
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise ValueError(f"column {column} holds a vector of length {length}")
    return vector / length


def _stack(vectors: list[np.ndarray]) -> np.ndarray:
    return np.stack(vectors)


def _check_carried(carried: _Source, computed: _Source, column: str, encoder: Encoder) -> None:
    """Vectors that another model made are not told by their shape; the first few are made again."""
    batch = carried.rows[:64]
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    pairs = []
    for row in rows:
        try:
            pairs.append((carried.read(row), computed.read(row)))
        except DECODING_ERRORS:
            continue
    if not pairs:
        return
    given = [vector for vector, _ in pairs[:8]]
    if any(vector.shape != (encoder.size,) for vector in given):
        raise InputError(
            f"column {column}: vectors of shape {given[0].shape}, but {encoder.name} makes {encoder.size}"
        )
    cosine = (np.stack(given) * computed.encode([content for _, content in pairs[:8]])).sum(axis=1)
    if cosine.min() < 0.98:  # half precision and other decoders stay above 0.999
        raise InputError(
            f"column {column}: not made by {encoder.name}: cosine {cosine.min():.3f} to the vector it makes; "
            "name the checkpoint that made the column, or leave the column out to embed anew"
        )


def _claim(folder: Path, encoder: Encoder, what: What, shard: int, count: int) -> None:
    settings = {"what": what, "model": encoder.name, "fingerprint": encoder.fingerprint, "shard": shard}
    file = folder / MANIFEST
    if file.exists():
        found = json.loads(file.read_text())
        if changed := [key for key in settings if found.get(key) != settings[key]]:
            told = "; ".join(f"{key} {found.get(key)}, now {settings[key]}" for key in changed)
            raise InputError(f"{folder}: holds other embeddings ({told}); name another folder or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings | {"count": count}, indent=1)
    _write_whole(file, lambda path: path.write_text(text))


def _content(rows: datasets.Dataset, stamp: Callable[[dict[str, Any]], bytes]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row["id"].encode() + b"\0")
        digest.update(hashlib.sha256(stamp(row)).digest())
    return digest.hexdigest()


def _stamp_image(row: dict[str, Any]) -> bytes:
    record = row["image"] or {"bytes": b"", "path": None}
    if record["bytes"] is not None:
        return record["bytes"]
    path = Path(record["path"] or "")
    if not path.is_file():
        return b""
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode()


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Half precision leaves lengths that are 1 to three digits; these are 1 to seven."""
    wide = vectors.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def _save_array(file: Path, vectors: np.ndarray) -> None:
    with file.open("wb") as stream:  # np.save would add a suffix to the name
        np.save(stream, vectors)


def _write_whole(file: Path, write: Callable[[Path], object]) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    write(unfinished)
    unfinished.replace(file)


def _vector_path(folder: Path, start: int) -> Path:
    return folder / f"{start:010d}.npy"


def _record_path(folder: Path, start: int) -> Path:
    return folder / f"{start:010d}.json"
