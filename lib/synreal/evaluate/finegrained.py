"""Fine-grained accuracy: telling apart the classes of one coarse group (P1 sec. 2.1, Fig. 2).

P1 does not say how it averages over coarse groups, so both averages are given: micro counts every image
once, macro counts every coarse group once. Groups of one class have nothing to tell apart and are left out.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.evaluate.accuracy import correct
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.statistics import wilson_bounds
from synreal.evaluate.tally import Metric, Sums, Tally, proportion, ratio

KINDS = ("restricted", "unrestricted")


def restricted_correct(predictions: Predictions, members: Mapping[str, np.ndarray]) -> pd.Series:
    """Whether the label has the largest logit within its own coarse group: bool [N], indexed by id.

    Never false where `correct` is true. `members` as from Hierarchy.members, of at least one group;
    images of a class in no group count as False.
    """
    hit = np.zeros(len(predictions), dtype=bool)
    group = _group_of_image(predictions, members)
    for position, classes in enumerate(members.values()):
        rows = np.flatnonzero(group == position)
        best = classes[predictions.logits[np.ix_(rows, classes)].argmax(axis=1)]
        hit[rows] = best == predictions.labels[rows]
    return pd.Series(hit, index=pd.Index(predictions.ids, name="id"), name="restricted")


def fine_grained_accuracy(predictions: Predictions, hierarchy: Hierarchy) -> pd.DataFrame:
    """One row per coarse group of two classes or more: classes, n, and for each kind its accuracy.

    Restricted: the label space is the coarse group. Unrestricted: all classes. Columns `restricted`,
    `restricted_low`, `restricted_high` (Wilson), the same for `unrestricted`; bounds are NaN where a group
    has fewer than MINIMUM_IMAGES images.
    Raises InputError when a class of the predictions is outside the hierarchy.
    """
    members = fine_members(predictions, hierarchy)
    sums = fine_grained_tally(predictions, members).totals()
    rows = {coarse: _group_row(sums, coarse, len(classes)) for coarse, classes in members.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("coarse")


def fine_members(predictions: Predictions, hierarchy: Hierarchy) -> dict[str, np.ndarray]:
    """The groups of two classes or more, as indices of the predictions' classes."""
    members = hierarchy.members(predictions.class_names)
    return {coarse: classes for coarse, classes in members.items() if len(classes) > 1}


def fine_grained_tally(predictions: Predictions, members: Mapping[str, np.ndarray]) -> Tally:
    """Fine-grained accuracy per coarse group, micro and macro, restricted and unrestricted."""
    group = _group_of_image(predictions, members)
    outcomes = {
        "restricted": restricted_correct(predictions, members).to_numpy(),
        "unrestricted": correct(predictions).to_numpy(),
    }
    columns = {"fine": group >= 0}
    columns |= {f"fine:{kind}": hit & (group >= 0) for kind, hit in outcomes.items()}
    for position, coarse in enumerate(members):
        inside = group == position
        columns[f"coarse:{coarse}"] = inside
        columns |= {f"coarse:{coarse}:{kind}": hit & inside for kind, hit in outcomes.items()}
    frame = pd.DataFrame(columns, index=pd.Index(predictions.ids, name="id"))
    return Tally(frame, tuple(metric for kind in KINDS for metric in _metrics(kind, frame, list(members))))


def _metrics(kind: str, columns: pd.DataFrame, groups: list[str]) -> list[Metric]:
    # A coarse group without images has no accuracy, so the macro average is over those that have some.
    present = [coarse for coarse in groups if columns[f"coarse:{coarse}"].any()]
    metrics = [
        proportion(f"{kind}_accuracy", coarse, f"coarse:{coarse}:{kind}", f"coarse:{coarse}")
        for coarse in groups
    ]
    if present:
        metrics.append(proportion(f"{kind}_accuracy_micro", "all", f"fine:{kind}", "fine"))
        metrics.append(_macro(kind, present))
    return metrics


def _macro(kind: str, groups: list[str]) -> Metric:
    def value(sums: Sums) -> np.ndarray:
        parts = [ratio(sums[f"coarse:{g}:{kind}"], sums[f"coarse:{g}"]) for g in groups]
        return np.mean(parts, axis=0)

    return Metric(f"{kind}_accuracy_macro", "all", tuple(f"coarse:{g}" for g in groups), value)


def _group_of_image(predictions: Predictions, members: Mapping[str, np.ndarray]) -> np.ndarray:
    group_of_class = np.full(len(predictions.class_names), -1)
    for position, classes in enumerate(members.values()):
        group_of_class[classes] = position
    return group_of_class[predictions.labels]


def _group_row(sums: Sums, coarse: str, classes: int) -> dict[str, float]:
    n = int(sums[f"coarse:{coarse}"])
    row: dict[str, float] = {"classes": classes, "n": n}
    for kind in KINDS:
        hits = int(sums[f"coarse:{coarse}:{kind}"])
        low, high = wilson_bounds(hits, n)
        row |= {kind: hits / n if n else np.nan, f"{kind}_low": low, f"{kind}_high": high}
    return row
