"""Statistics of several models at once, bootstrapped over the images they share."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.evaluate.compare import check_same_images
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.report import predictions_tally
from synreal.evaluate.statistics import percentile_interval
from synreal.evaluate.tally import Sums, Tally, resampled

Estimate = tuple[float, float, float]  # value, ci_low, ci_high (95 %; NaN where no bootstrap draw differs)


def factors_worse(
    real: Predictions,
    synthetic: Predictions,
    factors: pd.DataFrame,
    clusters: pd.Series | None = None,
    denominator: str = "annotated",
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """On how many factors the synthetic model's relative accuracy is the lower (P1 sec. 2.1: 12 of 16)."""
    tallies = _tallies([real, synthetic], None, factors, clusters)
    metrics = tallies[0].metrics
    chosen = [m for m in metrics if m.name == f"relative_accuracy_{denominator}"]

    def count(sums: Sequence[Sums]) -> np.ndarray:
        return np.sum([m.value(sums[1]) < m.value(sums[0]) for m in chosen], axis=0, dtype=float)

    return _estimate(count, tallies, draws, seed)


def gap_difference(
    first: tuple[Predictions, Predictions],
    second: tuple[Predictions, Predictions],
    hierarchy: Hierarchy,
    clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """By how much the fine-grained gap (real minus synthetic, micro) is wider in the first pair."""
    tallies = _tallies([*first, *second], hierarchy, None, clusters)
    accuracy = next(m.value for m in tallies[0].metrics if m.name == "restricted_accuracy_micro")

    def wider(sums: Sequence[Sums]) -> np.ndarray:
        a, b, c, d = (accuracy(part) for part in sums)
        return (a - b) - (c - d)

    return _estimate(wider, tallies, draws, seed)


def _tallies(
    models: Sequence[Predictions],
    hierarchy: Hierarchy | None,
    factors: pd.DataFrame | None,
    clusters: pd.Series | None,
) -> list[Tally]:
    for other in models[1:]:
        check_same_images(models[0], other)
    return [predictions_tally(model, hierarchy, factors, clusters) for model in models]


def _estimate(
    statistic: Callable[[Sequence[Sums]], np.ndarray], tallies: list[Tally], draws: int, seed: int
) -> Estimate:
    """Value and interval; the interval is widened to hold the value where the bootstrap is biased."""
    value = float(statistic([tally.totals() for tally in tallies]))
    low, high = percentile_interval(statistic(resampled(tallies, draws, seed)))
    return value, min(low, value), max(high, value)
