"""Rare real images, found by SynBench's own measures: what P1 sec. 4.2 tunes on beside random ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.data.imageset import class_names
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.synbench.backends import open_measures
from synreal.synbench.compare import measure_all


@dataclass(frozen=True)
class Rare:
    """Which end of which measure is rare."""

    measure: str
    high: bool


RARE: Mapping[str, Rare] = {  # by the factor of ImageNet-X that it stands for (P1 Tables 2 and 5)
    "brighter": Rare("brightness", high=True),
    "darker": Rare("brightness", high=False),
    "larger": Rare("object scale", high=True),
    "smaller": Rare("object scale", high=False),
    "person_blocking": Rare("person blocking", high=True),
}


def rare_values(world: World, detector: str, device: str = "cpu") -> pd.DataFrame:
    """What the measures of RARE say of each image: a column each, indexed by image id, kept on disk.

    Raises InputError when the detector cannot be loaded, and when a measure fails.
    """
    measures = open_measures(class_names(world.images), detector=detector, device=device)
    return measure_all(world, measures, strict=True).values


def rare_images(images: Dataset, values: pd.Series, rare: Rare, budget: int, seed: int = 0) -> Dataset:
    """`budget` images from the rare end of a measure, as many of each class as there are.

    values: the measure by image id, NaN where it is undefined. The rare end of a class is its most extreme
    images, twice as many as are wanted, of which the seed draws half; of a measure that answers yes or no it
    is every yes. P1 does not say where it cuts.
    Raises InputError when a class has fewer rare images than wanted.
    """
    labels = np.asarray(images.with_format("numpy")["label"][:])
    found = values.reindex(images["id"][:]).to_numpy() * (1 if rare.high else -1)
    names = images.features["label"].names
    wanted = np.diff(np.arange(len(names) + 1) * budget // len(names))
    rng = np.random.default_rng(seed)
    rows = []
    for label, count in enumerate(wanted):
        ends = _rare_end(found, np.flatnonzero(labels == label), 2 * count)
        if len(ends) < count:
            raise InputError(
                f"rare images: class {names[label]} has {len(ends)} at the rare end of {rare.measure}, "
                f"expected {count}; choose them from a larger set, or ask for fewer"
            )
        rows.append(rng.permutation(ends)[:count])
    return images.select(np.sort(np.concatenate(rows)))


def _rare_end(values: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """The rows with the highest values, at most so many; of yes and no, every yes."""
    known = rows[np.isfinite(values[rows])]
    if set(np.unique(np.abs(values[known]))) <= {0.0, 1.0}:
        return known[values[known] == 1]
    return known[np.argsort(-values[known], kind="stable")[:most]]
