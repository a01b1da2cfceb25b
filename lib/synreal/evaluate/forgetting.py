"""What tuning gave and what it took: answers before and after, image by image."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.evaluate.compare import compare
from synreal.evaluate.predictions import Predictions

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
