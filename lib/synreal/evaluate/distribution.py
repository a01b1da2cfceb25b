"""A measure's values on a synthetic set beside those on a real one: whole distributions, not only means."""

import numpy as np
import pandas as pd

from synreal.errors import InputError
from synreal.evaluate.cumulative import (
    QUANTILES,
    TAILS,
    cumulative,
    distances,
    gap_between,
    resampled_counts,
    summaries,
)
from synreal.evaluate.sample import Pair, Row, Sample, pair_row, paired, too_few
from synreal.evaluate.statistics import (
    bootstrap_p,
    no_interval,
    percentile_interval,
    wilson_bounds,
    with_holm,
)

NO_EFFECT = {"difference": 0.0, "ratio": 1.0}  # what p tests, by the last word of a statistic


def compare_distributions(
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None = None,
    synthetic_clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per statistic of a measure: statistic, value, n_real, n_synthetic, ci_low, ci_high, p, note.

    `real`, `synthetic`: the measure's values indexed by image id. Images where it is NaN are left out, and
    `note` counts them. The statistics, a difference being synthetic minus real:

    - mean, and q05, q25, q50, q75, q95 (quantiles in %), each as _real, _synthetic and _difference;
    - iqr_ratio, range_ratio: the width from 25 % to 75 %, and from 5 % to 95 %, synthetic to real;
    - low_tail_coverage, high_tail_coverage: the share of synthetic images at or beyond the real 5 % (95 %)
      quantile, to that of real images: 1 covers the tail as real images do, 0 not at all;
    - wasserstein, in the unit of the measure, and ks (Kolmogorov-Smirnov, 0 to 1); and as _null what sets of
      these sizes differ by where nothing but chance does, the mean and the central 95 %.

    Intervals are 95 % percentiles of a bootstrap over the images of each set, or over whole clusters (names
    indexed by image id, such as the photograph that several images show). Two are not. A tail with no
    synthetic image has Wilson's upper bound. Draws of a distance lie above it and never reach down to a true
    0, so its bounds are the value -+ the null's 95 % quantile: safe by the triangle inequality.

    p is that of no difference, or a ratio of 1, by `bootstrap_p`; of a distance, the share of null values
    that reach it. Null values are distances of the draws' deviations from what was observed, which respect
    clusters. With fewer than MINIMUM_IMAGES images or clusters in a set, or draws that never vary, bounds and
    p are NaN and `note` says so. The order of the images makes no difference.
    Raises InputError for repeated ids, infinite values, draws < 1, and as `cluster_codes`.
    Source: P1 sec. 3.2, fig. 5.
    """
    pair = paired(real, synthetic, real_clusters, synthetic_clusters)
    return _distribution_table(pair, draws, seed)


def compare_classes(
    real: pd.Series,
    synthetic: pd.Series,
    real_classes: pd.Series,
    synthetic_classes: pd.Series,
    real_clusters: pd.Series | None = None,
    synthetic_clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """`compare_distributions` class by class: its columns, with `class` in front and p_holm after p.

    Classes are names indexed by image id; one that a set lacks has rows of NaN and a note. p_holm is adjusted
    across the classes of one statistic.
    Raises InputError for an image without a class, sets without a common class, and as
    `compare_distributions`.
    """
    pair = paired(real, synthetic, real_clusters, synthetic_clusters)
    classes = [_class_of(pair[0], real_classes), _class_of(pair[1], synthetic_classes)]
    _check_common(*(sorted(set(part)) for part in classes))
    tables = {}
    for name in sorted({*classes[0], *classes[1]}):
        chosen = [sample.where(part == name) for sample, part in zip(pair, classes, strict=True)]
        tables[name] = _distribution_table((chosen[0], chosen[1]), draws, seed)
    table = pd.concat(tables, names=["class"]).reset_index(level="class").reset_index(drop=True)
    return with_holm(table, "statistic")


def _class_of(sample: Sample, classes: pd.Series) -> np.ndarray:
    ids = sample.series.index
    if alone := sorted(set(ids) - set(classes.dropna().index)):
        raise InputError(f"classes: {len(alone)} images have none, first {alone[:3]}; name one for each id")
    return classes.loc[ids].to_numpy()


def _check_common(real: list[str], synthetic: list[str]) -> None:
    if set(real).isdisjoint(synthetic):
        raise InputError(
            f"classes: real images have {real[:3]}, synthetic ones {synthetic[:3]}, and no class is in both; "
            "name classes alike in both sets"
        )


def _distribution_table(pair: Pair, draws: int, seed: int) -> pd.DataFrame:
    if draws < 1:
        raise InputError(f"draws: found {draws}, expected 1 or more")
    grid = np.unique(np.concatenate([sample.values for sample in pair]))
    grid = grid if len(grid) else np.array([np.nan])
    members = [sample.members(grid) for sample in pair]
    whole = [cumulative(part, np.ones((part.shape[1], 1))) for part in members]
    gap = gap_between(*whole)
    values = summaries(grid, *whole) | distances(grid, gap)
    # Without enough to resample there are no draws, and no draws give no bounds.
    resampled = [] if too_few(pair) else resampled_counts(members, draws, seed)
    parts = [summaries(grid, *below) | distances(grid, gap_between(*below) - gap) for below in resampled]
    rows = []
    for name, value in values.items():
        drawn = np.concatenate([np.empty(0), *(part[name] for part in parts)])
        rows += _rows(pair, name, float(value[0]), drawn)
    return pd.DataFrame(rows)


def _rows(pair: Pair, name: str, value: float, drawn: np.ndarray) -> list[Row]:
    if name in ("wasserstein", "ks"):
        expected = float(drawn.mean()) if len(drawn) else np.nan
        null = pair_row(pair, f"{name}_null", expected, **_bootstrapped(expected, drawn))
        largest = 1.0 if name == "ks" else np.inf
        return [pair_row(pair, name, value, **_beyond_null(value, drawn, largest)), null]
    if name in TAILS and value == 0 and len(drawn):
        return [pair_row(pair, name, value, **_empty_tail(pair, TAILS[name]))]
    effect = NO_EFFECT.get(name.rsplit("_", 1)[-1])
    tested = effect is not None and not no_interval(drawn)
    p = bootstrap_p(drawn - effect) if tested else np.nan
    return [pair_row(pair, name, value, **_bootstrapped(value, drawn), p=p)]


def _bootstrapped(value: float, drawn: np.ndarray) -> Row:
    """The percentile interval, widened to hold the value where the bootstrap is biased."""
    low, high = percentile_interval(drawn)
    return {"ci_low": min(low, value), "ci_high": max(high, value), "note": no_interval(drawn)}


def _beyond_null(value: float, null: np.ndarray, largest: float) -> Row:
    if reason := no_interval(null):
        return {"note": reason}
    reach = float(np.quantile(null, 0.95))
    p = (1 + np.sum(null >= value)) / (1 + len(null))
    return {"ci_low": max(0.0, value - reach), "ci_high": min(largest, value + reach), "p": float(p)}


def _empty_tail(pair: Pair, quantile: str) -> Row:
    """Bounds of a tail without a synthetic image: its draws would claim certainty."""
    values = pair[0].values if quantile == "q05" else -pair[0].values
    share = np.mean(values <= np.quantile(values, QUANTILES["q05"]))
    high = wilson_bounds(0, pair[1].independent)[1] / share
    return {"ci_low": 0.0, "ci_high": float(high), "note": "no synthetic image in this tail; Wilson's bound"}
