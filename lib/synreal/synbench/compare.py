"""A real image set and synthetic ones, measure by measure (P1 sec. 3, Fig. 4a and 5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from synreal.evaluate.distribution import compare_classes, compare_distributions
from synreal.evaluate.proportions import compare_proportions
from synreal.evaluate.statistics import MINIMUM_IMAGES, holm, with_holm
from synreal.synbench.measure import YES_NO, Measure
from synreal.synbench.study import Measured

MAIN = ("proportion_difference", "ks")  # what a measure is asked first; Holm's correction counts these
COLUMNS = [
    "synthetic", "measure", "statistic", "value", "n_real", "n_synthetic", "ci_low", "ci_high", "p", "p_holm",
    "note",
]  # fmt: skip


def compare_all(
    real: Measured,
    synthetic: Sequence[Measured],
    measures: Sequence[Measure],
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per synthetic set, measure and statistic.

    Columns: synthetic, measure, statistic, value, n_real, n_synthetic, ci_low, ci_high, p, p_holm, note.
    Statistics are those of `compare_proportions` for yes-or-no measures and of `compare_distributions` for
    all others. p_holm is adjusted across the measures of one set, which ask about one statistic each: the
    difference of proportions, or the Kolmogorov-Smirnov distance. A measure that failed on either set is
    left out.
    """
    tables = [pd.DataFrame(columns=COLUMNS)]
    for other in synthetic:
        for measure in taken(real, other, measures):
            pair = (real.values[measure.name], other.values[measure.name])
            table = _compare(measure, *pair, real.world.clusters, other.world.clusters, draws, seed)
            tables.append(table.assign(synthetic=other.name, measure=measure.name))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    asked = table["p"].where(table["statistic"].isin(MAIN))
    table["p_holm"] = asked.groupby(table["synthetic"]).transform(lambda p: holm(p.to_numpy()))
    return table[COLUMNS]


def compare_by_class(
    real: Measured, synthetic: Measured, measure: Measure, draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """The same of one measure, class by class: `class` in front, p_holm across the classes of a statistic."""
    pair = (real.values[measure.name], synthetic.values[measure.name])
    labels, clusters = (real.labels, synthetic.labels), (real.world.clusters, synthetic.world.clusters)
    if measure.unit != YES_NO:
        return compare_classes(*pair, *labels, *clusters, draws=draws, seed=seed)
    tables = {
        name: _compare_class(pair[0][labels[0] == name], pair[1][labels[1] == name], *clusters)
        for name in sorted(set(real.labels) | set(synthetic.labels))
    }
    table = pd.concat(tables, names=["class"]).reset_index(level="class").reset_index(drop=True)
    return with_holm(table, "statistic")


def taken(real: Measured, synthetic: Measured, measures: Sequence[Measure]) -> list[Measure]:
    """The measures that failed on neither set."""
    return [m for m in measures if m.name in real.values and m.name in synthetic.values]


def statistics_of(measure: Measure) -> list[str]:
    """The names of the statistics that `compare_all` gives of a measure, known before it is taken."""
    nothing = pd.Series([0.0], ["image"])
    return _compare(measure, nothing, nothing, None, None, draws=1, seed=0)["statistic"].to_list()


def _compare(
    measure: Measure,
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None,
    synthetic_clusters: pd.Series | None,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    if measure.unit == YES_NO:
        return compare_proportions(real, synthetic, real_clusters, synthetic_clusters)
    return compare_distributions(real, synthetic, real_clusters, synthetic_clusters, draws=draws, seed=seed)


def _compare_class(
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None,
    synthetic_clusters: pd.Series | None,
) -> pd.DataFrame:
    """`compare_proportions`, without bounds where a class has fewer clusters than an interval needs."""
    pairs = ((real, real_clusters), (synthetic, synthetic_clusters))
    fewest = min((own.loc[part.index].nunique() for part, own in pairs if own is not None), default=None)
    if fewest is None or fewest >= MINIMUM_IMAGES:
        return compare_proportions(real, synthetic, real_clusters, synthetic_clusters)
    table = compare_proportions(real, synthetic)
    unknown = {"ci_low": np.nan, "ci_high": np.nan, "p": np.nan}
    return table.assign(**unknown, note=f"too few clusters ({fewest} < {MINIMUM_IMAGES})")
