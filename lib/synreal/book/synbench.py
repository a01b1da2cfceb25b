"""How chapter 02_synbench names its measurements, so that the ledger and the pages find them.

Study "02_synbench" records, with `data` the real set's name,

| metric | value | model |
|---|---|---|
| `<measure>/<statistic>` | a row of `synbench.compare.compare_all`: a set beside the real one | the set |
| the same | one synthetic set beside another, which stands for the real one | "<set> vs <other>", or a name |
| `corrected_consistency` | share of images that show their label, the judge's errors taken out | a set |
| `confidence_gap` | how much surer the judge is than real images of these classes make it | a set |
| `inside_share` | share of wrong images that stay in the coarse group | a set, or "real" |
| `validation/<measure>/<statistic>` | how far a measure is from the truth, on scenes | "measure" |

Measures: consistency, object scale, brightness, and person blocking.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from synreal.book.study import Study
from synreal.data.hierarchy import Hierarchy
from synreal.data.imageset import class_names
from synreal.errors import InputError
from synreal.synbench.compare import Measured, compare_all
from synreal.synbench.consistency import consistency
from synreal.synbench.correction import SIDES, Consistency, answers, corrected_consistency
from synreal.synbench.measures import Measure

RECORDED = (
    "proportion_real", "proportion_synthetic", "proportion_difference",
    "mean_difference", "q05_difference", "q50_difference", "q95_difference",
    "iqr_ratio", "range_ratio", "low_tail_coverage", "high_tail_coverage", "wasserstein", "ks",
)  # fmt: skip


def record_sets(
    study: Study,
    real: Measured,
    synthetic: Sequence[Measured],
    measures: Sequence[Measure],
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Record the RECORDED statistics of synthetic sets beside the real one; returns all of `compare_all`.

    Raises InputError when a measure failed on any of the sets: a chapter shows all or says why not.
    """
    _check_taken([real, *synthetic])
    table = compare_all(real, synthetic, measures, draws, seed)
    return _record(study, table.assign(model=table["synthetic"]), real.name, seed)


def record_against(
    study: Study,
    base: Measured,
    others: Sequence[Measured],
    measures: Sequence[Measure],
    data: str,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """The same of synthetic sets beside another synthetic one, as model "<set> vs <base>".

    Sets drawn for the same prompts from the same seeds resemble each other; the intervals take them as
    independent, and are wider than they need be.
    """
    _check_taken([base, *others])
    table = compare_all(base, others, measures, draws, seed)
    return _record(study, table.assign(model=table["synthetic"] + f" vs {base.name}"), data, seed)


def record_contrasts(
    study: Study,
    contrasts: Mapping[str, Sequence[str]],
    sets: Mapping[str, Measured],
    measures: Sequence[Measure],
    data: str,
    draws: int,
    seed: int,
) -> None:
    """The same of pairs of `sets` (the second stands for the real one), each as the model that names it.

    Raises InputError when a pair does not name two of the sets.
    """
    for title, pair in contrasts.items():
        if len(pair) != 2 or not set(pair) <= set(sets):
            raise InputError(f"contrasts: {title!r} names {list(pair)}, expected two of {', '.join(sets)}")
    for title, (name, base) in contrasts.items():
        table = compare_all(sets[base], [sets[name]], measures, draws, seed)
        _record(study, table.assign(model=title), data, seed)


def record_consistency(
    study: Study,
    judge: Consistency,
    real: Measured,
    synthetic: Sequence[Measured],
    hierarchy: Hierarchy | None,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Record judge-corrected consistency and the share of wrong images inside the coarse group.

    The judge answers among the classes of the sets, whatever else it knows: its confusion can be known, and
    taken out, only of classes with real images.
    """
    classes = class_names(real.world.images)
    truth = answers(judge, real, classes)
    rows = []
    for part in (real, *synthetic):
        judged = answers(judge, part, classes)
        clusters = (real.world.clusters, part.world.clusters)
        name = "real" if part is real else part.name
        own = consistency(judged, hierarchy, part.world.clusters, draws, seed)
        rows.append(own[(own["metric"] == "inside_share") & (own["group"] == "all")].assign(model=name))
        if part is not real:
            corrected = corrected_consistency(truth, judged, clusters, draws, seed)
            rows.append(corrected[corrected["group"] == "all"].assign(model=name))
    table = pd.concat(rows, ignore_index=True)
    table = table[table["metric"].isin(["inside_share", "corrected_consistency", "confidence_gap"])]
    for row in table.to_dict("records"):
        _write(study, row["metric"], row, real.name, int(row["n"]), seed)
    return table


def record_validation(study: Study, tables: Mapping[str, pd.DataFrame], data: str, seed: int) -> pd.DataFrame:
    """Record `validate.agreement` or `yes_no_agreement` of each measure, by the measure's name."""
    table = pd.concat(tables, names=["measure"]).reset_index(level="measure").reset_index(drop=True)
    for row in table.to_dict("records"):
        metric = f"validation/{row['measure']}/{row['statistic']}"
        _write(study, metric, row | {"model": "measure", "note": "too few images"}, data, int(row["n"]), seed)
    return table


def images_behind(row: Mapping[str, Any]) -> int:
    """How many images a row of `compare_all` rests on: those of its own set, or of the smaller of the two."""
    side = next((side for side in SIDES if row["statistic"].endswith(f"_{side}")), None)
    return int(row[f"n_{side}"] if side else min(row["n_real"], row["n_synthetic"]))


def _check_taken(sets: Sequence[Measured]) -> None:
    if failed := [f"{part.name}: {name}: {why}" for part in sets for name, why in part.failures.items()]:
        raise InputError(
            f"{len(failed)} measures failed: {'; '.join(failed)}. The others are kept; run again"
        )


def _record(study: Study, table: pd.DataFrame, data: str, seed: int) -> pd.DataFrame:
    for row in table[table["statistic"].isin(RECORDED)].to_dict("records"):
        _write(study, f"{row['measure']}/{row['statistic']}", row, data, images_behind(row), seed)
    return table


def _write(study: Study, metric: str, row: dict, data: str, n: int, seed: int) -> None:
    missing = pd.isna(row["value"])
    study.record(
        metric=metric,
        value=None if missing else row["value"],
        model=row["model"],
        data=data,
        n=n,
        ci=None if missing else (row["ci_low"], row["ci_high"]),
        seed=seed,
        reason=(row["note"] or "no image has a value") if missing else None,
    )
