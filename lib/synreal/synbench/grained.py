"""What the judge's answers say beyond the consistency rate: who is taken for whom (P1 sec. 3.1, Fig. 4b)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError
from synreal.evaluate.calibration import confidence
from synreal.evaluate.finegrained import fine_members
from synreal.evaluate.predictions import Predictions
from synreal.synbench.consistency import Clusters, among, consistency, consistency_gap, group_confusion
from synreal.synbench.correction import corrected_consistency
from synreal.synbench.judged import Consistency
from synreal.synbench.study import ALL, Measured

GROUPED = [
    f"{kind}_consistency{average}"
    for kind in ("unrestricted", "restricted")
    for average in ("", "_micro", "_macro")
] + ["inside_share", "inside_lift"]
CORRECTED = ["corrected_consistency", "confidence_gap", "condition_number"]
SIDES = ("real", "synthetic")


def answers(measure: Consistency, measured: Measured, classes: list[str]) -> Predictions:
    """The judge's answers among these classes, in their order: the one set of classes that all sets share."""
    return among(measure.predictions(measured.world), classes)


def fine_grained(
    real: Predictions,
    synthetic: Predictions,
    hierarchy: Hierarchy | None = None,
    clusters: Clusters = (None, None),
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per statistic and group: those columns, value, n_real, n_synthetic, ci_low, ci_high, p, p_holm,
    note.

    With a hierarchy the metrics of `consistency` for coarse groups, each as _real, _synthetic and _difference
    (synthetic minus real, p_holm across groups); and of `corrected_consistency` all, also by class. Where the
    real images do not suffice to correct, its value is NaN and `note` says why.
    """
    corrected = _corrected(real, synthetic, clusters, draws, seed)
    if hierarchy is None:
        return corrected
    gap = consistency_gap(real, synthetic, hierarchy, clusters, draws, seed)
    gap = gap[gap["metric"].isin(GROUPED)]
    counts = gap[["metric", "group", "n_real", "n_synthetic"]]
    tables = [gap.rename(columns={"difference": "value"}).assign(statistic=gap["metric"] + "_difference")]
    for side, part, own in zip(SIDES, (real, synthetic), clusters, strict=True):
        single = consistency(part, hierarchy, own, draws, seed).merge(counts, on=["metric", "group"])
        tables.append(single.assign(statistic=single["metric"] + f"_{side}"))
    table = pd.concat([*tables, corrected], ignore_index=True)
    return table[list(corrected.columns)]


def groups_by_statistic(classes: Sequence[str], hierarchy: Hierarchy | None) -> dict[str, list[str]]:
    """By statistic of `fine_grained` that can have an interval, the groups it is given for."""
    found = {"corrected_consistency": [ALL, *classes], "confidence_gap": [ALL]}
    if hierarchy is None:
        return found
    several = [coarse for coarse, fine in hierarchy.groups.items() if len(fine) > 1]
    for metric in GROUPED:
        whole = metric.startswith("inside") or metric.endswith(("_micro", "_macro"))
        parts = [] if metric.endswith(("_micro", "_macro")) else several
        found |= {f"{metric}_{part}": [ALL] * whole + parts for part in (*SIDES, "difference")}
    return found


def group_confusions(predictions: Predictions, hierarchy: Hierarchy) -> dict[str, pd.DataFrame]:
    """`group_confusion` by coarse group, of those with two classes or more."""
    return {
        coarse: group_confusion(predictions, hierarchy, coarse)
        for coarse in fine_members(predictions, hierarchy)
    }


def disagreements(predictions: Predictions, count: int) -> pd.DataFrame:
    """The `count` images that the judge is surest to show another class than their label.

    Columns row (place in the image set), label, judged (class names), confidence; indexed by image id, the
    surest first.
    """
    names, answer = np.array(predictions.class_names), predictions.logits.argmax(axis=1)
    table = pd.DataFrame(
        {
            "row": np.arange(len(predictions)),
            "label": names[predictions.labels],
            "judged": names[answer],
            "confidence": confidence(predictions).to_numpy(),
        },
        index=pd.Index(predictions.ids, name="id"),
    )
    wrong = table[answer != predictions.labels]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(count)


def _corrected(
    real: Predictions, synthetic: Predictions, clusters: Clusters, draws: int, seed: int
) -> pd.DataFrame:
    try:
        table = corrected_consistency(real, synthetic, clusters, draws, seed)
    except InputError as error:
        reason = {"metric": CORRECTED[0], "group": "all", "value": np.nan, "note": str(error)}
        table = pd.DataFrame([reason]).assign(n=len(synthetic), ci_low=np.nan, ci_high=np.nan)
    table = table.rename(columns={"metric": "statistic", "n": "n_synthetic"})
    table = table.assign(n_real=len(real), p=np.nan, p_holm=np.nan)
    columns = ["statistic", "group", "value", "n_real", "n_synthetic", "ci_low", "ci_high", "p", "p_holm"]
    return table[[*columns, "note"]]
