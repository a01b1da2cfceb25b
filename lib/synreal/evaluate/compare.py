"""Two models on the same images, compared image by image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.report import predictions_tally
from synreal.evaluate.statistics import (
    bootstrap_p,
    mcnemar_p,
    minimum_detectable_effect,
    no_interval,
    percentile_interval,
    power_factor,
    with_holm,
)
from synreal.evaluate.tally import Metric, Sums, Tally, resampled

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
    table = pd.DataFrame([_row(metric, pair) for metric in tallies[0].metrics])
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


def _row(metric: Metric, pair: _Pair) -> dict[str, object]:
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
