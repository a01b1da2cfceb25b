"""Measures of SynBench against the truth that scenes know."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.evaluate.resampling import (
    MINIMUM_IMAGES,
    cluster_codes,
    design_effect,
    percentile_interval,
    resampled_sums,
    wilson_interval,
)
from synreal.generate.rerender import Defects, rerendered_set
from synreal.synbench.compare import Measured

Sums = dict[str, np.ndarray]


def agreement(
    measured: pd.Series,
    truth: pd.Series,
    clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows found, bias, mean_absolute_error, correlation: statistic, value, n, ci_low, ci_high.

    `measured`, `truth`: numbers indexed by image id; images where `measured` is NaN count in `found` (the
    share that has a value) alone. bias is measured minus truth, in the unit of the measure; correlation is
    Pearson's. Intervals are 95 %: Wilson's for `found`, percentile bootstraps over images, or whole clusters,
    for the rest.
    Raises InputError when an image has no truth, or fewer than MINIMUM_IMAGES have a value.
    """
    pair, codes = _paired(measured, truth, clusters)
    known = pair["measured"].notna().to_numpy()
    if known.sum() < MINIMUM_IMAGES:
        raise InputError(f"agreement: found {known.sum()} measured images, expected {MINIMUM_IMAGES} or more")
    x, y = (pair[name].to_numpy()[known] - pair["truth"].mean() for name in ("measured", "truth"))
    columns = {
        "n": np.ones_like(x),
        "x": x,
        "y": y,
        "error": abs(x - y),
        "xx": x * x,
        "yy": y * y,
        "xy": x * y,
    }
    table = np.column_stack(list(columns.values()))
    units = None if codes is None else np.unique(codes[known], return_inverse=True)[1]
    drawn = dict(zip(columns, resampled_sums(table, draws, seed, units).T, strict=True))
    whole = {name: np.asarray(column.sum()) for name, column in columns.items()}
    rows = [_share("found", known, np.ones_like(known), codes)]
    for name, statistic in STATISTICS.items():
        low, high = percentile_interval(statistic(drawn))
        rows.append(_row(name, float(statistic(whole)), len(x), low, high))
    return pd.DataFrame(rows)


def yes_no_agreement(
    measured: pd.Series, truth: pd.Series, clusters: pd.Series | None = None
) -> pd.DataFrame:
    """Rows found, sensitivity and specificity, with the columns of `agreement`; both series are 0 or 1.

    sensitivity: the share of true ones that are measured as one; specificity: of true zeros, as zero; both
    among the images that have a value. NaN without bounds where there are fewer than MINIMUM_IMAGES of them.
    """
    pair, codes = _paired(measured, truth, clusters)
    value, true = pair["measured"].to_numpy(), pair["truth"].to_numpy()
    known = ~np.isnan(value)
    return pd.DataFrame(
        [
            _share("found", known, np.ones_like(known), codes),
            _share("sensitivity", known & (value == 1), known & (true == 1), codes),
            _share("specificity", known & (value == 0), known & (true == 0), codes),
        ]
    )


def _paired(
    measured: pd.Series, truth: pd.Series, clusters: pd.Series | None
) -> tuple[pd.DataFrame, np.ndarray | None]:
    true = truth.reindex(measured.index)
    if true.isna().any():
        raise InputError(f"truth: says nothing of {true.isna().sum()} of {len(true)} images; index it by id")
    pair = pd.DataFrame({"measured": measured.astype(float), "truth": true.astype(float)}).sort_index()
    return pair, cluster_codes(clusters, pair.index)


def _share(name: str, hits: np.ndarray, images: np.ndarray, codes: np.ndarray | None) -> dict[str, object]:
    n, found = int(images.sum()), int((hits & images.astype(bool)).sum())
    if n < MINIMUM_IMAGES:
        return _row(name, np.nan, n, np.nan, np.nan)
    effect = 1.0
    if codes is not None:
        effect = design_effect((hits & images.astype(bool)).astype(float), images.astype(float), codes)
    return _row(name, found / n, n, *wilson_interval(found, n, design_effect=effect))


def _correlation(sums: Sums) -> np.ndarray:
    covariance = sums["xy"] - sums["x"] * sums["y"] / sums["n"]
    spread = [sums[f"{c}{c}"] - sums[c] ** 2 / sums["n"] for c in ("x", "y")]
    with np.errstate(divide="ignore", invalid="ignore"):
        return covariance / np.sqrt(spread[0] * spread[1])


STATISTICS: dict[str, Callable[[Sums], np.ndarray]] = {
    "bias": lambda sums: (sums["x"] - sums["y"]) / sums["n"],
    "mean_absolute_error": lambda sums: sums["error"] / sums["n"],
    "correlation": _correlation,
}


def _row(statistic: str, value: float, n: int, low: float, high: float) -> dict[str, object]:
    return {"statistic": statistic, "value": value, "n": n, "ci_low": low, "ci_high": high}


# Measures beside the scenes' own truth, and scenes with defects that are known.


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
