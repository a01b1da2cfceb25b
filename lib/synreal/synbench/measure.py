"""What a measure of images is, and how measures read a set: in order, and in flat memory."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import datasets
import numpy as np
import pandas as pd

from synreal.data import stored
from synreal.data.imageset import check_image_set

ROWS_AHEAD = 64  # images decoded before the first of them is used
YES_NO = "0 or 1"  # the unit of measures that answer yes (1) or no (0); their means are proportions
PIXELS_PER_BATCH = 1 << 17  # small images are measured together, up to what caches hold


class Measure(Protocol):
    """A number for each image of a set."""

    @property
    def name(self) -> str:
        """One word, as in tables: `brightness`."""

    @property
    def unit(self) -> str:
        """What the values are counted in, as on an axis: `L*`."""

    @property
    def fingerprint(self) -> str:
        """What shapes the values beside the images (weights, settings): stored values are known by it."""

    def values(self, images: datasets.Dataset) -> pd.Series:
        """float64 indexed by image id, in the order of the set; NaN where the measure is not defined.

        Values are kept on disk, unless attrs["unanswered"] says that some may be known the next time.
        """


def batches(images: datasets.Dataset) -> Iterator[tuple[list[str], np.ndarray]]:
    """Ids, and pixels uint8 [B, H, W, 3] RGB, of neighbouring images of one size, in the order of the set.

    B is 1 or more, with at most PIXELS_PER_BATCH pixels where B is above 1. Raises InputError as `decoded`.
    """
    ids: list[str] = []
    batch: list[np.ndarray] = []
    for key, pixels in decoded(images):
        full = (len(batch) + 1) * pixels.shape[0] * pixels.shape[1] > PIXELS_PER_BATCH
        if batch and (full or pixels.shape != batch[0].shape):
            yield ids, np.stack(batch)
            ids, batch = [], []
        ids.append(key)
        batch.append(pixels)
    if batch:
        yield ids, np.stack(batch)


def decoded(images: datasets.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Id and pixels, uint8 [H, W, 3] RGB, of each image in order; decoded on all cores, ROWS_AHEAD at once.

    Any colour mode, as `decode.to_rgb` says. Raises InputError when the set breaks the contract of
    `data.imageset` or an image cannot be decoded.
    """
    check_image_set(images, "image set")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in stored.stored_batches(images, ROWS_AHEAD):
            pixels = pool.map(lambda row: np.asarray(stored.decoded(row)), rows)
            yield from zip((row["id"] for row in rows), pixels, strict=True)
