"""Which images of a set are copies, or nearly, of images that it must not hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.data.overlap import Descriptor, describe, nearest, pixel_hashes
from synreal.errors import InputError
from synreal.retrieve.sieve import Sieve

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
    sieve: Sieve,
    corpus: Dataset,
    against: Mapping[str, Dataset],
    descriptor: Descriptor | None,
    threshold: float | None,
    vectors: np.ndarray | None = None,
) -> Closeness:
    """Rejects candidates that are in one of the sets `against`, or as close to it as `threshold`.

    The sieve's columns `row` (in `corpus`) and `sha256` are used. vectors: the descriptor's, of the
    candidates, where they are known. Returns how close every candidate is.
    """
    candidates = corpus.select(sieve.left["row"])
    close = closeness(candidates, against, descriptor, vectors, sieve.left["sha256"].tolist())
    near, rest = close.near(threshold), ~close.same
    sieve.reject(close.same, "same pixels as", value=1.0, nearest=close.nearest)
    sieve.reject(near[rest], "close to", threshold, close.value[rest], close.nearest[rest])
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
    sieve = Sieve(candidates, images.features["label"].names)
    close = reject_contaminated(sieve, images, against, descriptor, threshold)
    return images.select(sieve.left["row"]), sieve.ledger, close.sensitivity()
