"""Brightness of images: CIELAB lightness, computed from tables."""

from functools import cache

import datasets
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from synreal.errors import InputError
from synreal.synbench.measure import PIXELS_PER_BATCH, batches

LUMINANCE = (0.212671, 0.715160, 0.072169)  # of linear red, green and blue: sRGB primaries, white D65
# Lightness is steep in luminance near black but at most 170 per unit of its square root, so that a table
# of equal steps of the root is within 170 / STEPS / 2 = 0.0007 everywhere.
STEPS = 1 << 17


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


def lightness(images: np.ndarray | Tensor) -> Tensor:
    """Mean CIELAB lightness L* of each image, float64 [N] in 0..100, on the device of the images.

    `images`: uint8 [N, H, W, 3] in sRGB; the white point is D65. Every pixel is within 0.001 of the
    definition (CIE 15:2004, with the rounded constants that scikit-image uses).
    Raises InputError for another type or shape, and where there is no image or no pixel.
    """
    pixels = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    shape = tuple(pixels.shape)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or shape[3] != 3 or 0 in shape:
        raise InputError(f"images: found {pixels.dtype} of shape {shape}, expected uint8 [N, H, W, 3] in RGB")
    together = max(1, PIXELS_PER_BATCH // (shape[1] * shape[2]))
    return torch.cat([_mean_lightness(part) for part in pixels.split(together)])


def _mean_lightness(images: Tensor) -> Tensor:
    linear, by_root = _tables(images.device)
    red, green, blue = images.reshape(-1, 3).unbind(1)
    luminance = linear[0].index_select(0, red.int())
    luminance += linear[1].index_select(0, green.int())
    luminance += linear[2].index_select(0, blue.int())
    pixels = by_root.index_select(0, luminance.sqrt_().int())
    return pixels.view(len(images), -1).mean(1).double()


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Luminance of each channel's 256 values, times STEPS**2, [3, 256]; L* by the root of it, [STEPS + 1]."""
    value = np.arange(256) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    luminance = np.outer(LUMINANCE, linear) * STEPS**2
    middle = ((np.arange(STEPS + 1) + 0.5) / STEPS) ** 2  # of each step; the last one is white alone
    cubic = 116 * np.cbrt(middle) - 16
    light = np.minimum(np.where(middle > 0.008856, cubic, 116 * 7.787 * middle), 100)
    return torch.from_numpy(luminance).float().to(device), torch.from_numpy(light).float().to(device)
