"""A measure's values on two image sets, real and synthetic, and rows that compare them."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from synreal.errors import InputError
from synreal.evaluate.statistics import MINIMUM_IMAGES, cluster_codes

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
