"""The measures of SynBench and the first of them, lightness (P1 sec. 3)."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

import cv2
import datasets
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from synreal.data import decode
from synreal.data.imageset import check_image_set
from synreal.errors import InputError

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
        for rows in decode.stored_batches(images, ROWS_AHEAD):
            pixels = pool.map(lambda row: np.asarray(decode.decoded(row)), rows)
            yield from zip((row["id"] for row in rows), pixels, strict=True)


# Brightness of images: CIELAB lightness, computed from tables.


LUMINANCE = np.array([[0.212671, 0.715160, 0.072169]])  # of linear red, green, blue: sRGB primaries, D65
# Lightness is steep in luminance near black but at most 170 per unit of its square root, so that a table
# of equal steps of the root is within 170 / STEPS / 2 = 0.0007 everywhere.
STEPS = 1 << 17
PIXELS_AT_ONCE = 1 << 18  # what a thread looks up in one go: its scratch stays in the caches


class Brightness:
    """Mean CIELAB lightness of an image, 0 (black) to 100 (white): the brightness of P1 sec. 3.2."""

    name = "brightness"
    unit = "L*"
    fingerprint = "mean of CIELAB L*, sRGB, D65"

    def values(self, images: datasets.Dataset) -> pd.Series:
        """`lightness` of each image, float64 indexed by id. Raises InputError as `measure.decoded`."""
        found: dict[str, float] = {}
        for ids, pixels in batches(images):
            # Plain numbers: small arrays kept between large ones that come and go would scatter the memory.
            found |= zip(ids, lightness(pixels).tolist(), strict=True)
        return pd.Series(found, dtype=np.float64, name=self.name).rename_axis("id")


def lightness(images: np.ndarray) -> np.ndarray:
    """Mean CIELAB lightness L* of each image, float64 [N] in 0..100; on all cores.

    `images`: uint8 [N, H, W, 3] in sRGB; the white point is D65. Every pixel is within 0.001 of the
    definition (CIE 15:2004, with the rounded constants that scikit-image uses).
    Raises InputError for another type or shape, and where there is no image or no pixel.
    """
    shape = np.shape(images)
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise InputError(f"images: found {images.dtype} of shape {shape}, expected uint8 [N, H, W, 3] in RGB")
    # A small image is one strip of pixels; of a large one, each of its rows.
    whole = shape[1] * shape[2] <= PIXELS_AT_ONCE
    strips = np.ascontiguousarray(images).reshape(shape[0] if whole else shape[0] * shape[1], -1, 3)
    threads = min(os.cpu_count() or 1, -(-strips.size // 3 // PIXELS_AT_ONCE))
    # The threads share the cores: torch would start as many again in each of them.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        means = list(pool.map(_mean_lightness, np.array_split(strips, threads)))
    return np.concatenate(means).reshape(shape[0], -1).mean(1)


def _mean_lightness(strips: np.ndarray) -> np.ndarray:
    """Mean L* of each strip, float64 [S], from uint8 [S, P, 3]; the scratch of a part serves the next."""
    linear, by_root = _tables()
    together = max(1, min(len(strips), PIXELS_AT_ONCE // strips.shape[1]))
    channels = np.empty((together, *strips.shape[1:]), np.float32)
    luminance = torch.empty(channels.shape[:2])
    step, light = torch.empty_like(luminance, dtype=torch.int32), torch.empty_like(luminance)
    means = []
    for part in np.array_split(strips, range(together, len(strips), together)):
        y, i, found = luminance[: len(part)], step[: len(part)], light[: len(part)]
        cv2.transform(cv2.LUT(part, linear, channels[: len(part)]), LUMINANCE, y.numpy())
        i.copy_(y.sqrt_())
        torch.index_select(by_root, 0, i.view(-1), out=found.view(-1))
        means.append(found.mean(1).double())
    return torch.cat(means).numpy()


@cache
def _tables() -> tuple[np.ndarray, Tensor]:
    """Of each of a channel's 256 values the linear one, times STEPS**2; L* by the root of luminance."""
    value = np.arange(256) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92) * STEPS**2
    middle = ((np.arange(STEPS + 1) + 0.5) / STEPS) ** 2  # of each step; the last one is white alone
    cubic = 116 * np.cbrt(middle) - 16
    light = np.minimum(np.where(middle > 0.008856, cubic, 116 * 7.787 * middle), 100)
    return linear.astype(np.float32)[None], torch.from_numpy(light).float()
