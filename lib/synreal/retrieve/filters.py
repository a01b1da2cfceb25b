"""The filters that candidates pass, in order; each rejects into the ledger of the sieve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from synreal.data.overlap import collapse, try_pixel_hashes
from synreal.errors import InputError
from synreal.retrieve.embeddings import Embeddings
from synreal.retrieve.match import Captions, ClassQuery, Matcher
from synreal.retrieve.sieve import Sieve


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
# P2's, but for contamination, whose threshold belongs to a descriptor; see decontaminate.ISC_THRESHOLD.
PAPER_FILTERS = Filters(top_share=0.3, cap=10_000, near_duplicate=0.94)


def reject_excluded(
    sieve: Sieve, captions: Sequence[str | None], queries: Sequence[ClassQuery], matcher: Matcher
) -> None:
    """Candidates whose caption (`captions`: of the candidates) holds one of the class's excluded terms."""
    ready, labels = Captions(captions), sieve.left["label"].to_numpy()
    detail = np.full(len(labels), "", dtype=object)
    for label, query in enumerate(queries):
        for term in query.exclude:
            detail[(labels == label) & ready.matches([term], matcher)] = term
    sieve.reject(detail != "", "excluded term", detail=detail)


def reject_missing(sieve: Sieve, images: Embeddings) -> None:
    """Candidates behind which the embedding found no image."""
    detail = sieve.left["id"].map(images.missing)
    sieve.reject(detail.notna(), "no readable image", detail=detail)


def reject_shared(sieve: Sieve) -> None:
    """Candidates of several classes: all but the best scored, or all when there are no scores."""
    scored = sieve.left["score"].notna().all()
    reason = "nearer to another class" if scored else "several classes"
    bad = sieve.left["id"].duplicated(keep="first" if scored else False)
    sieve.reject(bad, reason, value=sieve.left["score"])


def reject_low_scores(sieve: Sieve, filters: Filters) -> None:
    """Candidates below the top share of their class, and beyond its cap."""
    if filters.top_share is not None:
        labels = sieve.left["label"]
        keep = np.ceil(labels.groupby(labels).transform("size") * filters.top_share)
        low = sieve.place() >= keep.to_numpy()
        threshold = sieve.left["score"].mask(low).groupby(labels).transform("min")
        sieve.reject(low, "low CLIP score", threshold, sieve.left["score"])
    if filters.cap is not None:
        sieve.reject(sieve.place() >= filters.cap, "above the cap", filters.cap, sieve.place() + 1)


def reject_unreadable(sieve: Sieve, corpus: Dataset) -> None:
    """Candidates whose image cannot be decoded; those left get their pixel hash in column `sha256`."""
    hashes, reasons = try_pixel_hashes(corpus.select(sieve.left["row"]))
    detail = np.array([reasons.get(row, "") for row in range(len(hashes))], dtype=object)
    sieve.left["sha256"] = hashes
    sieve.reject(detail != "", "no readable image", detail=detail)


def reject_duplicates(sieve: Sieve, images: Embeddings | None, threshold: float | None) -> None:
    """All but the first of candidates with the same pixels, or with embeddings as close as `threshold`."""
    first = sieve.left.groupby("sha256")["id"].transform("first")
    sieve.reject(sieve.left["sha256"].duplicated(), "same pixels", value=1.0, nearest=first)
    if images is not None and threshold is not None:
        ids = sieve.left["id"].to_numpy(object)
        twin, value = collapse(images.take(ids), threshold)
        sieve.reject(twin >= 0, "near-duplicate", threshold, value, ids[twin])


def reject_surplus(sieve: Sieve, per_class: int, allow_fewer: bool) -> None:
    """All but the first `per_class` of each class in the order of column `key`.

    Raises InputError with the number there is of each class that has fewer, unless `allow_fewer`.
    """
    available = sieve.available()
    short = available[available < per_class]
    if len(short) and not allow_fewer:
        told = ", ".join(f"{name} {count}" for name, count in short.items())
        raise InputError(
            f"per_class: {per_class} images asked for each class, but there are only: {told}; ask for fewer, "
            "loosen the filters, or take what there is with allow_fewer"
        )
    sieve.sort(["label", "key"])
    sieve.reject(sieve.place() >= per_class, "not drawn", per_class)
