"""Statistics of several models at once, bootstrapped over the images they share."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.evaluate.compare import check_same_images
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.report import predictions_tally
from synreal.evaluate.statistics import percentile_interval, resampled_sums
from synreal.evaluate.tally import Metric, Sums

Estimate = tuple[float, float, float]  # value, ci_low, ci_high (95 %; NaN where no bootstrap draw differs)


def factors_worse(
    real: Predictions,
    synthetic: Predictions,
    factors: pd.DataFrame,
    denominator: str = "annotated",
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """On how many factors the synthetic model's relative accuracy is the lower (P1 sec. 2.1: 12 of 16)."""
    metrics, totals, drawn = _joint([real, synthetic], None, factors, draws, seed)
    chosen = [m for m in metrics if m.name == f"relative_accuracy_{denominator}"]

    def count(sums: Sequence[Sums]) -> np.ndarray:
        return np.sum([m.value(sums[1]) < m.value(sums[0]) for m in chosen], axis=0, dtype=float)

    return _estimate(count, totals, drawn)


def gap_difference(
    first: tuple[Predictions, Predictions],
    second: tuple[Predictions, Predictions],
    hierarchy: Hierarchy,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """By how much the fine-grained gap (real minus synthetic, micro) is wider in the first pair."""
    metrics, totals, drawn = _joint([*first, *second], hierarchy, None, draws, seed)
    accuracy = next(m.value for m in metrics if m.name == "restricted_accuracy_micro")

    def wider(sums: Sequence[Sums]) -> np.ndarray:
        a, b, c, d = (accuracy(part) for part in sums)
        return (a - b) - (c - d)

    return _estimate(wider, totals, drawn)


def _joint(
    models: Sequence[Predictions],
    hierarchy: Hierarchy | None,
    factors: pd.DataFrame | None,
    draws: int,
    seed: int,
) -> tuple[tuple[Metric, ...], list[Sums], list[Sums]]:
    """The metrics, and every model's sums as they are and in the same bootstrap draws."""
    for other in models[1:]:
        check_same_images(models[0], other)
    tallies = [predictions_tally(model, hierarchy, factors) for model in models]
    stacked = np.hstack([tally.columns.to_numpy() for tally in tallies])
    parts = np.split(resampled_sums(stacked, draws, seed).T, len(tallies))
    drawn: list[Sums] = [dict(zip(t.columns, p, strict=True)) for t, p in zip(tallies, parts, strict=True)]
    return tallies[0].metrics, [tally.totals() for tally in tallies], drawn


def _estimate(
    statistic: Callable[[Sequence[Sums]], np.ndarray], totals: list[Sums], drawn: list[Sums]
) -> Estimate:
    """Value and interval; the interval is widened to hold the value where the bootstrap is biased."""
    value = float(statistic(totals))
    low, high = percentile_interval(statistic(drawn))
    return value, min(low, value), max(high, value)
