"""A description of the scenes world: the values worth a picture, the shares of its factors, its splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from synreal.data.sprites import SPLITS, load_sprites


@dataclass(frozen=True)
class Words:
    """How a value is told: axis label, title, and the shape of its distribution in words."""

    label: str
    title: str
    shape: str


VALUES = {
    "scale": Words(
        "longer side of the object / side of the image",
        "Object size",
        "most between 0.6 and 0.9, with thin tails of small objects below 0.5 and large ones above 1.",
    ),
    "exposure": Words(
        "exposure (EV)",
        "Light",
        "most between -0.6 and 0.6, with thin separate tails of dark and of bright scenes.",
    ),
    "rotation": Words(
        "rotation (degrees)",
        "Pose",
        "a narrow peak around 0, and few scenes at any angle from 35 to 180 on both sides.",
    ),
    "visible": Words(
        "visible share of the object",
        "How much of the object can be seen",
        "nearly all at 1, with a tail of objects that are cut by the frame or blocked.",
    ),
}


def factor_shares(flags: pd.DataFrame, designed: Mapping[str, float]) -> pd.DataFrame:
    """One row per factor: factor, value (share of images), n (images), ci_low, ci_high (Wilson), designed."""
    n = len(flags)
    low, high = proportion_confint(flags.sum().to_numpy(), n, method="wilson")
    table = pd.DataFrame({"factor": flags.columns, "value": flags.mean().to_numpy(), "n": n})
    return table.assign(ci_low=low, ci_high=high, designed=table["factor"].map(designed))


def garments() -> dict[str, int]:
    """How many photographs each split of the shipped subset holds."""
    return {split: len(load_sprites(split).images) for split in SPLITS}


def shared_garments() -> int:
    """How many photographs two splits of the shipped subset have in common, byte for byte."""
    held = {split: {image.tobytes() for image in load_sprites(split).images} for split in SPLITS}
    return sum(len(held[a] & held[b]) for a, b in combinations(SPLITS, 2))
