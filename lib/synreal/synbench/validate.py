"""How far a measure can be trusted: its values beside the truth, where the truth is known."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from synreal.errors import InputError
from synreal.evaluate.statistics import (
    MINIMUM_IMAGES,
    cluster_codes,
    design_effect,
    percentile_interval,
    resampled_sums,
    wilson_interval,
)

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
