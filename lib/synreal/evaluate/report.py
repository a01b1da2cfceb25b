"""Tables of one classifier, of two on the same images, and of what changed between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError
from synreal.evaluate.metrics import (
    accuracy_tally,
    calibration_tally,
    confidence,
    correct,
    factor_tally,
    fine_grained_tally,
    fine_members,
)
from synreal.evaluate.resampling import (
    Metric,
    Sums,
    Tally,
    bootstrap_p,
    joined,
    mcnemar_p,
    minimum_detectable_effect,
    no_interval,
    percentile_interval,
    power_factor,
    resampled,
    wilson_interval,
    with_holm,
)
from synreal.models.predictions import Predictions


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


# Two models on the same images, compared image by image.


NOT_TESTED = dict.fromkeys(["ci_low", "ci_high", "p", "mde", "discordant"], np.nan) | {"test": ""}


def compare(
    a: Predictions,
    b: Predictions,
    hierarchy: Hierarchy | None = None,
    factors: pd.DataFrame | None = None,
    clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per metric and group of `report`, with the paired difference a minus b.

    Columns: model_a, model_b, data, metric, group, value_a, value_b, difference, n, ci_low, ci_high, p,
    p_holm, mde, discordant, test, note. The interval is a 95 % percentile bootstrap over images, both models
    on the same draws. Proportions are tested by the exact McNemar test, on the `discordant` images that one
    model alone gets right; the rest by the bootstrap, as is everything where `clusters` (see `report`) are
    given, since McNemar's test takes images as independent. p_holm is adjusted across the groups (factors,
    coarse groups) of one metric. mde is the smallest difference found with 80 % power at level 0.05, before
    that adjustment: `minimum_detectable_effect` for McNemar's test, 2.80 bootstrap standard errors for the
    other.
    Where a group has too few images, or the difference never varies over the draws, the bounds are NaN and
    `note` says so.
    Raises InputError when the two are not of the same images, or as `report`.
    """
    check_same_images(a, b)
    tallies = [predictions_tally(model, hierarchy, factors, clusters) for model in (a, b)]
    pair = _Pair.of(tallies[0], tallies[1], draws, seed)
    table = pd.DataFrame([_compared_row(metric, pair) for metric in tallies[0].metrics])
    table = with_holm(table, "metric")
    names = pd.DataFrame({"model_a": a.model, "model_b": b.model, "data": a.image_set}, index=table.index)
    return pd.concat([names, table], axis=1)


def check_same_images(a: Predictions, b: Predictions) -> None:
    """Raises InputError unless both hold the same ids with the same labels, in any order, and classes."""
    pair = f"predictions of {a.model!r} and {b.model!r}"
    if a.class_names != b.class_names:
        raise InputError(
            f"{pair}: class names differ ({len(a.class_names)} and {len(b.class_names)} classes); "
            "predict both with the same classes in the same order"
        )
    labels = [pd.Series(part.labels, index=part.ids) for part in (a, b)]
    alone = labels[0].index.symmetric_difference(labels[1].index)
    if len(alone):
        raise InputError(
            f"{pair}: {len(alone)} ids are in one of the two only, first {alone[:3].tolist()}; "
            "predict both on the same image set"
        )
    other = labels[0] != labels[1].reindex(labels[0].index)
    if other.any():
        first = sorted(other.index[other])[:3]
        raise InputError(
            f"{pair}: labels differ on {other.sum()} images, first {first}; predict both on "
            "the same version of the image set"
        )


@dataclass(frozen=True)
class _Pair:
    """Both models' outcomes, their sums, and their sums in the same bootstrap draws."""

    tallies: tuple[Tally, Tally]
    totals: tuple[Sums, Sums]
    drawn: tuple[Sums, Sums]

    @classmethod
    def of(cls, a: Tally, b: Tally, draws: int, seed: int) -> "_Pair":
        drawn_a, drawn_b = resampled([a, b], draws, seed)
        return cls((a, b), (a.totals(), b.totals()), (drawn_a, drawn_b))

    def only(self, column: str) -> tuple[int, int]:
        """How many images are marked by a alone, and by b alone."""
        a, b = (tally.columns[column].to_numpy() > 0 for tally in self.tallies)
        return int((a & ~b).sum()), int((b & ~a).sum())


def _compared_row(metric: Metric, pair: _Pair) -> dict[str, object]:
    value_a, value_b = (float(metric.value(totals)) for totals in pair.totals)
    n = metric.n(pair.totals[0])
    row = {
        "metric": metric.name,
        "group": metric.group,
        "value_a": value_a,
        "value_b": value_b,
        "difference": value_a - value_b,
        "n": n,
    }
    note = pair.tallies[0].too_few(metric)
    return row | (NOT_TESTED | {"note": note} if note else _tested(metric, pair, n))


def _tested(metric: Metric, pair: _Pair, n: int) -> dict[str, object]:
    differences = metric.value(pair.drawn[0]) - metric.value(pair.drawn[1])
    low, high = percentile_interval(differences)
    if metric.hits and pair.tallies[0].clusters is None:
        test = _mcnemar(pair.only(metric.hits), n)
    else:
        test = _bootstrap(differences)
    return {"ci_low": low, "ci_high": high, **test, "note": no_interval(differences)}


def _mcnemar(only: tuple[int, int], n: int) -> dict[str, object]:
    discordant = sum(only)
    mde = minimum_detectable_effect(n, discordant / n)
    return {"p": mcnemar_p(*only), "mde": mde, "discordant": discordant, "test": "mcnemar"}


def _bootstrap(differences: np.ndarray) -> dict[str, object]:
    # Without spread the draws say nothing about what a difference would have to be to show.
    mde = np.nan if no_interval(differences) else power_factor() * float(np.nanstd(differences))
    return {"p": bootstrap_p(differences), "mde": mde, "discordant": np.nan, "test": "bootstrap"}


# Statistics of several models at once, bootstrapped over the images they share.


Bounded = tuple[float, float, float]  # value, ci_low, ci_high (95 %; NaN where no bootstrap draw differs)


def factors_worse(
    real: Predictions,
    synthetic: Predictions,
    factors: pd.DataFrame,
    clusters: pd.Series | None = None,
    denominator: str = "annotated",
    draws: int = 2000,
    seed: int = 0,
) -> Bounded:
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
) -> Bounded:
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
) -> Bounded:
    """Value and interval; the interval is widened to hold the value where the bootstrap is biased."""
    value = float(statistic([tally.totals() for tally in tallies]))
    low, high = percentile_interval(statistic(resampled(tallies, draws, seed)))
    return value, min(low, value), max(high, value)


# What tuning gave and what it took: answers before and after, image by image.


COLUMNS = {"value_a": "after", "value_b": "before", "difference": "gain"}
GAINS = ("accuracy", "restricted_accuracy_macro", "factor_accuracy")
KEPT = ["metric", "group", "before", "after", "gain", "ci_low", "ci_high", "p", "p_holm", "n", "note"]


class BeforeAfter(NamedTuple):
    """Predictions of a checkpoint before and after tuning, on the same images."""

    before: Predictions
    after: Predictions


def gains(
    pair: BeforeAfter,
    hierarchy: Hierarchy | None = None,
    factors: pd.DataFrame | None = None,
    clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for accuracy, and with a hierarchy and factors for fine-grained accuracy and each factor's.

    Columns: metric, group, before, after, gain (after minus before), its 95 % interval ci_low and ci_high, p,
    p_holm, n, note; accuracies as fractions, tests as in `compare`.
    Raises InputError when the two are not of the same images, or as `compare` does.
    """
    table = compare(pair.after, pair.before, hierarchy, factors, clusters, draws, seed)
    table = table[table["metric"].isin(GAINS)].rename(columns=COLUMNS)
    return table[KEPT].reset_index(drop=True)


def forgetting(
    known: Mapping[str, BeforeAfter],
    clusters: Mapping[str, pd.Series | None],
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """What tuning did to what the model knew: one row per image set, with the columns of `gains` and `data`.

    `known`: by name, predictions on sets that the model was good at before; `clusters`: of their images. A
    gain below zero is forgetting; it is clear where its interval lies below zero.
    """
    rows = [
        gains(pair, clusters=clusters[name], draws=draws, seed=seed).assign(data=name)
        for name, pair in known.items()
    ]
    return pd.concat(rows, ignore_index=True)
