"""Per-image outcomes as columns, and metrics as functions of the columns' sums.

Every metric of the report is a function of sums over images: a proportion, a ratio of proportions, an
average over groups. Written so, one definition gives the value (from the sums) and its bootstrap draws
(from resampled sums), and all metrics of one report share the same draws.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from synreal.evaluate.statistics import MINIMUM_IMAGES, cluster_codes, design_effect, resampled_sums

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
