"""From a corpus to a labelled training set: match, filter, decontaminate, balance (P2)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset

from synreal.data.labels import shorten
from synreal.data.overlap import Descriptor, try_pixel_hashes
from synreal.errors import InputError
from synreal.retrieve.corpus import check_corpus
from synreal.retrieve.decontaminate import Closeness, closeness, collapse
from synreal.retrieve.match import Captions, ClassQuery, Matcher, check_classes
from synreal.retrieve.semantic import Embedded, Semantic, nearest_to_classes
from synreal.retrieve.sieve import Sieve

NO_CAPTIONS = "the corpus has no column caption; add one, or search by image alone (matcher None)"


@dataclass(frozen=True)
class Filters:
    """What is rejected after matching. The defaults reject unreadable and identical images alone."""

    top_share: float | None = None  # of each class's candidates, the share kept by CLIP score
    cap: int | None = None  # most candidates of a class after that
    near_duplicate: float | None = None  # cosine of image embeddings from which two images count as one
    contamination: float | None = None  # product from which an image counts as one of `against`

    def __post_init__(self) -> None:
        if self.top_share is not None and not 0 < self.top_share <= 1:
            raise InputError(f"top_share: found {self.top_share}, expected a share above 0, up to 1")
        if self.cap is not None and self.cap < 1:
            raise InputError(f"cap: found {self.cap}, expected 1 or more")


PAPER_FILTERS = Filters(
    top_share=0.3, cap=10_000, near_duplicate=0.94
)  # P2; its contamination: decontaminate.py


@dataclass(frozen=True)
class Retrieved:
    """A retrieved training set, and the account of how it came about."""

    images: Dataset  # label = class; provenance in matched_by, score, corpus_id, sha256 (of the pixels)
    ledger: pd.DataFrame  # a row per candidate rejected: id, class, reason, threshold, value, nearest
    counts: pd.DataFrame  # per class: found, rejected for each reason, kept
    sensitivity: pd.DataFrame  # threshold of contamination -> images rejected, share
    settings: dict[str, Any] = field(default_factory=dict)


def retrieve(
    corpus: Dataset,
    queries: Sequence[ClassQuery],
    per_class: int,
    *,
    matcher: Matcher | None = "tokens",
    semantic: Semantic | None = None,
    embedded: Embedded | None = None,
    filters: Filters = Filters(),
    against: Mapping[str, Dataset] | None = None,
    descriptor: Descriptor | None = None,
    seed: int = 0,
    allow_fewer: bool = False,
) -> Retrieved:
    """`per_class` images of a corpus for each class.

    matcher: how captions are matched; None to search by `semantic` alone. With both, candidates are united.
    embedded: the corpus as `embed_corpus` made it; needed by `semantic`, `top_share` and `near_duplicate`.
    against: sets that must not leak into this one, by name: train, validation and test of the task. Identical
    pixels are always rejected; with `filters.contamination` also what `descriptor` finds as close as that
    (default: the checkpoint of `embedded`).
    seed: of the choice among what is left, which is random and nested: the images chosen for a small
    `per_class` are among those for a larger one.
    A candidate of several classes goes to the one whose texts its image is nearest to (without `embedded`: to
    none). Excluded terms reject semantic candidates too.
    Raises InputError, before anything is computed, for settings that need `embedded`; for a class that matches
    nothing; and when fewer are left than asked for, saying how many, unless `allow_fewer`.
    """
    _check(corpus, queries, per_class, matcher, semantic, embedded, filters)
    against = dict(against or {})
    sieve = Sieve(_candidates(corpus, queries, matcher, semantic, embedded, seed), [q.name for q in queries])
    _name_empty(sieve, allow_fewer)
    _reject_excluded(sieve, corpus, queries, matcher)
    _one_class_each(sieve, embedded)
    _reject_low_scores(sieve, filters)
    hashes = _reject_copies(sieve, corpus, embedded, filters)
    close = _reject_contaminated(sieve, corpus, against, hashes, descriptor, embedded, filters)
    _balance(sieve, per_class, allow_fewer)
    settings = _settings(queries, per_class, matcher, semantic, embedded, filters, against, descriptor, seed)
    images = _image_set(sieve, corpus, hashes)
    return Retrieved(images, sieve.ledger, sieve.counts(), close.sensitivity(), settings)


def _check(
    corpus: Dataset,
    queries: Sequence[ClassQuery],
    per_class: int,
    matcher: Matcher | None,
    semantic: Semantic | None,
    embedded: Embedded | None,
    filters: Filters,
) -> None:
    check_corpus(corpus)
    check_classes(queries, "queries")
    if per_class < 1:
        raise InputError(f"per_class: found {per_class}, expected 1 or more")
    if matcher is None and semantic is None:
        raise InputError("matcher and semantic are both None; name at least one way to find images")
    needs_captions = matcher is not None or any(query.exclude for query in queries)
    if needs_captions and "caption" not in corpus.column_names:
        raise InputError(NO_CAPTIONS)
    users = {"semantic": semantic, "top_share": filters.top_share, "near_duplicate": filters.near_duplicate}
    given = [name for name, value in users.items() if value is not None]
    if given and embedded is None:
        raise InputError(f"{', '.join(given)}: needs the corpus embedded by a checkpoint; see embed_corpus")


def _candidates(
    corpus: Dataset,
    queries: Sequence[ClassQuery],
    matcher: Matcher | None,
    semantic: Semantic | None,
    embedded: Embedded | None,
    seed: int,
) -> pd.DataFrame:
    """Columns id, row, label, matched_by (ways joined by +) and score; best first, the rest shuffled."""
    ids, parts = corpus["id"][:], []
    if matcher is not None:
        captions = Captions(corpus["caption"][:])
        for label, query in enumerate(queries):
            rows = np.flatnonzero(captions.matches(query.terms, matcher))
            parts.append(pd.DataFrame({"row": rows, "label": label, "matched_by": str(matcher)}))
    if semantic is not None and embedded is not None:
        found = nearest_to_classes(embedded, queries, semantic)
        parts.append(found.assign(row=pd.Index(ids).get_indexer(found.pop("id"))))
    every = pd.concat(parts, ignore_index=True)
    table = every.groupby(["row", "label"], as_index=False)["matched_by"].agg("+".join)
    table["id"] = [ids[row] for row in table["row"]]
    table["score"] = _scores(table, queries, embedded)
    keys = [hashlib.sha256(f"{seed} {key}".encode()).hexdigest() for key in table["id"]]
    return table.assign(key=keys).sort_values(["score", "key", "label"], ascending=[False, True, True])


def _scores(table: pd.DataFrame, queries: Sequence[ClassQuery], embedded: Embedded | None) -> np.ndarray:
    """CLIP score: cosine of the image and its class's texts; NaN where there is no image to embed."""
    scores = np.full(len(table), np.nan)
    if embedded is None:
        return scores
    has = ~table["id"].isin(embedded.images.missing).to_numpy()
    texts = embedded.encoder.classes([query.name for query in queries])
    vectors = embedded.images.take(table["id"][has].tolist())
    scores[has] = (vectors * texts[table["label"][has]]).sum(axis=1)
    return scores


def _name_empty(sieve: Sieve, allow_fewer: bool) -> None:
    empty = sieve.found.index[sieve.found == 0].tolist()
    if len(empty) == len(sieve.found) or (empty and not allow_fewer):
        raise InputError(
            f"classes that match nothing: {shorten(empty, 20)}; give them synonyms or another matcher, or go on "
            "without them with allow_fewer"
        )


def _reject_excluded(
    sieve: Sieve, corpus: Dataset, queries: Sequence[ClassQuery], matcher: Matcher | None
) -> None:
    if not any(query.exclude for query in queries):
        return
    captions = Captions(corpus.select(sieve.left["row"])["caption"][:])
    labels = sieve.left["label"].to_numpy()
    bad = np.zeros(len(labels), bool)
    for label, query in enumerate(queries):
        bad |= (labels == label) & captions.matches(query.exclude, matcher or "phrase")
    sieve.reject(bad, "excluded term")


def _one_class_each(sieve: Sieve, embedded: Embedded | None) -> None:
    if embedded is None:
        sieve.reject(sieve.left["id"].duplicated(keep=False), "several classes")
    else:  # best first, so that the first is the class with the highest score
        sieve.reject(sieve.left["id"].duplicated(), "nearer to another class", value=sieve.left["score"])


def _reject_low_scores(sieve: Sieve, filters: Filters) -> None:
    place = sieve.left.groupby("label").cumcount().to_numpy()
    if filters.top_share is not None:
        size = sieve.left.groupby("label")["id"].transform("size").to_numpy()
        least = sieve.left["score"].where(place < np.ceil(size * filters.top_share))
        threshold = least.groupby(sieve.left["label"]).transform("min").to_numpy()
        sieve.reject(
            place >= np.ceil(size * filters.top_share), "low CLIP score", threshold, sieve.left["score"]
        )
    if filters.cap is not None:
        place = sieve.left.groupby("label").cumcount().to_numpy()
        sieve.reject(place >= filters.cap, "above the cap", float(filters.cap), place + 1.0)


def _reject_copies(
    sieve: Sieve, corpus: Dataset, embedded: Embedded | None, filters: Filters
) -> dict[str, str]:
    """Rejects unreadable images, identical ones and near-duplicates; returns the pixel hash of each id left."""
    hashes, bad = try_pixel_hashes(corpus.select(sieve.left["row"]))
    reasons = np.array([bad.get(row, "") for row in range(len(hashes))], dtype=object)
    known = dict(zip(sieve.left["id"], hashes, strict=True))
    sieve.reject(reasons != "", "no readable image", nearest=reasons)
    keys = sieve.left["id"].map(known)
    first = sieve.left["id"].groupby(keys).transform("first").to_numpy(object)
    sieve.reject(keys.duplicated(), "same pixels", value=1.0, nearest=first)
    if filters.near_duplicate is not None and embedded is not None:
        ids = sieve.left["id"].to_numpy(object)
        twin, value = collapse(embedded.images.take(ids.tolist()), filters.near_duplicate)
        sieve.reject(twin >= 0, "near-duplicate", filters.near_duplicate, value, ids[twin])
    return known


def _reject_contaminated(
    sieve: Sieve,
    corpus: Dataset,
    against: Mapping[str, Dataset],
    hashes: Mapping[str, str],
    descriptor: Descriptor | None,
    embedded: Embedded | None,
    filters: Filters,
) -> Closeness:
    vectors = None
    if descriptor is None and embedded is not None and against:
        descriptor, vectors = embedded.encoder, embedded.images.take(sieve.left["id"].tolist())
    if filters.contamination is not None and descriptor is None and against:
        raise InputError("contamination: needs a descriptor, or the corpus embedded by a checkpoint")
    left = corpus.select(sieve.left["row"])
    close = closeness(left, against, descriptor, vectors, [hashes[key] for key in sieve.left["id"]])
    near = close.value >= (np.inf if filters.contamination is None else filters.contamination)
    sieve.reject(close.same, "same pixels as", value=1.0, nearest=close.nearest)
    rest = ~close.same
    threshold = np.nan if filters.contamination is None else filters.contamination
    sieve.reject(near[rest], "close to", threshold, close.value[rest], close.nearest[rest])
    return close


def _balance(sieve: Sieve, per_class: int, allow_fewer: bool) -> None:
    available = sieve.available()
    short = available[available < per_class]
    if len(short) and not allow_fewer:
        told = ", ".join(f"{name} {count}" for name, count in short.items())
        raise InputError(
            f"per_class: {per_class} images asked for each class, but there are only: {told}; ask for "
            f"{available.min()}, loosen the filters, or take what there is with allow_fewer"
        )
    sieve.left = sieve.left.sort_values(["label", "key"]).reset_index(drop=True)
    place = sieve.left.groupby("label").cumcount().to_numpy()
    sieve.reject(place >= per_class, "not drawn", float(per_class))


def _image_set(sieve: Sieve, corpus: Dataset, hashes: Mapping[str, str]) -> Dataset:
    table = sieve.left
    images = corpus.select(table["row"])
    if "label" in images.column_names:
        images = images.rename_column("label", "corpus_label")
    provenance = {
        "matched_by": table["matched_by"].tolist(),
        "score": table["score"].tolist(),
        "corpus_id": table["id"].tolist(),
        "sha256": [hashes[key] for key in table["id"]],
    }
    images = images.remove_columns([name for name in provenance if name in images.column_names])
    labels = pa.array(table["label"].to_numpy(np.int64))
    images = images.add_column("label", labels, feature=ClassLabel(names=sieve.names.tolist()))
    for name, values in provenance.items():
        images = images.add_column(name, values)
    return images.select_columns(
        ["image", "label", *(n for n in images.column_names if n not in ("image", "label"))]
    )


def _settings(
    queries: Sequence[ClassQuery],
    per_class: int,
    matcher: Matcher | None,
    semantic: Semantic | None,
    embedded: Embedded | None,
    filters: Filters,
    against: Mapping[str, Dataset],
    descriptor: Descriptor | None,
    seed: int,
) -> dict[str, Any]:
    described = descriptor or (embedded.encoder if embedded else None)
    return {
        "classes": [query.model_dump(mode="json", exclude_defaults=True) for query in queries],
        "per_class": per_class,
        "matcher": matcher,
        "semantic": vars(semantic) if semantic else None,
        "model": vars(embedded.image_index.origin) if embedded else None,
        "filters": vars(filters),
        "against": {name: len(images) for name, images in against.items()},
        "descriptor": f"{described.name} {described.fingerprint}" if described else None,
        "seed": seed,
    }
