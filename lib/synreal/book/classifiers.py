"""How chapter 01_classifiers names its measurements, so that the ledger and the pages find them.

Study "01_classifiers" records, with `data` the world's name,

| metric | value | model |
|---|---|---|
| `accuracy` | top-1 accuracy, fraction 0..1 | one classifier, its card's name |
| `calibration_error` | expected calibration error, 0..1 | one classifier |
| `fine_grained_accuracy` | label-restricted accuracy, micro, fraction 0..1 | one classifier |
| `fine_grained_accuracy/<coarse>` | the same inside one coarse class | one classifier |
| `factor/<factor>` | (acc_rare - acc_all) / acc_all | one classifier |
| `accuracy_gap` | accuracy, real minus synthetic | a pair |
| `fine_grained_gap`, `fine_grained_gap/<coarse>` | the same of fine-grained accuracy | a pair |
| `factor_gap/<factor>` | `factor/<factor>`, synthetic minus real (below 0: synthetic suffers more) | a pair |
| `factors_worse` | number of factors whose `factor_gap` is below 0 | a pair |
| `fine_grained_gap_difference` | how much wider the gap is at equal data | "ViT (equal data minus ...)" |
"""

from collections.abc import Mapping

import pandas as pd

from synreal.book.study import Study
from synreal.data.worlds import World
from synreal.evaluate import compare, fine_grained_accuracy, report
from synreal.evaluate.report import factors_worse, gap_difference
from synreal.models.predictions import Predictions

REPORTED = {
    "accuracy": "accuracy",
    "expected_calibration_error": "calibration_error",
    "restricted_accuracy_micro": "fine_grained_accuracy",
    "restricted_accuracy": "fine_grained_accuracy/{group}",
}
COMPARED = {
    "accuracy": "accuracy_gap",
    "restricted_accuracy_micro": "fine_grained_gap",
    "restricted_accuracy": "fine_grained_gap/{group}",
}


def record_models(
    study: Study, models: Mapping[str, Predictions], world: World, denominator: str, draws: int, seed: int
) -> pd.DataFrame:
    """Record what is measured about each model alone; one row each, with `metric` as recorded."""
    names = REPORTED | {f"relative_accuracy_{denominator}": "factor/{group}"}
    rows = []
    for model, predictions in models.items():
        table = _named(
            report(predictions, world.hierarchy, world.factors, world.clusters, draws, seed), names
        )
        rows.append(table.assign(model=model))
    return _record(study, pd.concat(rows, ignore_index=True), seed)


def record_pairs(
    study: Study,
    pairs: Mapping[str, tuple[Predictions, Predictions]],
    world: World,
    denominator: str,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Record what separates the real (first) from the synthetic (second) model of each pair."""
    relative = f"relative_accuracy_{denominator}"
    rows = []
    for pair, (real, synthetic) in pairs.items():
        table = compare(real, synthetic, world.hierarchy, world.factors, world.clusters, draws, seed)
        table = table.rename(columns={"difference": "value"})
        flipped = table["metric"] == relative
        table.loc[flipped, ["value", "ci_low", "ci_high"]] = -table.loc[
            flipped, ["value", "ci_high", "ci_low"]
        ].to_numpy()
        rows.append(_named(table, COMPARED | {relative: "factor_gap/{group}"}).assign(model=pair))
        if world.factors is not None:
            count = factors_worse(real, synthetic, world.factors, world.clusters, denominator, draws, seed)
            rows.append(_extra("factors_worse", pair, world, count, world.factors.shape[1]))
    return _record(study, pd.concat(rows, ignore_index=True), seed)


def record_gap_differences(
    study: Study,
    pairs: Mapping[str, tuple[Predictions, Predictions]],
    world: World,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """For each kind of classifier with both pairs: is the fine-grained gap wider at equal data?"""
    rows = []
    for kind in ("ViT", "CLIP"):
        names = [f"{kind}-Real vs {kind}-Syn ({basis})" for basis in ("equal data", "equal accuracy")]
        if world.hierarchy is not None and all(name in pairs for name in names):
            first, second = (pairs[name] for name in names)
            found = gap_difference(first, second, world.hierarchy, world.clusters, draws, seed)
            name = f"{kind} (equal data minus equal accuracy)"
            n = int(fine_grained_accuracy(first[0], world.hierarchy)["n"].sum())
            rows.append(_extra("fine_grained_gap_difference", name, world, found, n))
    return _record(study, pd.concat(rows, ignore_index=True), seed) if rows else pd.DataFrame()


def _named(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The rows whose metric has a recorded name, under that name."""
    kept = table[table["metric"].isin(names)].copy()
    kept["metric"] = [
        names[metric].format(group=group) for metric, group in zip(kept["metric"], kept["group"], strict=True)
    ]
    return kept


def _extra(metric: str, model: str, world: World, found: tuple[float, float, float], n: int) -> pd.DataFrame:
    row = {"metric": metric, "model": model, "data": world.name, "group": "all", "n": n}
    return pd.DataFrame([row | dict(zip(("value", "ci_low", "ci_high"), found, strict=True))])


def _record(study: Study, table: pd.DataFrame, seed: int) -> pd.DataFrame:
    for row in table.to_dict("records"):
        value, missing = row["value"], pd.isna(row["value"])
        # The bootstrap of a calibration error is biased upwards: its interval is widened to hold the value.
        low, high = min(row["ci_low"], value), max(row["ci_high"], value)
        bounds = None if pd.isna(row["ci_low"]) else (low, high)
        study.record(
            metric=row["metric"],
            value=None if missing else value,
            model=row["model"],
            data=row["data"],
            n=int(row["n"]),
            ci=None if missing else bounds,
            seed=seed,
            reason=(row.get("note") or "no image of this kind") if missing else None,
        )
    return table
