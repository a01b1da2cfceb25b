"""Real images of named classes from a corpus, the baseline of P2."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset

from synreal.data.overlap import Descriptor
from synreal.errors import InputError, shorten
from synreal.retrieve import filters as stages
from synreal.retrieve.corpus import check_corpus
from synreal.retrieve.embeddings import refuse_changed
from synreal.retrieve.filters import NO_FILTERS, FilterPipeline, Filters, reject_contaminated
from synreal.retrieve.match import Captions, ClassQuery, Matcher, check_classes
from synreal.retrieve.semantic import Embedded, Lookup, Semantic, nearest_to_classes, recall_of


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


def check_captions(
    corpus: Dataset, queries: Sequence[ClassQuery], lookup: Lookup, allow_fewer: bool = False
) -> None:
    """Raise InputError for captions that are needed and not there.

    Without `allow_fewer` also for a class that no caption speaks of, where captions are all that is searched.
    """
    matcher, semantic = lookup.ways("caption" in corpus.column_names)
    need_captions(corpus, queries, matcher)
    if matcher and semantic is None and not allow_fewer:
        refuse_unmatched(corpus, queries, matcher)


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


# From a corpus to a labelled training set: match, filter, decontaminate, balance (P2).


PROVENANCE = ("matched_by", "score", "corpus_id", "sha256")  # sha256 of the decoded pixels


@dataclass(frozen=True)
class Request:
    """What is asked of a corpus; see `retrieve`."""

    queries: Sequence[ClassQuery]
    per_class: int
    matcher: Matcher | None = "tokens"
    semantic: Semantic | None = None
    embedded: Embedded | None = None
    filters: Filters = NO_FILTERS
    against: Mapping[str, Dataset] = field(default_factory=dict)
    descriptor: Descriptor | None = None
    seed: int = 0
    allow_fewer: bool = False

    def check(self, corpus: Dataset) -> None:
        """Raise InputError for a request that this corpus cannot be asked, before anything is computed."""
        check_classes(self.queries, "queries")
        if self.per_class < 1:
            raise InputError(f"per_class: found {self.per_class}, expected 1 or more")
        if self.matcher is None and self.semantic is None:
            raise InputError("matcher and semantic are both None; name at least one way to find images")
        need_captions(corpus, self.queries, self.matcher)
        self._check_embedded()
        check_corpus(corpus)
        if self.embedded is not None:
            self.embedded.check(corpus)

    def _check_embedded(self) -> None:
        names = {"semantic": self.semantic, "top_share": self.filters.top_share}
        names |= {"near_duplicate": self.filters.near_duplicate}
        if self.against and self.descriptor is None:
            names["contamination without a descriptor"] = self.filters.contamination
        needing = [name for name, value in names.items() if value is not None]
        if needing and self.embedded is None:
            raise InputError(f"{', '.join(needing)}: the corpus must be embedded for this; see embed_corpus")
        if self.filters.contamination is not None and not self.against:
            raise InputError("contamination: found a threshold, but no sets in `against` to compare with")

    def settings(self) -> dict[str, Any]:
        """The request as plain values, for the manifest."""
        described = self.descriptor or (self.embedded.encoder if self.embedded else None)
        return {
            "classes": [query.model_dump(mode="json", exclude_defaults=True) for query in self.queries],
            "per_class": self.per_class,
            "matcher": self.matcher,
            "semantic": asdict(self.semantic) if self.semantic else None,
            "model": asdict(self.embedded.image_index.origin) if self.embedded else None,
            "filters": asdict(self.filters),
            "against": {name: len(images) for name, images in self.against.items()},
            "descriptor": f"{described.name} {described.fingerprint}" if described else None,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Retrieved:
    """A retrieved training set, and the account of how it came about."""

    images: Dataset  # label = class; provenance in matched_by, score, corpus_id, sha256 (of the pixels)
    ledger: pd.DataFrame  # one row per rejected candidate: the columns of filters.LEDGER
    counts: pd.DataFrame  # per class: found, rejected for each reason, kept
    ways: pd.DataFrame  # per class, matcher and template: found, and found by nothing else
    sensitivity: pd.DataFrame  # threshold of contamination -> images it would reject, and their share
    settings: dict[str, Any]  # the request, and the recall of an inexact search


def retrieve(
    corpus: Dataset,
    queries: Sequence[ClassQuery],
    per_class: int,
    *,
    matcher: Matcher | None = "tokens",
    semantic: Semantic | None = None,
    embedded: Embedded | None = None,
    filters: Filters = NO_FILTERS,
    against: Mapping[str, Dataset] | None = None,
    descriptor: Descriptor | None = None,
    seed: int = 0,
    allow_fewer: bool = False,
) -> Retrieved:
    """`per_class` images of a corpus for each class.

    matcher: how captions are matched; None to search by `semantic` alone. With both, candidates are united.
    embedded: the corpus as `embed_corpus` made it; `semantic`, `top_share` and `near_duplicate` need it.
    Embeddings of another corpus are refused: all ids are compared, and the content of a sample of the rows
    and of every candidate that CLIP scores have left.
    against: sets that must not leak into this one, by name: train, validation and test of the task. Identical
    pixels are always rejected; with `filters.contamination` also what `descriptor` finds as close as that
    (default: the checkpoint of `embedded`).
    seed: of the choice among what is left. It is random and nested: the images chosen for a small `per_class`
    are among those for a larger one.
    A candidate of several classes goes to the one whose texts its image is nearest to; without `embedded`, to
    none. Excluded terms reject semantic candidates too.
    Raises InputError for settings that contradict each other, for a class that matches nothing, and when
    fewer images are left than asked for; with `allow_fewer`, the set has fewer, or none, of such a class, but
    at least one image.
    """
    ways = (matcher, semantic, embedded, filters)
    request = Request(queries, per_class, *ways, dict(against or {}), descriptor, seed, allow_fewer)
    request.check(corpus)
    names, found = [query.name for query in queries], find_all(corpus, queries, matcher, semantic, embedded)
    pipeline = FilterPipeline(rank(found, queries, embedded, seed), names)
    _name_empty(pipeline, allow_fewer)
    sensitivity = _filter(pipeline, corpus, request)
    settings = request.settings()
    if semantic is not None and embedded is not None:
        settings["recall"] = recall_of(embedded, queries, semantic)
    table = pipeline.left.assign(corpus_id=pipeline.left["id"])
    images, ways_found = labelled_rows(corpus, table, names), count_ways(found, names)
    return Retrieved(images, pipeline.ledger, pipeline.counts(), ways_found, sensitivity, settings)


def first_per_class(images: Dataset, per_class: int) -> Dataset:
    """The smaller set that `retrieve` would have made with this `per_class`."""
    labels = pd.Series(images["label"][:])
    return images.select(np.flatnonzero(labels.groupby(labels).cumcount() < per_class))


def _name_empty(pipeline: FilterPipeline, allow_fewer: bool) -> None:
    empty = pipeline.found.index[pipeline.found == 0].tolist()
    if len(empty) == len(pipeline.found) or not allow_fewer:
        refuse_empty(empty)


def _refuse_nothing(pipeline: FilterPipeline) -> None:
    if len(pipeline.left) == 0:
        told = ", ".join(f"{reason} {n}" for reason, n in pipeline.ledger["reason"].value_counts().items())
        raise InputError(
            f"no image is left of {pipeline.found.sum()} candidates; rejected were: {told}; loosen the "
            "filters, or give the classes synonyms or another matcher"
        )


def _filter(pipeline: FilterPipeline, corpus: Dataset, request: Request) -> pd.DataFrame:
    """All filters in order; returns the sensitivity curve of decontamination."""
    embedded, filters = request.embedded, request.filters
    images = embedded.images if embedded else None
    if any(query.exclude for query in request.queries):
        captions = corpus.select(pipeline.left["row"])["caption"][:]
        stages.reject_excluded(pipeline, captions, request.queries, request.matcher or "phrase")
    if images is not None:
        stages.reject_missing(pipeline, images)
    stages.reject_shared(pipeline)
    stages.reject_low_scores(pipeline, filters)
    if images is not None:
        refuse_changed(images, corpus.select(pipeline.left["row"]))
    stages.reject_unreadable(pipeline, corpus)
    _refuse_nothing(pipeline)
    stages.reject_duplicates(pipeline, images, filters.near_duplicate)
    descriptor, vectors = request.descriptor, None
    if descriptor is None and embedded is not None and request.against:
        descriptor, vectors = embedded.encoder, embedded.images.take(pipeline.left["id"].tolist())
    close = reject_contaminated(pipeline, corpus, request.against, descriptor, filters.contamination, vectors)
    _refuse_nothing(pipeline)
    stages.reject_surplus(pipeline, request.per_class, request.allow_fewer)
    return close.sensitivity()


def labelled_rows(corpus: Dataset, table: pd.DataFrame, class_names: Sequence[str]) -> Dataset:
    """The image set of some rows of a corpus.

    `table`: row, label (number of the class), and of the provenance matched_by, score, corpus_id, sha256. A
    label that the corpus has becomes `corpus_label`.
    """
    images = corpus.select(table["row"])
    if "label" in images.column_names:  # of a retrieved set, the corpus's own label is replaced by the set's
        images = images.remove_columns([name for name in ("corpus_label",) if name in images.column_names])
        images = images.rename_column("label", "corpus_label")
    provenance = table[list(PROVENANCE)]
    others = [name for name in images.column_names if name != "image" and name not in PROVENANCE]
    images = images.select_columns(["image", *others])
    labels = pa.array(table["label"].to_numpy(np.int64))
    images = images.add_column("label", labels, feature=ClassLabel(names=list(class_names)))
    for name, values in provenance.items():
        images = images.add_column(str(name), pa.array(values.tolist()))
    return images.select_columns(["image", "label", *others, *PROVENANCE])
