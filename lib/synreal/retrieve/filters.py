"""What retrieval leaves out: far from the class, near duplicates, too close to a test image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.data.overlap import Descriptor, collapse, describe, nearest, pixel_hashes, try_pixel_hashes
from synreal.errors import InputError
from synreal.retrieve.embeddings import Embeddings
from synreal.retrieve.match import Captions, ClassQuery, Matcher

CONTAMINATED = ("same pixels as", "close to")  # the reasons of decontamination
LEDGER = ("id", "class", "reason", "detail", "threshold", "value", "nearest")


class FilterPipeline:
    """The candidates that are left, best first, and a ledger row for each one rejected."""

    def __init__(self, candidates: pd.DataFrame, class_names: Sequence[str]) -> None:
        """`candidates`: columns id, label, and whatever the filters need of them."""
        self.left = candidates.reset_index(drop=True)
        self.names = np.asarray(class_names, dtype=object)
        self.found = self.available()
        self._rejected: list[pd.DataFrame] = []

    def reject(
        self,
        bad: Any,
        reason: str,
        threshold: Any = np.nan,
        value: Any = np.nan,
        nearest: Any = "",
        detail: Any = "",
    ) -> None:
        """Rejects the candidates where `bad` holds; the others are one value each, or one for all."""
        bad = np.asarray(bad, bool)
        columns = {
            "id": self.left["id"], "class": self.names[self.left["label"]], "reason": reason,
            "detail": detail, "threshold": threshold, "value": value, "nearest": nearest,
        }  # fmt: skip
        if bad.any():
            table = pd.DataFrame(columns).astype({"threshold": float, "value": float})
            self._rejected.append(table[bad])
            self.left = self.left[~bad].reset_index(drop=True)

    def sort(self, columns: Sequence[str]) -> None:
        """Puts the candidates in another order."""
        self.left = self.left.sort_values(list(columns)).reset_index(drop=True)

    def place(self) -> np.ndarray:
        """The position of each candidate in its class: int64 [N], the first is 0."""
        return self.left.groupby("label").cumcount().to_numpy()

    def available(self) -> pd.Series:
        """Candidates left per class, by name."""
        counts = np.bincount(self.left["label"], minlength=len(self.names))
        return pd.Series(counts, index=pd.Index(self.names, name="class"), name="candidates")

    @property
    def ledger(self) -> pd.DataFrame:
        """One row per rejected candidate, in the order of the filters."""
        if not self._rejected:
            return pd.DataFrame(columns=list(LEDGER))
        return pd.concat(self._rejected, ignore_index=True)

    def counts(self) -> pd.DataFrame:
        """One row per class: candidates found, rejected for each reason in the order of the filters, kept."""
        table, ledger = pd.DataFrame({"found": self.found}), self.ledger
        for reason in ledger["reason"].unique():
            table[reason] = ledger.loc[ledger["reason"] == reason, "class"].value_counts()
        return table.assign(kept=self.available()).fillna(0).astype(int)


# The filters that candidates pass, in order; each rejects into the ledger of the pipeline.


@dataclass(frozen=True)
class Filters:
    """What is rejected after matching. The defaults reject unreadable and identical images alone."""

    top_share: float | None = None  # of each class's candidates, the share kept by CLIP score
    cap: int | None = None  # most candidates of a class after that
    near_duplicate: float | None = None  # cosine of image embeddings from which two images count as one
    contamination: float | None = None  # the descriptor's product from which an image counts as a copy

    def __post_init__(self) -> None:
        if self.top_share is not None and not 0 < self.top_share <= 1:
            raise InputError(f"top_share: found {self.top_share}, expected a share above 0, up to 1")
        if self.cap is not None and self.cap < 1:
            raise InputError(f"cap: found {self.cap}, expected 1 or more")
        for name in ("near_duplicate", "contamination"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name}: found {value}, expected an inner product above 0, up to 1")


NO_FILTERS = Filters()
# P2's, but for contamination, whose threshold belongs to a descriptor; see ISC_THRESHOLD.
PAPER_FILTERS = Filters(top_share=0.3, cap=10_000, near_duplicate=0.94)


def reject_excluded(
    pipeline: FilterPipeline, captions: Sequence[str | None], queries: Sequence[ClassQuery], matcher: Matcher
) -> None:
    """Candidates whose caption (`captions`: of the candidates) holds one of the class's excluded terms."""
    ready, labels = Captions(captions), pipeline.left["label"].to_numpy()
    detail = np.full(len(labels), "", dtype=object)
    for label, query in enumerate(queries):
        for term in query.exclude:
            detail[(labels == label) & ready.matches([term], matcher)] = term
    pipeline.reject(detail != "", "excluded term", detail=detail)


def reject_missing(pipeline: FilterPipeline, images: Embeddings) -> None:
    """Candidates behind which the embedding found no image."""
    detail = pipeline.left["id"].map(images.missing)
    pipeline.reject(detail.notna(), "no readable image", detail=detail)


def reject_shared(pipeline: FilterPipeline) -> None:
    """Candidates of several classes: all but the best scored, or all when there are no scores."""
    scored = pipeline.left["score"].notna().all()
    reason = "nearer to another class" if scored else "several classes"
    bad = pipeline.left["id"].duplicated(keep="first" if scored else False)
    pipeline.reject(bad, reason, value=pipeline.left["score"])


def reject_low_scores(pipeline: FilterPipeline, filters: Filters) -> None:
    """Candidates below the top share of their class, and beyond its cap."""
    if filters.top_share is not None:
        labels = pipeline.left["label"]
        keep = np.ceil(labels.groupby(labels).transform("size") * filters.top_share)
        low = pipeline.place() >= keep.to_numpy()
        threshold = pipeline.left["score"].mask(low).groupby(labels).transform("min")
        pipeline.reject(low, "low CLIP score", threshold, pipeline.left["score"])
    if filters.cap is not None:
        pipeline.reject(pipeline.place() >= filters.cap, "above the cap", filters.cap, pipeline.place() + 1)


def reject_unreadable(pipeline: FilterPipeline, corpus: Dataset) -> None:
    """Candidates whose image cannot be decoded; those left get their pixel hash in column `sha256`."""
    hashes, reasons = try_pixel_hashes(corpus.select(pipeline.left["row"]))
    detail = np.array([reasons.get(row, "") for row in range(len(hashes))], dtype=object)
    pipeline.left["sha256"] = hashes
    pipeline.reject(detail != "", "no readable image", detail=detail)


def reject_duplicates(pipeline: FilterPipeline, images: Embeddings | None, threshold: float | None) -> None:
    """All but the first of candidates with the same pixels, or with embeddings as close as `threshold`."""
    first = pipeline.left.groupby("sha256")["id"].transform("first")
    pipeline.reject(pipeline.left["sha256"].duplicated(), "same pixels", value=1.0, nearest=first)
    if images is not None and threshold is not None:
        ids = pipeline.left["id"].to_numpy(object)
        twin, value = collapse(images.take(ids), threshold)
        pipeline.reject(twin >= 0, "near-duplicate", threshold, value, ids[twin])


def reject_surplus(pipeline: FilterPipeline, per_class: int, allow_fewer: bool) -> None:
    """All but the first `per_class` of each class in the order of column `key`.

    Raises InputError with the number there is of each class that has fewer, unless `allow_fewer`.
    """
    available = pipeline.available()
    short = available[available < per_class]
    if len(short) and not allow_fewer:
        told = ", ".join(f"{name} {count}" for name, count in short.items())
        raise InputError(
            f"per_class: {per_class} images asked for each class, but there are only: {told}; ask for fewer, "
            "loosen the filters, or take what there is with allow_fewer"
        )
    pipeline.sort(["label", "key"])
    pipeline.reject(pipeline.place() >= per_class, "not drawn", per_class)


# Which images of a set are copies, or nearly, of images that it must not hold.


THRESHOLDS = tuple(np.round(np.arange(0.5, 1.0001, 0.025), 3))
ISC_THRESHOLD = 0.604169  # P2's, of the descriptor of the ISC 2021 contest; it means nothing for another


@dataclass(frozen=True)
class Closeness:
    """How near each image comes to the sets it must not overlap."""

    same: np.ndarray  # bool [N], same decoded pixels as an image of those sets
    value: np.ndarray  # float32 [N], inner product with the nearest; NaN without a descriptor
    nearest: np.ndarray  # object [N], "set/id" of the nearest, or of the same

    def near(self, threshold: float | None) -> np.ndarray:
        """Which images are as close as `threshold`, bool [N]; none when it is None."""
        return self.value >= (np.inf if threshold is None else threshold)

    def sensitivity(self, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
        """Per threshold: how many images and which share of them would be rejected."""
        counts = [int((self.same | self.near(t)).sum()) for t in thresholds]
        frame = pd.DataFrame({"threshold": thresholds, "rejected": counts})
        return frame.assign(share=frame["rejected"] / max(len(self.same), 1), n=len(self.same))


def closeness(
    images: Dataset,
    against: Mapping[str, Dataset],
    descriptor: Descriptor | None = None,
    vectors: np.ndarray | None = None,
    hashes: Sequence[str] | None = None,
) -> Closeness:
    """Closeness of `images` to the sets of `against`, by name.

    vectors, hashes: the descriptor's vectors and the pixel hashes of `images`, where they are known already.
    """
    own = np.asarray(pixel_hashes(images) if hashes is None else hashes, dtype=object)
    same, value = np.zeros(len(own), bool), np.full(len(own), np.nan, np.float32)
    where = np.full(len(own), "", dtype=object)
    if descriptor is not None and vectors is None:
        vectors = describe(images, descriptor)
    for name, other in against.items():
        labels = np.asarray([f"{name}/{key}" for key in other["id"][:]], dtype=object)
        if descriptor is not None and vectors is not None:
            rows, products = nearest(vectors, describe(other, descriptor))
            closer = ~(value >= products) & ~same
            value[closer], where[closer] = products[closer], labels[rows[closer]]
        place = dict(zip(pixel_hashes(other), labels, strict=True))
        hit = np.array([key in place for key in own], bool) & ~same
        where[hit] = [place[key] for key in own[hit]]
        same |= hit
    return Closeness(same, value, where)


def reject_contaminated(
    pipeline: FilterPipeline,
    corpus: Dataset,
    against: Mapping[str, Dataset],
    descriptor: Descriptor | None,
    threshold: float | None,
    vectors: np.ndarray | None = None,
) -> Closeness:
    """Rejects candidates that are in one of the sets `against`, or as close to it as `threshold`.

    The pipeline's columns `row` (in `corpus`) and `sha256` are used. vectors: the descriptor's, of the
    candidates, where they are known. Returns how close every candidate is.
    """
    candidates = corpus.select(pipeline.left["row"])
    close = closeness(candidates, against, descriptor, vectors, pipeline.left["sha256"].tolist())
    near, rest = close.near(threshold), ~close.same
    pipeline.reject(close.same, CONTAMINATED[0], value=1.0, nearest=close.nearest)
    pipeline.reject(near[rest], CONTAMINATED[1], threshold, close.value[rest], close.nearest[rest])
    return close


def decontaminate(
    images: Dataset,
    against: Mapping[str, Dataset],
    descriptor: Descriptor | None = None,
    threshold: float | None = None,
) -> tuple[Dataset, pd.DataFrame, pd.DataFrame]:
    """(the images left, the ledger of those rejected, the sensitivity curve) of any set, generated or real.

    Rejected are images with the same pixels as one of `against`, and with a descriptor those as close to one
    as `threshold`. P2 checks retrieved images alone; generated ones need it too, since the generator saw the
    corpus.
    """
    if (descriptor is None) != (threshold is None):
        raise InputError("descriptor and threshold: found one without the other; give both or neither")
    columns = {"id": images["id"][:], "label": images["label"][:], "row": range(len(images))}
    candidates = pd.DataFrame(columns).assign(sha256=pixel_hashes(images))
    pipeline = FilterPipeline(candidates, images.features["label"].names)
    close = reject_contaminated(pipeline, images, against, descriptor, threshold)
    return images.select(pipeline.left["row"]), pipeline.ledger, close.sensitivity()
