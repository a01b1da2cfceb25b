"""What two image sets share: decoded pixels, or closeness under a descriptor."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import datasets
import numpy as np
from datasets import Dataset
from PIL import Image, UnidentifiedImageError

from synreal.data.decode import DECODING_ERRORS, open_record, to_rgb
from synreal.errors import InputError, shorten

ROWS_PER_TASK = 1024
BLOCK = 4096  # vectors compared at once; 4096 x 4096 similarities are 64 MiB


class Descriptor(Protocol):
    """What tells copies of an image from other images: vectors whose inner product is high for copies."""

    name: str
    fingerprint: str  # of the weights and settings that decide the vectors

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors, float32 [N, D], of RGB images."""
        ...


def pixel_hashes(images: datasets.Dataset) -> list[str]:
    """sha256 of each image's size and RGB pixels, so that a copy in another file format or name is found.

    Raises InputError with the id of an image that cannot be decoded.
    """
    hashes, reasons = try_pixel_hashes(images)
    if reasons:
        row, reason = next(iter(reasons.items()))
        raise InputError(
            f"image {images['id'][row]}: cannot be decoded ({reason}), as {len(reasons)} of "
            f"{len(images)} images; leave them out, as load_image_set does with unreadable='drop'"
        )
    return hashes


def try_pixel_hashes(images: datasets.Dataset) -> tuple[list[str], dict[int, str]]:
    """(the hashes, "" where an image is missing or cannot be decoded; row -> reason of those)."""
    raw = images.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    table = raw.with_format("arrow")

    def hash_rows(start: int) -> list[tuple[str, str]]:
        return [_try_pixel_hash(r) for r in table[start : start + ROWS_PER_TASK]["image"].to_pylist()]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(hash_rows, range(0, len(images), ROWS_PER_TASK)))
    found = [pair for part in parts for pair in part]
    return [key for key, _ in found], {row: reason for row, (_, reason) in enumerate(found) if reason}


def nearest(vectors: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each vector, the row of `reference` with the largest inner product (int64 [N]), and that product."""
    rows, products = np.zeros(len(vectors), np.int64), np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(vectors), BLOCK):
        here = slice(start, start + BLOCK)
        for first in range(0, len(reference), BLOCK):
            block = vectors[here] @ reference[first : first + BLOCK].T
            best = block.argmax(axis=1)
            value = np.take_along_axis(block, best[:, None], axis=1)[:, 0]
            closer = value > products[here]
            rows[here] = np.where(closer, best + first, rows[here])
            products[here] = np.maximum(value, products[here])
    return rows, products


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


def describe(images: datasets.Dataset, descriptor: Descriptor, batch_size: int = 256) -> np.ndarray:
    """The descriptor's vectors of all images, float32 [N, D]. InputError when they are not of unit length."""
    starts = range(0, len(images), batch_size)
    vectors = np.concatenate(
        [descriptor([to_rgb(image) for image in images[s : s + batch_size]["image"]]) for s in starts]
    ).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.allclose(lengths, 1, atol=1e-3):
        raise InputError(
            f"descriptor {descriptor.name}: vectors of length {lengths.min():.3f} to {lengths.max():.3f}; "
            "expected unit vectors, so that the threshold means a cosine"
        )
    return vectors


def _collapse_block(
    vectors: np.ndarray, rows: np.ndarray, threshold: float, twin: np.ndarray, value: np.ndarray
) -> None:
    products = vectors[rows] @ vectors[rows].T
    for i, row in enumerate(rows):
        if twin[row] < 0:
            later = rows[i + 1 :]
            hit = (products[i, i + 1 :] >= threshold) & (twin[later] < 0)
            twin[later[hit]], value[later[hit]] = row, products[i, i + 1 :][hit]


def reason_of(error: Exception) -> str:
    """One of DECODING_ERRORS in one line, the same in every process."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"  # Pillow's own words name a memory address
    return " ".join(str(error).split()) or type(error).__name__


def _try_pixel_hash(record: dict[str, Any] | None) -> tuple[str, str]:
    """(hash, "") or ("", why there is none)."""
    try:
        image = to_rgb(open_record(record))
    except DECODING_ERRORS as error:
        return "", reason_of(error)
    size = f"{image.width}x{image.height} ".encode()
    return hashlib.sha256(size + image.tobytes()).hexdigest(), ""


MEND = "leave them out of the training set, or evaluate on a split that does not hold them"


def refuse_overlap(
    train: Dataset, test: Dataset, descriptor: Descriptor | None = None, threshold: float | None = None
) -> None:
    """Raise InputError when an image of `test` is in `train`.

    The same image is: the same value in column `cluster` (where both sets have one), or the same decoded
    pixels, whatever the file format. With a descriptor also any pair whose vectors have an inner product of
    `threshold` or more. Ids do not count: files of two folders may bear the same names. The message counts
    the images of `test` and names the first.
    """
    if (descriptor is None) != (threshold is None):
        raise InputError("descriptor and threshold: found one without the other; give both or neither")
    if "cluster" in train.column_names and "cluster" in test.column_names:
        own, known = (np.asarray(part["cluster"][:], dtype=str) for part in (test, train))
        _refuse(test, np.isin(own, known), "belong to a cluster that is in the training set")
    _refuse(test, np.isin(pixel_hashes(test), pixel_hashes(train)), "have the pixels of a training image")
    if descriptor is not None and threshold is not None:
        close = nearest(describe(test, descriptor), describe(train, descriptor))[1] >= threshold
        _refuse(test, close, f"are within {threshold} ({descriptor.name}) of a training image")


def refuse_shared_pixels(train: np.ndarray, test: np.ndarray) -> None:
    """`refuse_overlap` for images in memory, uint8 [N, H, W, 3]: no test image may be in `train` as well."""
    known = {image.tobytes() for image in train} if train.shape[1:] == test.shape[1:] else set()
    found = np.flatnonzero([image.tobytes() in known for image in test])
    if len(found):
        raise InputError(
            f"{len(found)} of {len(test)} test images have the pixels of a training image, first number "
            f"{found[0]}; {MEND}"
        )


def _refuse(test: Dataset, found: np.ndarray, what: str) -> None:
    if found.any():
        ids = test.select(np.flatnonzero(found))["id"][:]
        raise InputError(f"{len(ids)} of {len(test)} test images {what}: {shorten(ids)}; {MEND}")
