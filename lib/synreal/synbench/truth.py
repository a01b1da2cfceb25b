"""Measures beside the scenes' own truth, and scenes with defects that are known."""

from collections.abc import Sequence

import pandas as pd

from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.worlds import World
from synreal.generate.rerender import Defects, rerendered_set
from synreal.synbench.study import Measured
from synreal.synbench.validate import agreement, yes_no_agreement

TRUTH = ("x0", "y0", "x1", "y1", "exposure", "person")  # columns that scenes carry


def knows_truth(world: World) -> bool:
    """Whether the images are scenes, with the columns that the measures are checked against."""
    return set(TRUTH) <= set(world.images.column_names)


def validate_on_scenes(measured: Measured, draws: int = 2000, seed: int = 0) -> dict[str, pd.DataFrame]:
    """By measure, `agreement` or `yes_no_agreement` with the truth of these scenes; empty for other images.

    consistency: every label is right, so its sensitivity is the judge's accuracy. object scale: the area of
    the object's true box. brightness: the exposure in EV, so only the correlation has a meaning. person
    blocking: a person in front of the object.
    """
    if not knows_truth(measured.world):
        return {}
    truth = _truth(measured)
    clusters, checked = measured.world.clusters, {}
    for name in measured.values:
        values = measured.values[name]
        if name in ("object scale", "brightness"):
            table = agreement(values, truth[name], clusters, draws, seed)
            comparable = table["statistic"] == "correlation" if name == "brightness" else slice(None)
            checked[name] = table[comparable]
        else:
            checked[name] = yes_no_agreement(values, truth[name], clusters).dropna(subset=["value"])
    return checked


def rerendered_worlds(real: World, doses: Sequence[Defects], count: int, seed: int = 0) -> list[World]:
    """The first scenes of `real`'s split rendered again, one world for each choice of defects."""
    split = real.images["id"][0].split("-")[0]
    sets = [rerendered_set(split, count, dose, seed) for dose in doses]
    clusters = [pd.Series(s["cluster"][:], index=s["id"][:]) for s in sets]
    return [
        World(dose.describe(), images, SCENES_HIERARCHY, None, codes)
        for dose, images, codes in zip(doses, sets, clusters, strict=True)
    ]


def _truth(measured: Measured) -> pd.DataFrame:
    table = measured.world.images.select_columns(["id", *TRUTH]).to_pandas().set_index("id")
    sides = [(table[f"{axis}1"] - table[f"{axis}0"]).clip(0, 1) for axis in ("x", "y")]
    in_front = (table["person"] == "in front").astype(float)
    return pd.DataFrame(
        {
            "consistency": 1.0,
            "object scale": sides[0] * sides[1],
            "brightness": table["exposure"],
            "person blocking": in_front,
        },
        index=table.index,
    )
