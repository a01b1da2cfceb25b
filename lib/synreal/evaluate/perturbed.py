"""What a generator's artefacts cost: fine-grained and broad accuracy after training on perturbed real images.

P2 Figure 4 perturbs real images by SDEdit and finds that artefacts damage what fine-grained tasks need, and
less what broad ones need. Here one model answers both questions: which of a coarse group's classes an image
shows, and which coarse group.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.evaluate.finegrained import restricted_correct
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.retrained import resampled_means
from synreal.evaluate.statistics import percentile_interval

DETAILS = ("fine", "broad")


def fine_hits(predictions: Predictions, hierarchy: Hierarchy, group: str) -> pd.Series:
    """Whether the right class of `group` is chosen among its classes; its images alone, bool by id."""
    classes = hierarchy.members(predictions.class_names)[group]
    return restricted_correct(predictions, {group: classes})[np.isin(predictions.labels, classes)]


def broad_hits(predictions: Predictions, hierarchy: Hierarchy) -> pd.Series:
    """Whether the chosen class is of the label's coarse group; all images, bool by id."""
    group_of = np.empty(len(predictions.class_names), dtype=object)
    for coarse, classes in hierarchy.members(predictions.class_names).items():
        group_of[classes] = coarse
    hit = group_of[predictions.logits.argmax(axis=1)] == group_of[predictions.labels]
    return pd.Series(hit, index=pd.Index(predictions.ids, name="id"))


def perturbation_costs(
    runs: Mapping[float, Sequence[Predictions]],
    hierarchy: Hierarchy,
    group: str,
    clusters: pd.Series | None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per strength and detail: strength, detail, accuracy, sd, cost, ci_low, ci_high, seeds, n.

    runs: predictions by strength, one per training; strength 0 are the unperturbed images. detail: fine,
    broad, and "fine minus broad", whose intervals take the two as independent. cost: accuracy at strength 0
    minus accuracy; its interval resamples images and trainings.
    """
    values, drawn, rows = {}, {}, []
    for detail in DETAILS:
        hits = {strength: _hits(detail, repeats, hierarchy, group) for strength, repeats in runs.items()}
        values |= {(detail, strength): frame.mean() for strength, frame in hits.items()}
        own = resampled_means(hits, clusters, draws, seed + DETAILS.index(detail))
        drawn |= {(detail, strength): own[0] - means for strength, means in own.items()}
        n = len(hits[0])
        rows += [
            _row(strength, detail, values[detail, 0].mean() - means.mean(), drawn[detail, strength])
            | {"accuracy": means.mean(), "sd": means.std(), "seeds": len(means), "n": n}
            for strength, means in ((s, values[detail, s]) for s in runs)
        ]
    cost = {(row["detail"], row["strength"]): row["cost"] for row in rows}
    smaller = min(row["n"] for row in rows)
    rows += [
        _row(s, "fine minus broad", cost["fine", s] - cost["broad", s], drawn["fine", s] - drawn["broad", s])
        | {"accuracy": np.nan, "sd": np.nan, "seeds": len(runs[s]), "n": smaller}
        for s in runs
        if s
    ]
    return pd.DataFrame(rows)


def _hits(detail: str, repeats: Sequence[Predictions], hierarchy: Hierarchy, group: str) -> pd.DataFrame:
    columns = [
        fine_hits(one, hierarchy, group) if detail == "fine" else broad_hits(one, hierarchy)
        for one in repeats
    ]
    return pd.concat(columns, axis=1, keys=range(len(columns))).sort_index()


def _row(strength: float, detail: str, cost: float, draws: np.ndarray) -> dict[str, object]:
    low, high = percentile_interval(draws)
    bounds = (
        {"ci_low": min(low, cost), "ci_high": max(high, cost)}
        if strength
        else {"ci_low": np.nan, "ci_high": np.nan}
    )
    return {"strength": strength, "detail": detail, "cost": cost, **bounds}
