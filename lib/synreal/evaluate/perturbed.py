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
    """One row per detail and strength: accuracy, sd, cost, ci_low, ci_high, seeds and n.

    runs: predictions by strength, one per training; strength 0 are the unperturbed images. detail: fine,
    broad, and "fine minus broad", whose intervals take the two as independent. cost: accuracy at strength 0
    minus accuracy; its interval resamples images and trainings.
    """
    fine, broad = (
        _costs(
            {s: _hits(detail, repeats, hierarchy, group) for s, repeats in runs.items()},
            clusters,
            draws,
            place,
        )
        for place, detail in enumerate(DETAILS, start=2 * seed)
    )
    both = pd.DataFrame({"cost": fine["cost"] - broad["cost"], "draws": fine["draws"] - broad["draws"]})
    both["n"], both["seeds"] = np.minimum(fine["n"], broad["n"]), fine["seeds"]
    parts = {"fine": fine, "broad": broad, "fine minus broad": both.drop(0.0)}
    table = pd.concat(parts, names=["detail", "strength"]).reset_index()
    bounds = pd.DataFrame([percentile_interval(drawn) for drawn in table.pop("draws")])
    table["ci_low"] = np.fmin(bounds[0], table["cost"]).where(table["strength"] > 0)
    table["ci_high"] = np.fmax(bounds[1], table["cost"]).where(table["strength"] > 0)
    return table


def _costs(
    hits: dict[float, pd.DataFrame], clusters: pd.Series | None, draws: int, seed: int
) -> pd.DataFrame:
    """By strength: accuracy, sd, cost, its bootstrap draws, seeds and n."""
    drawn, shares = (
        resampled_means(hits, clusters, draws, seed),
        {s: frame.mean() for s, frame in hits.items()},
    )
    rows = {
        s: {"accuracy": own.mean(), "sd": own.std(), "cost": shares[0].mean() - own.mean()}
        | {"draws": drawn[0] - drawn[s], "seeds": len(own), "n": len(hits[s])}
        for s, own in shares.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _hits(detail: str, repeats: Sequence[Predictions], hierarchy: Hierarchy, group: str) -> pd.DataFrame:
    columns = [
        fine_hits(one, hierarchy, group) if detail == "fine" else broad_hits(one, hierarchy)
        for one in repeats
    ]
    return pd.concat(columns, axis=1, keys=range(len(columns))).sort_index()
