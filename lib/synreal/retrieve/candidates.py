"""The images of a corpus that may show a class: by caption, by CLIP, or by both."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.retrieve.match import Captions, ClassQuery, Matcher
from synreal.retrieve.semantic import Embedded, Semantic, nearest_to_classes


def find_candidates(
    corpus: Dataset,
    queries: Sequence[ClassQuery],
    matcher: Matcher | None,
    semantic: Semantic | None,
    embedded: Embedded | None,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per image and class it may show, best first.

    Columns: row (in the corpus), id, label (number of the class), matched_by (ways it was found, joined by
    +), score (cosine of the image and its class's texts; NaN without `embedded` or without an image), and
    key, a random order that depends on `seed` and the id alone and decides between equal scores.
    """
    ids, parts = corpus["id"][:], []
    if matcher is not None:
        parts.append(_matched(corpus, queries, matcher))
    if semantic is not None and embedded is not None:
        found = nearest_to_classes(embedded, queries, semantic)
        parts.append(found.assign(row=pd.Index(ids).get_indexer(found.pop("id"))))
    every = pd.concat(parts, ignore_index=True)
    table = every.groupby(["row", "label"], as_index=False)["matched_by"].agg("+".join)
    table["id"] = [ids[row] for row in table["row"]]
    table["score"] = np.nan if embedded is None else _scores(table, queries, embedded)
    table["key"] = [hashlib.sha256(f"{seed} {key}".encode()).hexdigest() for key in table["id"]]
    return table.sort_values(["score", "key", "label"], ascending=[False, True, True])


def _matched(corpus: Dataset, queries: Sequence[ClassQuery], matcher: Matcher) -> pd.DataFrame:
    captions = Captions(corpus["caption"][:])
    rows = [np.flatnonzero(captions.matches(query.sought(matcher), matcher)) for query in queries]
    labels = np.repeat(np.arange(len(queries)), [len(found) for found in rows])
    return pd.DataFrame({"row": np.concatenate(rows), "label": labels, "matched_by": matcher})


def _scores(table: pd.DataFrame, queries: Sequence[ClassQuery], embedded: Embedded) -> np.ndarray:
    """Cosine of each image and its class's texts; NaN where there is no image."""
    scores = np.full(len(table), np.nan)
    there = ~table["id"].isin(embedded.images.missing).to_numpy()
    texts = embedded.encoder.classes([query.name for query in queries])
    vectors = embedded.images.take(table["id"][there].tolist())
    scores[there] = (vectors * texts[table["label"][there]]).sum(axis=1)
    return scores
