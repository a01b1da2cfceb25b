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
COLUMNS = ("detail", "strength", "accuracy", "sd", "cost", "ci_low", "ci_high", "seeds", "n")
NO_COSTS = pd.DataFrame(columns=list(COLUMNS))  # where nothing was perturbed
Key = tuple[str, float]  # detail and strength
Cost = tuple[float, np.ndarray]  # the cost, and [draws] of it


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
    """One row per detail and strength, with COLUMNS.

    runs: predictions by strength, one per training; strength 0 are the unperturbed images. detail: fine,
    broad, and "fine minus broad". cost: accuracy at strength 0 minus accuracy; its interval resamples images
    and trainings, the same for both details.
    """
    hits = {
        (detail, strength): _hits(detail, repeats, hierarchy, group)
        for detail in DETAILS
        for strength, repeats in runs.items()
    }
    drawn = resampled_means(hits, clusters, draws, seed, training=lambda key: key[1])
    rows = []
    for (detail, strength), (cost, lost) in _costs(hits, drawn).items():
        own = hits.get((detail, strength))
        accuracy = {} if own is None else {"accuracy": own.mean().mean(), "sd": own.mean().std()}
        low, high = percentile_interval(lost)
        counts = {"seeds": len(runs[strength]), "n": len(hits["fine", strength] if own is None else own)}
        interval = {"cost": cost, "ci_low": min(low, cost), "ci_high": max(high, cost)}
        rows.append({"detail": detail, "strength": strength} | accuracy | interval | counts)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _costs(hits: Mapping[Key, pd.DataFrame], drawn: Mapping[Key, np.ndarray]) -> dict[Key, Cost]:
    """By detail and strength, "fine minus broad" among the details: the cost, and the same in every draw."""
    means = {key: frame.mean().mean() for key, frame in hits.items()}
    costs = {
        (detail, strength): (means[detail, 0.0] - mean, drawn[detail, 0.0] - drawn[detail, strength])
        for (detail, strength), mean in means.items()
    }
    for strength in sorted({strength for _, strength in hits} - {0.0}):
        (fine, fine_drawn), (broad, broad_drawn) = (costs[detail, strength] for detail in DETAILS)
        costs["fine minus broad", strength] = fine - broad, fine_drawn - broad_drawn
    return costs


def _hits(detail: str, repeats: Sequence[Predictions], hierarchy: Hierarchy, group: str) -> pd.DataFrame:
    columns = [
        fine_hits(one, hierarchy, group) if detail == "fine" else broad_hits(one, hierarchy)
        for one in repeats
    ]
    return pd.concat(columns, axis=1, keys=range(len(columns))).sort_index()
