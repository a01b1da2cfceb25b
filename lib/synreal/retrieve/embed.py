"""A corpus through an encoder: what was embedded before is not embedded again."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, get_args

import datasets
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm

from synreal.cache import atomic, write_text
from synreal.data.decode import DECODING_ERRORS, open_record, to_rgb
from synreal.data.overlap import reason_of
from synreal.errors import InputError, shorten
from synreal.models.card import Card, load_card
from synreal.models.clip import ZeroShotClassifier, load_tokenizer, zero_shot_head
from synreal.models.load import load_classifier
from synreal.retrieve.embeddings import (
    HASHES,
    MANIFEST,
    Embeddings,
    Row,
    What,
    content_hashes,
    load_embeddings,
    record_path,
    rows_of,
    vector_path,
)


class Encoder:
    """Both towers of a checkpoint; called on images, it is a `Descriptor` of data.overlap."""

    def __init__(self, card: Card | str | Path, device: str = "cpu", batch_size: int = 256) -> None:
        """`card`: of an open_clip checkpoint; InputError for one without a text tower."""
        card = card if isinstance(card, Card) else load_card(card)
        # One class only, so that no head of a thousand classes is embedded in vain.
        classifier = load_classifier(card, card.class_names[:1], device)
        if not isinstance(classifier, ZeroShotClassifier):
            raise InputError(
                f"{classifier.card.where}: a {classifier.card.library} model has no text tower; "
                "retrieval needs an open_clip checkpoint"
            )
        self.name, self.templates = classifier.card.name, classifier.card.templates
        self._classifier, self._batch_size = classifier, batch_size
        self._module = cast(open_clip.CLIP, classifier.module)
        self._tokenize = load_tokenizer(classifier.card, classifier.module)
        parts = f"{classifier.model_hash} {classifier.preprocess_hash}"
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return self._classifier.text_head.shape[1]

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors of RGB images, float32 [N, D]."""
        return F.normalize(self._classifier.features(images, self._batch_size), dim=-1).numpy()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [N, D]; a long text is cut at the tower's context length."""
        starts = range(0, len(texts), self._batch_size)
        return np.concatenate([self._text_batch(texts[s : s + self._batch_size]) for s in starts])

    def classes(self, names: Sequence[str], templates: Sequence[str] | None = None) -> np.ndarray:
        """One unit vector per class, float32 [C, D]: the mean over the templates, as in zero-shot heads."""
        chosen = self.templates if templates is None else templates
        return zero_shot_head(self._module, self._tokenize, names, chosen).cpu().numpy()

    @torch.inference_mode()
    def _text_batch(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self._tokenize(list(texts)).to(self._classifier.device)
        return F.normalize(self._module.encode_text(tokens).float(), dim=-1).cpu().numpy()


# What of a corpus is embedded: its images, its captions, or vectors that it carries already.


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


# Embeddings of a corpus, computed shard by shard; an interrupted run goes on.


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
    write_text(file, text)


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
    hashes = dict(zip(rows["id"], content_hashes(rows, content.column), strict=True))
    digest, record = _digest(hashes), record_path(folder, start)
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
    with atomic(vector_path(folder, start)) as partial:
        np.save(partial, np.concatenate(parts))
    embedded = {"column": content.column, "ids": ids, HASHES: [hashes[key] for key in ids]}
    text = json.dumps({"content": digest, **embedded, "missing": missing})
    write_text(record, text)


def _holds(record: dict, digest: str) -> bool:
    """Whether the shard is of this content; one from before hashes were kept is embedded again."""
    return record["content"] == digest and HASHES in record


def _digest(hashes: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for key, content in hashes.items():
        digest.update(key.encode() + b"\0" + bytes.fromhex(content))
    return digest.hexdigest()
