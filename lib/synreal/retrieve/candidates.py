"""The images of a corpus that may show a class: by caption, by CLIP, or by both."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.data.labels import shorten
from synreal.errors import InputError
from synreal.retrieve.match import Captions, ClassQuery, Matcher
from synreal.retrieve.semantic import Embedded, Semantic, nearest_to_classes


def need_captions(corpus: Dataset, queries: Sequence[ClassQuery], matcher: Matcher | None) -> None:
    """Raise InputError when captions must be read and the corpus has none."""
    excludes = any(query.exclude for query in queries)
    if (matcher or excludes) and "caption" not in corpus.column_names:
        raise InputError(
            "corpus: matching and exclusions need a column caption; search by image instead: no matcher, and "
            "the nearest neighbours"
        )


def refuse_unmatched(corpus: Dataset, queries: Sequence[ClassQuery], matcher: Matcher) -> None:
    """Raise InputError naming the classes that no caption speaks of: soon known, unlike what CLIP finds."""
    need_captions(corpus, queries, matcher)
    counts = np.bincount(_matched(corpus, queries, matcher)["label"], minlength=len(queries))
    refuse_empty([query.name for query, count in zip(queries, counts, strict=True) if count == 0])


def refuse_empty(names: Sequence[str]) -> None:
    """Raise InputError when there are classes that match nothing."""
    if names:
        raise InputError(
            f"classes that match nothing: {shorten(names, 20)}; give them synonyms or another matcher, "
            "search by image too, or go on without them: leave them out, or allow_fewer where it can be given"
        )


def find_all(
    corpus: Dataset,
    queries: Sequence[ClassQuery],
    matcher: Matcher | None,
    semantic: Semantic | None,
    embedded: Embedded | None,
) -> pd.DataFrame:
    """One row per image, class it may show and way it was found.

    Columns: row (in the corpus), id, label (number of the class), matched_by (the matcher, image or caption)
    and template (of the class's text; empty for a matcher).
    """
    ids, parts = np.asarray(corpus["id"][:], dtype=object), []
    if matcher is not None:
        parts.append(_matched(corpus, queries, matcher))
    if semantic is not None and embedded is not None:
        found = nearest_to_classes(embedded, queries, semantic)
        parts.append(found.assign(row=pd.Index(ids).get_indexer(found.pop("id"))))
    every = pd.concat(parts, ignore_index=True)
    return every.assign(id=ids[every["row"]])


def count_ways(found: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Per class, matcher and template: how many images were found so, and how many by nothing else."""
    alone = ~found.duplicated(["row", "label"], keep=False)
    counts = found.assign(alone=alone).groupby(["label", "matched_by", "template"], sort=False)["alone"]
    table = counts.agg(found="size", alone="sum").reset_index()
    table.insert(0, "class", [class_names[label] for label in table.pop("label")])
    return table


def rank(
    found: pd.DataFrame, queries: Sequence[ClassQuery], embedded: Embedded | None, seed: int = 0
) -> pd.DataFrame:
    """One row per image and class it may show, of those found, best first.

    Columns: row, id, label, matched_by (ways it was found, joined by +), score (cosine of the image and its
    class's texts; NaN without `embedded` or without an image), and key, a random order that depends on `seed`
    and the id alone and decides between equal scores.
    """
    ways = found.drop_duplicates(["row", "label", "matched_by"])
    table = ways.groupby(["row", "id", "label"], as_index=False)["matched_by"].agg("+".join)
    table["score"] = np.nan if embedded is None else _scores(table, queries, embedded)
    table["key"] = [hashlib.sha256(f"{seed} {key}".encode()).hexdigest() for key in table["id"]]
    return table.sort_values(["score", "key", "label"], ascending=[False, True, True])


def _matched(corpus: Dataset, queries: Sequence[ClassQuery], matcher: Matcher) -> pd.DataFrame:
    captions = Captions(corpus["caption"][:])
    rows = [np.flatnonzero(captions.matches(query.sought(matcher), matcher)) for query in queries]
    labels = np.repeat(np.arange(len(queries)), [len(found) for found in rows])
    return pd.DataFrame({"row": np.concatenate(rows), "label": labels, "matched_by": matcher, "template": ""})


def _scores(table: pd.DataFrame, queries: Sequence[ClassQuery], embedded: Embedded) -> np.ndarray:
    """Cosine of each image and its class's texts; NaN where there is no image."""
    scores = np.full(len(table), np.nan)
    there = ~table["id"].isin(embedded.images.missing).to_numpy()
    texts = embedded.encoder.classes([query.name for query in queries])
    vectors = embedded.images.take(table["id"][there].tolist())
    scores[there] = (vectors * texts[table["label"][there]]).sum(axis=1)
    return scores
