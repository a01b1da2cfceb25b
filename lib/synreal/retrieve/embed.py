"""Embeddings of a corpus, computed shard by shard; an interrupted run goes on."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import datasets
import numpy as np
from tqdm.auto import tqdm

from synreal.data.labels import shorten
from synreal.errors import InputError
from synreal.retrieve.content import CaptionTexts, Carried, Content, Images, check_carried, read_all
from synreal.retrieve.embeddings import (
    MANIFEST,
    Embeddings,
    What,
    load_embeddings,
    record_path,
    vector_path,
)
from synreal.retrieve.encoder import Encoder
from synreal.retrieve.stamps import rows_of, stamps_of

__all__ = ["Embeddings", "embed_set", "load_embeddings"]


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
    computing them; a few are computed too, and other ones refused.
    A shard that exists and holds the same content is not computed again, so a corpus that has grown costs
    only what was added. Rows without an image that can be decoded (or without a caption) get no vector;
    `missing` lists them.
    Raises InputError when the folder holds shards of another model, kind or size, and when nothing is there
    to embed.
    """
    if what not in get_args(What):
        raise InputError(f"what: found {what!r}, expected image or caption")
    _need_columns(images, what, column)
    folder = Path(folder)
    _claim(folder, encoder, what, shard, len(images))
    rows, content = _content_of(images, encoder, what, column)
    for start in tqdm(range(0, len(images), shard), desc=f"embed {what}s", delay=5):
        part = rows.select(range(start, min(start + shard, len(images))))
        _embed_shard(part, content, encoder.size, folder, start)
    return load_embeddings(folder)


def _need_columns(images: datasets.Dataset, what: What, column: str | None) -> None:
    lacking = [name for name in ("id", what, column or what) if name not in images.column_names]
    if lacking:
        found = shorten(images.column_names, 20)
        raise InputError(f"no column {shorten(lacking)} in the set to be embedded; found {found}")


def _claim(folder: Path, encoder: Encoder, what: What, shard: int, count: int) -> None:
    """Write down what the folder is for, or refuse it when it is for something else."""
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


def _content_of(
    images: datasets.Dataset, encoder: Encoder, what: What, column: str | None
) -> tuple[datasets.Dataset, Content]:
    computed: Content = Images(encoder) if what == "image" else CaptionTexts(encoder)
    names = list(dict.fromkeys(["id", what, column or what]))
    rows = images.select_columns(names)
    if what == "image":
        rows = rows.cast_column("image", datasets.Image(decode=False))
    if column is None:
        return rows, computed
    carried = Carried(column, encoder)
    check_carried(rows, carried, computed, encoder)
    return rows.select_columns(["id", column]), carried


def _embed_shard(rows: datasets.Dataset, content: Content, size: int, folder: Path, start: int) -> None:
    stamps = dict(zip(rows["id"], stamps_of(rows, content.column), strict=True))
    digest, record = _digest(stamps), record_path(folder, start)
    if record.exists() and _holds(json.loads(record.read_text()), digest):
        return
    record.unlink(missing_ok=True)  # its vectors are about to be replaced
    ids: list[str] = []
    missing: dict[str, str] = {}
    parts = [np.empty((0, size), np.float16)]
    for batch in rows_of(rows):
        good, contents, bad = read_all(batch, content)
        ids, missing = ids + good, missing | bad
        if good:
            parts.append(content.encode(contents).astype(np.float16))
    _write_whole(vector_path(folder, start), lambda file: _save_array(file, np.concatenate(parts)))
    embedded = {"column": content.column, "ids": ids, "stamps": [stamps[key] for key in ids]}
    text = json.dumps({"content": digest, **embedded, "missing": missing})
    _write_whole(record, lambda file: file.write_text(text))


def _holds(record: dict, digest: str) -> bool:
    """Whether the shard is of this content; one from before stamps were kept is embedded again."""
    return record["content"] == digest and "stamps" in record


def _digest(stamps: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for key, stamp in stamps.items():
        digest.update(key.encode() + b"\0" + bytes.fromhex(stamp))
    return digest.hexdigest()


def _save_array(file: Path, vectors: np.ndarray) -> None:
    with file.open("wb") as stream:  # given a name, np.save would add a suffix to it
        np.save(stream, vectors)


def _write_whole(file: Path, write: Callable[[Path], object]) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    write(unfinished)
    unfinished.replace(file)
