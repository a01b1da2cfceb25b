"""Uncertainty by resampling of images or their clusters, and tests."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from synreal.errors import InputError

MINIMUM_IMAGES = 10  # below this many images no interval is given
ROUNDING = 1e-6  # draws of a fraction that differ by less differ by the rounding of float32 sums
CHUNK_WEIGHTS = 1 << 24  # float32 weights held at once while resampling: 64 MB


def require_images(n: int, what: str) -> None:
    """Refuses an interval from fewer than MINIMUM_IMAGES images: raises InputError naming `what`."""
    if n < MINIMUM_IMAGES:
        raise InputError(
            f"{what}: found {n} images, expected at least {MINIMUM_IMAGES} for an interval; "
            "evaluate on more images, or report the value without an interval"
        )


def wilson_interval(
    hits: int, n: int, confidence: float = 0.95, design_effect: float = 1.0
) -> tuple[float, float]:
    """Wilson score interval of the proportion hits / n, within [0, 1].

    With a `design_effect` (see there) it is the interval of n / design_effect independent images.
    Raises InputError when n < MINIMUM_IMAGES or hits is not in 0..n.
    """
    require_images(n, "wilson_interval")
    if not 0 <= hits <= n:
        raise InputError(f"wilson_interval: found hits = {hits}, expected 0 to n = {n}")
    effective = n / design_effect
    low, high = proportion_confint(hits / n * effective, effective, alpha=1 - confidence, method="wilson")
    # Rounding can put the bound of 0 hits or n hits a hair on the wrong side of the estimate.
    return float(min(max(low, 0.0), hits / n)), float(max(min(high, 1.0), hits / n))


def wilson_bounds(hits: int, n: int) -> tuple[float, float]:
    """`wilson_interval`, or NaN bounds where there are too few images: for tables that say n beside them."""
    return wilson_interval(int(hits), int(n)) if n >= MINIMUM_IMAGES else (float("nan"), float("nan"))


def design_effect(hits: np.ndarray, images: np.ndarray, clusters: np.ndarray) -> float:
    """How many times the variance of sum(hits) / sum(images) that of independent images is, at least 1.

    `hits`, `images`: 0/1 columns [n], hits among the images; `clusters`: codes [n], of which two or more hold
    images. Linearised variance between clusters, against p (1 - p) / n (Kish 1965, ch. 5). Where no outcome
    varies nothing tells how alike a cluster's images are, and they count as wholly alike.
    """
    hit, size = (np.bincount(clusters, weights=column) for column in (hits, images))
    hit, size = hit[size > 0], size[size > 0]
    m, n, p = len(size), size.sum(), hit.sum() / size.sum()
    if p in (0, 1):
        return float((size**2).sum() / n)
    between = m / (m - 1) * ((hit - p * size) ** 2).sum() / n**2
    return max(1.0, float(between / (p * (1 - p) / n)))


def cluster_codes(clusters: pd.Series | None, ids: pd.Index) -> np.ndarray | None:
    """Integer codes [n] of the clusters of images `ids`, from names indexed by image id; None stays None.

    Raises InputError when an image has no cluster, or there are fewer than MINIMUM_IMAGES of them.
    """
    if clusters is None:
        return None
    if alone := sorted(set(ids) - set(clusters.dropna().index)):
        raise InputError(f"clusters: {len(alone)} images have none, first {alone[:3]}; name one for each id")
    codes, names = pd.factorize(clusters.loc[ids])
    if len(names) < MINIMUM_IMAGES:
        raise InputError(
            f"clusters: found {len(names)}, expected at least {MINIMUM_IMAGES} for an interval; "
            "evaluate on more of them, or leave clusters out and say that images are not independent"
        )
    return codes


def resampled_sums(
    columns: np.ndarray, draws: int, seed: int, clusters: np.ndarray | None = None
) -> np.ndarray:
    """Column sums of `draws` samples of n rows with replacement: float64 [draws, k] from float32 [n, k].

    With `clusters` (codes [n] from 0), whole clusters are drawn: images of one photograph, or frames of one
    video, are not independent.

    Any statistic that is a function of sums (proportions, their ratios, averages over groups) can be
    bootstrapped from one call, on the same draws. A draw is held as how often each row was picked, so that
    the sums are a matrix product; CHUNK_WEIGHTS bounds the memory. Draws depend on the seed and the order
    of the rows alone. Sums of 0/1 columns are exact up to 2**24 rows.
    Raises InputError when draws < 1 or there is no row.
    """
    if draws < 1 or len(columns) < 1:
        raise InputError(f"bootstrap: found {draws} draws of {len(columns)} rows, expected 1 or more")
    if clusters is not None:
        columns = _cluster_sums(columns, clusters)
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_WEIGHTS // len(columns))
    columns = np.ascontiguousarray(columns, dtype=np.float32)
    sums = np.empty((draws, columns.shape[1]))
    for start in range(0, draws, step):
        chunk = sums[start : start + step]
        chunk[:] = np.stack([_weights(rng, len(columns)) for _ in chunk]) @ columns
    return sums


def _cluster_sums(columns: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    rows = np.arange(len(clusters))
    member = csr_array((np.ones(len(rows), np.float32), (clusters, rows)))
    return member @ columns.astype(np.float32, copy=False)


def _weights(rng: np.random.Generator, rows: int) -> np.ndarray:
    return np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float32)


def percentile_interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the draws [draws].

    A draw in which the statistic is undefined (no image of the group was picked) is left out. NaN where
    `no_interval` gives a reason.
    """
    if no_interval(samples):
        return float("nan"), float("nan")
    defined = samples[np.isfinite(samples)]
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def no_interval(samples: np.ndarray) -> str:
    """Why the draws [draws] bound nothing, or nothing where they do.

    Draws that never vary come from outcomes that never vary (all right, or two models that agree on every
    image); an interval of width 0 would claim a certainty that is not there.
    """
    defined = samples[np.isfinite(samples)]
    if defined.size == 0:
        return "undefined (divides by 0)"
    return "" if np.ptp(defined) > ROUNDING else "no interval: all bootstrap draws are equal"


def bootstrap_interval(
    columns: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a function of column sums.

    `columns` [n, k], one row per image; `statistic` maps sums [draws, k] to values [draws].
    Raises InputError when n < MINIMUM_IMAGES.
    """
    require_images(len(columns), "bootstrap_interval")
    return percentile_interval(statistic(resampled_sums(columns, draws, seed)), confidence)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p value of "no difference" from bootstrap draws of a difference [draws].

    Twice the smaller tail beyond zero, each tail counted with one draw more so that p is never 0
    (Davison & Hinkley 1997, sec. 4.2). NaN where no draw is defined, and where all are one difference
    (`no_interval`); where all are 0 it is 1.
    """
    defined = differences[np.isfinite(differences)]
    if defined.size == 0 or (abs(defined[0]) > ROUNDING and no_interval(differences)):
        return float("nan")
    tail = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (defined.size + 1))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar p value from the images that only one of two models gets right."""
    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm-adjusted p values, in the order given; NaN stays NaN and does not count as a test.

    (statsmodels' own function runs the garbage collector on every call, which made it most of a report.)
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        order = np.argsort(p[tested])
        steps = p[tested][order] * np.arange(tested.sum(), 0, -1)
        adjusted[np.flatnonzero(tested)[order]] = np.maximum.accumulate(steps).clip(max=1)
    return adjusted


def with_holm(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The table with a column p_holm after p, adjusted within each value of column `by`."""
    adjusted = table.groupby(by)["p"].transform(lambda p: holm(p.to_numpy()))
    table.insert(table.columns.get_loc("p") + 1, "p_holm", adjusted)
    return table


def power_factor(alpha: float = 0.05, power: float = 0.8) -> float:
    """How many standard errors a difference must span to be found: z(1 - alpha/2) + z(power), 2.80 here."""
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))


def minimum_detectable_effect(
    n: int, discordant_rate: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest difference of accuracy that a paired test on n images finds with the given power, 0 to 1.

    z sqrt(psi / n) with z = z(1 - alpha/2) + z(power) and psi the share of images that only one of the
    models gets right, the variance of McNemar's test (Connor 1987, without its small term d**2, so on the
    safe side). A difference d implies psi >= d, hence psi is taken as at least z**2 / n: a few images on
    which two models happen to agree prove nothing. Raises InputError when n < 1 or psi is not in 0..1.
    """
    if n < 1 or not 0 <= discordant_rate <= 1:
        raise InputError(
            f"minimum_detectable_effect: found n = {n}, discordant_rate = {discordant_rate}, "
            "expected n of at least 1 and a rate from 0 to 1"
        )
    z = power_factor(alpha, power)
    return float(min(1.0, z * np.sqrt(max(discordant_rate, z**2 / n) / n)))


# Per-image outcomes as columns, and metrics as functions of the columns' sums.
#
# Every metric of the report is a function of sums over images: a proportion, a ratio of proportions, an
# average over groups. Written so, one definition gives the value (from the sums) and its bootstrap draws
# (from resampled sums), and all metrics of one report share the same draws.


# Column name to its sum: a number, or one number per bootstrap draw.
Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A statistic of one group of images.

    `support` names the 0/1 columns that mark its images: it has an interval only where each of them marks
    images of MINIMUM_IMAGES clusters (`Tally.too_few`). `hits` names the 0/1 column whose sum it divides,
    where it is a proportion.
    """

    name: str
    group: str
    support: tuple[str, ...]
    value: Callable[[Sums], np.ndarray]
    hits: str | None = None

    def n(self, sums: Sums) -> int:
        """How many images the metric is computed from."""
        return int(sum(sums[column] for column in self.support))


@dataclass(frozen=True)
class Tally:
    """Columns (a frame of outcomes, one row per image, indexed by id) and the metrics computed from them.

    `clusters`: codes [n] of what is resampled as one; None where images are independent.
    """

    columns: pd.DataFrame
    metrics: tuple[Metric, ...]
    clusters: np.ndarray | None = None

    @property
    def units(self) -> int:
        """How many clusters (or images, where they are independent) are drawn from."""
        return len(self.columns) if self.clusters is None else int(self.clusters.max()) + 1

    def totals(self) -> dict[str, np.ndarray]:
        """The sum of each column over all images."""
        values = self.columns.to_numpy().sum(axis=0, dtype=np.float64)
        return dict(zip(self.columns, values, strict=True))

    def too_few(self, metric: Metric) -> str:
        """Why a metric has no interval, or nothing where it has one."""
        marks = (self.columns[column].to_numpy() > 0 for column in metric.support)
        units = np.arange(len(self.columns)) if self.clusters is None else self.clusters
        fewest = min(len(np.unique(units[mark])) for mark in marks)
        drawn = "images" if self.clusters is None else "clusters"
        return f"too few {drawn} ({fewest} < {MINIMUM_IMAGES})" if fewest < MINIMUM_IMAGES else ""

    def design_effect(self, metric: Metric) -> float:
        """By how much clusters widen the variance of a proportion."""
        if self.clusters is None or metric.hits is None:
            return 1.0
        hits, images = (self.columns[name].to_numpy() for name in (metric.hits, metric.support[0]))
        return design_effect(hits, images, self.clusters)

    def values(self) -> pd.Series:
        """The value of each metric, indexed by metric and group."""
        sums = self.totals()
        index = pd.MultiIndex.from_tuples(
            [(m.name, m.group) for m in self.metrics], names=["metric", "group"]
        )
        return pd.Series([float(m.value(sums)) for m in self.metrics], index=index, name="value")


def resampled(tallies: Sequence[Tally], draws: int, seed: int) -> list[Sums]:
    """Each tally's column sums in the same bootstrap draws, [draws] by column; all are of the same images."""
    stacked = np.hstack([tally.columns.to_numpy() for tally in tallies])
    parts = np.split(resampled_sums(stacked, draws, seed, tallies[0].clusters).T, len(tallies))
    return [dict(zip(t.columns, part, strict=True)) for t, part in zip(tallies, parts, strict=True)]


def joined(tallies: Iterable[Tally], clusters: pd.Series | None = None) -> Tally:
    """One tally of all metrics, its images in the order of their ids; `clusters`: names, indexed by id.

    The order makes the bootstrap independent of the order in which images were predicted.
    """
    tallies = list(tallies)
    columns = pd.concat([tally.columns for tally in tallies], axis=1)
    columns = columns.loc[:, ~columns.columns.duplicated()].astype(np.float32).sort_index()
    metrics = tuple(metric for tally in tallies for metric in tally.metrics)
    return Tally(columns, metrics, cluster_codes(clusters, columns.index))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0: the proportion of no images is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(denominator, 0), np.nan, np.divide(numerator, denominator))


def proportion(name: str, group: str, hits: str, images: str) -> Metric:
    """The metric sum(hits) / sum(images); both name 0/1 columns."""
    return Metric(name, group, (images,), lambda sums: ratio(sums[hits], sums[images]), hits)
