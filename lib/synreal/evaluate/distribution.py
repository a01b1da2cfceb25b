"""Two samples beside each other: differences of quantiles, spread, tails and proportions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

from synreal.errors import InputError
from synreal.evaluate.resampling import (
    MINIMUM_IMAGES,
    bootstrap_p,
    cluster_codes,
    design_effect,
    no_interval,
    percentile_interval,
    ratio,
    wilson_bounds,
    wilson_interval,
    with_holm,
)

Row = dict[str, Any]  # part of a row of the result


@dataclass(frozen=True)
class Sample:
    """A measure on one set: its values in the order of ids, and codes of what is drawn as one."""

    series: pd.Series
    codes: np.ndarray
    drawn: str  # "images" or "clusters"

    @classmethod
    def of(cls, name: str, values: pd.Series, clusters: pd.Series | None) -> Self:
        series = values.astype(float).sort_index()
        if len(bad := series.index[series.index.duplicated()]):
            raise InputError(f"{name} values: {len(bad)} ids repeat, first {bad[0]!r}; give each image once")
        if len(bad := series.index[np.isinf(series)]):
            raise InputError(
                f"{name} values: {len(bad)} are infinite, first of {bad[0]!r}; expected NaN there"
            )
        codes = cluster_codes(clusters, series.index)
        each = np.arange(len(series))
        return cls(series, each, "images") if codes is None else cls(series, codes, "clusters")

    def where(self, chosen: np.ndarray) -> Self:
        return replace(self, series=self.series[chosen], codes=self.codes[chosen])

    @cached_property
    def values(self) -> np.ndarray:
        """The defined values, float64 [n]."""
        return self.series.dropna().to_numpy()

    @cached_property
    def units(self) -> np.ndarray:
        """What each defined value is drawn with: codes [n] from 0, without gaps."""
        return np.unique(self.codes[self.series.notna()], return_inverse=True)[1]

    @property
    def n(self) -> int:
        return len(self.values)

    @cached_property
    def independent(self) -> int:
        """How many images, or clusters of them, have a value."""
        return len(np.unique(self.units))

    def members(self, grid: np.ndarray) -> csr_array:
        """How many values of each unit lie at each point of the grid, [G, units]."""
        at = np.searchsorted(grid, self.values)
        return csr_array((np.ones(self.n), (at, self.units)), shape=(len(grid), self.independent))


Pair = tuple[Sample, Sample]  # real, synthetic


def paired(
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None,
    synthetic_clusters: pd.Series | None,
) -> Pair:
    return Sample.of("real", real, real_clusters), Sample.of("synthetic", synthetic, synthetic_clusters)


def pair_row(
    pair: Pair,
    name: str,
    value: float,
    ci_low: float = np.nan,
    ci_high: float = np.nan,
    p: float = np.nan,
    note: str = "",
) -> Row:
    return {
        "statistic": name,
        "value": value,
        "n_real": pair[0].n,
        "n_synthetic": pair[1].n,
        "ci_low": ci_low,
        "ci_high": ci_high,
        "p": p,
        "note": "; ".join(filter(None, [too_few(pair) or note, *_undefined(pair)])),
    }


def too_few(pair: Pair) -> str:
    """Why there are no intervals, or nothing where there are."""
    fewest = min(pair, key=lambda sample: sample.independent)
    few = fewest.independent < MINIMUM_IMAGES
    return f"too few {fewest.drawn} ({fewest.independent} < {MINIMUM_IMAGES})" if few else ""


def _undefined(pair: Pair) -> list[str]:
    return [
        f"{len(sample.series) - sample.n} of {len(sample.series)} {name} images have no value"
        for name, sample in zip(("real", "synthetic"), pair, strict=True)
        if sample.n < len(sample.series)
    ]


# Statistics of many bootstrap draws of two sets at once, from cumulative counts.
#
# A draw is held as how often it picked each of the pooled, sorted values, so that every statistic of many
# draws comes from one table of cumulative counts.


QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
TAILS = {"low_tail_coverage": "q05", "high_tail_coverage": "q95"}
CHUNK_COUNTS = 1 << 20  # counts held at once while resampling, in float64: 8 MB a table

Drawn = dict[str, np.ndarray]  # statistic to its value in each draw


def resampled_counts(members: list[csr_array], draws: int, seed: int) -> Iterator[list[np.ndarray]]:
    """`cumulative` of both sets, resampled independently, the draws in chunks."""
    rngs = [np.random.default_rng([seed, which]) for which in range(len(members))]
    step = max(1, CHUNK_COUNTS // members[0].shape[0])
    for start in range(0, draws, step):
        chunk = min(step, draws - start)
        yield [
            cumulative(part, _picks(rng, part.shape[1], chunk))
            for part, rng in zip(members, rngs, strict=True)
        ]


def _picks(rng: np.random.Generator, units: int, draws: int) -> np.ndarray:
    """How often each unit is in each sample of as many, with replacement: [units, D]."""
    picks = rng.integers(0, units, (draws, units)) + units * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * units).reshape(draws, units).T.astype(float)


def cumulative(members: csr_array, picks: np.ndarray) -> np.ndarray:
    """How many values of each draw lie before each point of the grid, and how many in all: [G + 1, D]."""
    below = np.zeros((members.shape[0] + 1, picks.shape[1]))
    np.cumsum(members @ picks, axis=0, out=below[1:])
    return below


def gap_between(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """The synthetic distribution function minus the real one at each point of the grid, [G, D]."""
    first, second = (below[1:] * ratio(np.ones(()), below[-1]) for below in (real, synthetic))
    return second - first


def distances(grid: np.ndarray, gap: np.ndarray) -> Drawn:
    size = np.abs(gap)
    return {"wasserstein": np.diff(grid, append=grid[-1]) @ size, "ks": size.max(axis=0)}


def summaries(grid: np.ndarray, real: np.ndarray, synthetic: np.ndarray) -> Drawn:
    """Every statistic but the distances, from `cumulative` of both sets."""
    a, b = _mean_and_quantiles(grid, real), _mean_and_quantiles(grid, synthetic)
    found: Drawn = {}
    for name in a:
        found |= {
            f"{name}_real": a[name],
            f"{name}_synthetic": b[name],
            f"{name}_difference": b[name] - a[name],
        }
    found["iqr_ratio"] = ratio(b["q75"] - b["q25"], a["q75"] - a["q25"])
    found["range_ratio"] = ratio(b["q95"] - b["q05"], a["q95"] - a["q05"])
    for name, quantile in TAILS.items():
        shares = [_tail(grid, below, a[quantile], quantile == "q05") for below in (synthetic, real)]
        found[name] = ratio(*shares)
    return found


def _mean_and_quantiles(grid: np.ndarray, below: np.ndarray) -> Drawn:
    total = below[-1]
    mean = grid[-1] - ratio(np.diff(grid) @ below[1:-1], total)
    ranks = np.multiply.outer(list(QUANTILES.values()), np.maximum(total - 1, 0))
    lower = np.floor(ranks)
    low, high = (grid[_position(below[1:], rank)] for rank in (lower, np.minimum(lower + 1, total - 1)))
    quantiles = np.where(total > 0, low + (high - low) * (ranks - lower), np.nan)
    return {"mean": mean} | dict(zip(QUANTILES, quantiles, strict=True))


def _position(cumulative: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """By bisection, the first row of each column of `cumulative` [G, D] that exceeds the ranks [Q, D]."""
    low = np.zeros(ranks.shape, int)
    high = np.full(ranks.shape, len(cumulative) - 1)
    for _ in range(len(cumulative).bit_length()):
        middle = (low + high) // 2
        exceeds = np.take_along_axis(cumulative, middle, axis=0) > ranks
        low, high = np.where(exceeds, low, middle + 1), np.where(exceeds, middle, high)
    return high


def _tail(grid: np.ndarray, below: np.ndarray, threshold: np.ndarray, lower: bool) -> np.ndarray:
    """The share of images at or below the threshold [D] of each draw, or at or above it."""
    before = np.searchsorted(grid, threshold, side="right" if lower else "left")
    share = ratio(np.take_along_axis(below, before[None], axis=0)[0], below[-1])
    return share if lower else 1 - share


# A measure's values on a synthetic set beside those on a real one: whole distributions, not only means.


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


# The share of yes on a synthetic set beside that on a real one.


def compare_proportions(
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None = None,
    synthetic_clusters: pd.Series | None = None,
) -> pd.DataFrame:
    """Rows proportion_real, _synthetic and _difference, with the columns of `compare_distributions`.

    `real`, `synthetic`: outcomes 0 or 1 (or bool) indexed by image id, NaN where there is none. Intervals are
    95 %: Wilson's, and for the difference Newcombe's, made of the two; p is the score test's. With clusters,
    a set counts as n / `design_effect` images.
    Raises InputError for other values, repeated ids, and as `cluster_codes`.
    Source: P1 sec. 3.1 (consistency), sec. 3.2 (person blocking).
    """
    pair = paired(real, synthetic, real_clusters, synthetic_clusters)
    for name, sample in zip(("real", "synthetic"), pair, strict=True):
        if other := sorted(set(sample.values) - {0, 1}):
            raise InputError(f"{name} outcomes: found {other[:3]}, expected 0, 1 or NaN")
    shares = [float(ratio(sample.values.sum(), np.asarray(sample.n))) for sample in pair]
    values = dict(zip(("real", "synthetic", "difference"), [*shares, shares[1] - shares[0]], strict=True))
    tests: list[Row] = [{}] * 3 if too_few(pair) else [_wilson(pair[0]), _wilson(pair[1]), _newcombe(pair)]
    return pd.DataFrame(
        [
            pair_row(pair, f"proportion_{name}", value, **test)
            for (name, value), test in zip(values.items(), tests, strict=True)
        ]
    )


def _wilson(sample: Sample) -> Row:
    low, high = wilson_interval(int(sample.values.sum()), sample.n, design_effect=_effect(sample))
    return {"ci_low": low, "ci_high": high}


def _newcombe(pair: Pair) -> Row:
    hits_real, n_real, hits, n = (x for sample in pair for x in _effective(sample))
    with np.errstate(all="ignore"):  # statsmodels also forms ratios, which divide by 0
        bounds = confint_proportions_2indep(hits, n, hits_real, n_real, method="newcomb", compare="diff")
        test = test_proportions_2indep(hits, n, hits_real, n_real, method="score", compare="diff")
    note = "" if np.isfinite(test.pvalue) else "no p: no outcome differs"
    return {"ci_low": float(bounds[0]), "ci_high": float(bounds[1]), "p": float(test.pvalue), "note": note}


def _effective(sample: Sample) -> tuple[float, float]:
    """Hits and images of as many independent images as the clusters are worth."""
    effect = _effect(sample)
    return sample.values.sum() / effect, sample.n / effect


def _effect(sample: Sample) -> float:
    return (
        design_effect(sample.values, np.ones(sample.n), sample.units) if sample.drawn == "clusters" else 1.0
    )
