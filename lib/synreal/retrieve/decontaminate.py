"""Which images of a set are copies, or nearly, of images that it must not hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.data.overlap import BLOCK, Descriptor, describe, nearest, pixel_hashes
from synreal.errors import InputError

THRESHOLDS = tuple(np.round(np.arange(0.5, 1.0001, 0.025), 3))
ISC_THRESHOLD = 0.604169  # P2's, of the descriptor of the ISC 2021 contest; it means nothing for another


@dataclass(frozen=True)
class Closeness:
    """How near each image comes to the sets it must not overlap."""

    same: np.ndarray  # bool [N], same decoded pixels as an image of those sets
    value: np.ndarray  # float32 [N], inner product with the nearest; NaN without a descriptor
    nearest: np.ndarray  # object [N], "set/id" of the nearest, or of the same

    def sensitivity(self, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
        """Per threshold: how many images and which share of them would be rejected."""
        counts = [int((self.same | (self.value >= t)).sum()) for t in thresholds]
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


def decontaminate(
    images: Dataset,
    against: Mapping[str, Dataset],
    descriptor: Descriptor | None = None,
    threshold: float | None = None,
) -> tuple[Dataset, pd.DataFrame, pd.DataFrame]:
    """(the images that are left, a ledger of those rejected, the sensitivity curve) of any set, generated or real.

    Rejected are images with the same pixels as one of `against`, and with a descriptor those within
    `threshold` of one. The ledger has a row per image: id, class, reason, threshold, value, nearest.
    """
    if (descriptor is None) != (threshold is None):
        raise InputError("descriptor and threshold: found one without the other; give both or neither")
    close = closeness(images, against, descriptor)
    near = close.value >= (np.inf if threshold is None else threshold)
    bad = close.same | near
    names = np.asarray(images.features["label"].names, dtype=object)
    ledger = pd.DataFrame(
        {
            "id": images["id"][:],
            "class": names[np.asarray(images["label"][:])],
            "reason": np.where(close.same, "same pixels as", "close to"),
            "threshold": np.where(close.same, np.nan, np.nan if threshold is None else threshold),
            "value": close.value,
            "nearest": close.nearest,
        }
    )
    return images.select(np.flatnonzero(~bad)), ledger[bad].reset_index(drop=True), close.sensitivity()


def collapse(vectors: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Near-duplicates among unit vectors, earlier ones kept: (int64 [N], float32 [N]).

    The row of the kept vector that a vector repeats (inner product `threshold` or more) and the product; -1
    and NaN for a vector that is kept.
    """
    twin, value = np.full(len(vectors), -1, np.int64), np.full(len(vectors), np.nan, np.float32)
    kept = np.empty(0, np.int64)
    for start in range(0, len(vectors), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(vectors)))
        if len(kept):
            near, products = nearest(vectors[rows], vectors[kept])
            hit = products >= threshold
            twin[rows[hit]], value[rows[hit]] = kept[near[hit]], products[hit]
        _collapse_block(vectors, rows, threshold, twin, value)
        kept = np.concatenate([kept, rows[twin[rows] < 0]])
    return twin, value


def _collapse_block(
    vectors: np.ndarray, rows: np.ndarray, threshold: float, twin: np.ndarray, value: np.ndarray
) -> None:
    products = vectors[rows] @ vectors[rows].T
    for i, row in enumerate(rows):
        if twin[row] < 0:
            later = rows[i + 1 :]
            hit = (products[i, i + 1 :] >= threshold) & (twin[later] < 0)
            twin[later[hit]], value[later[hit]] = row, products[i, i + 1 :][hit]
