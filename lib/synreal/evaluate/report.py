"""Everything that is measured about one model on one image set, with its uncertainty."""

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.evaluate.accuracy import accuracy_tally, correct
from synreal.evaluate.calibration import calibration_tally, confidence
from synreal.evaluate.factors import factor_tally
from synreal.evaluate.finegrained import fine_grained_tally, fine_members
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.statistics import no_interval, percentile_interval, wilson_interval
from synreal.evaluate.tally import Metric, Sums, Tally, joined, resampled


def report(
    predictions: Predictions,
    hierarchy: Hierarchy | None = None,
    factors: pd.DataFrame | None = None,
    clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per metric and group: model, data, metric, group, value, n, ci_low, ci_high, interval, note.

    Metrics: accuracy; expected_calibration_error; with a hierarchy restricted_accuracy and
    unrestricted_accuracy per coarse group of two classes or more, and their _micro and _macro averages;
    with a factor table annotated_accuracy, and per factor factor_accuracy, relative_accuracy_annotated,
    relative_accuracy_all and error_ratio. Intervals are 95 %: Wilson for proportions, percentile bootstrap
    over images (`draws`, `seed`) for the rest. With `clusters` (names indexed by image id, such as the
    photograph that several images show) whole clusters are drawn, and Wilson intervals are widened by the
    design effect. Where a group has too few images, or the draws never vary, the bounds are NaN and `note`
    says so. The order of the images makes no difference.
    Raises InputError when a class is outside the hierarchy or the factor table does not fit.
    Source: P1 sec. 2.1.
    """
    return tally_report(
        predictions, predictions_tally(predictions, hierarchy, factors, clusters), draws, seed
    )


def tally_report(predictions: Predictions, tally: Tally, draws: int, seed: int) -> pd.DataFrame:
    """The rows of `report` for any tally of these predictions."""
    totals, [drawn] = tally.totals(), resampled([tally], draws, seed)
    rows = pd.DataFrame([_row(metric, tally, totals, drawn) for metric in tally.metrics])
    rows.insert(0, "model", predictions.model)
    rows.insert(1, "data", predictions.image_set)
    return rows


def predictions_tally(
    predictions: Predictions,
    hierarchy: Hierarchy | None,
    factors: pd.DataFrame | None,
    clusters: pd.Series | None,
) -> Tally:
    """The outcomes of one model and all metrics of `report`."""
    hit = correct(predictions)
    parts = [accuracy_tally(hit), calibration_tally(confidence(predictions), hit)]
    if hierarchy is not None:
        parts.append(fine_grained_tally(predictions, fine_members(predictions, hierarchy)))
    if factors is not None:
        parts.append(factor_tally(hit, factors))
    return joined(parts, clusters)


def _row(metric: Metric, tally: Tally, totals: Sums, drawn: Sums) -> dict[str, object]:
    low, high, note = _interval(metric, tally, totals, drawn)
    return {
        "metric": metric.name,
        "group": metric.group,
        "value": float(metric.value(totals)),
        "n": metric.n(totals),
        "ci_low": low,
        "ci_high": high,
        "interval": "wilson" if metric.hits else "bootstrap",
        "note": note,
    }


def _interval(metric: Metric, tally: Tally, totals: Sums, drawn: Sums) -> tuple[float, float, str]:
    note = tally.too_few(metric)
    if note:
        return np.nan, np.nan, note
    if metric.hits:
        hits, n = int(totals[metric.hits]), metric.n(totals)
        return *wilson_interval(hits, n, design_effect=tally.design_effect(metric)), ""
    samples = metric.value(drawn)
    return *percentile_interval(samples), no_interval(samples)
