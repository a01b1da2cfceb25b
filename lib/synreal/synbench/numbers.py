"""All numbers of a study in one tidy table: whole sets, classes and coarse groups."""

from collections.abc import Mapping, Sequence

import pandas as pd

from synreal.evaluate.predictions import Predictions
from synreal.synbench.compare import COLUMNS, compare_all, compare_by_class, taken
from synreal.synbench.grained import fine_grained
from synreal.synbench.measure import Measure
from synreal.synbench.study import ALL, Measured

TIDY = [*COLUMNS[:3], "group", *COLUMNS[3:]]
CLASS_DRAWS = 500  # at most, of each class: there are many


def all_numbers(
    real: Measured,
    synthetic: Sequence[Measured],
    measures: Sequence[Measure],
    judged: Mapping[str, Mapping[str, Predictions]],
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per synthetic set, measure, statistic and group: the columns of `compare_all`, and `group`.

    group: "all" for the rows of `compare_all`; a class for those of `compare_by_class`; for those of
    `fine_grained` a coarse group or a class. judged: by measure and set, the answers of `grained.answers`.
    """
    tables = [compare_all(real, synthetic, measures, draws, seed).assign(group=ALL)]
    for other in synthetic:
        for measure in taken(real, other, measures):
            classes = compare_by_class(real, other, measure, min(draws, CLASS_DRAWS), seed)
            parts = [classes.rename(columns={"class": "group"})]
            if answers := judged.get(measure.name):
                pair, clusters = (answers[real.name], answers[other.name]), _clusters(real, other)
                parts.append(fine_grained(*pair, real.world.hierarchy, clusters, draws, seed))
            tables += [part.assign(synthetic=other.name, measure=measure.name) for part in parts]
    return pd.concat(tables, ignore_index=True)[TIDY]


def _clusters(real: Measured, synthetic: Measured) -> tuple[pd.Series | None, pd.Series | None]:
    return real.world.clusters, synthetic.world.clusters
