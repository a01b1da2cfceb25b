"""How chapter 03b_interventions names its measurements, so that the ledger and the pages find them.

Study "03b_interventions" records, with `data` the test scenes,

| metric | value | model |
|---|---|---|
| `accuracy/all` | accuracy without a defect in the data | "no defect", "no defect (RealTune)" |
| `accuracy_change/<probe>` | accuracy minus that without the defect | "scale 1", "scale 1 (RealTune)" |
| `repair/matching` | how much of that change RealTune takes back | "scale 1" |
| `worth_of_synthetic/<name>` | real images that a synthetic one replaces, or 0 | "250 real images" |
| `planned_gain` | accuracy of a mix minus that of one kind, for the same money | "mix vs real only" |

Probes: "matching" and "counterpart" of the defect (`evaluate.probes`), "excess", which is their difference,
and "all", the accuracy on scenes as they come. `<name>`: a matching probe in words, or "accuracy".
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from synreal.book.study import Study
from synreal.evaluate.planner import Plan
from synreal.evaluate.repeated import Effect, Interval
from synreal.evaluate.resampling import holm
from synreal.evaluate.slices import COUNTERPART, MATCHING, TestSet, probe
from synreal.generate.rerender import Defects

STAGES = ("", " (RealTune)")
PROBES = ("matching", "counterpart", "excess", "all")
DATA = "scenes/test"
Outcomes = Mapping[Defects, np.ndarray]  # logits [2, seeds, N, classes], as `turn_dial` returns them


def record_dial(study: Study, outcomes: Outcomes, test: TestSet, seed: int) -> pd.DataFrame:
    """Record every defect at every dose; returns the rows: defect, dose, stage, probe, level and Estimate's.

    level: the accuracy itself, where the probe is one. At dose 0 the value is 0 without an interval.
    """
    rows = []
    for defects in outcomes:
        name, _, dose = defects.describe().partition(" ")
        rows += _rows_of_defect(outcomes, test, defects, name, float(dose)) if dose else []
    for name in dict.fromkeys(str(row["defect"]) for row in rows):
        rows += _rows_of_defect(outcomes, test, Defects(), name, 0.0)
    order = {name: place for place, name in enumerate(MATCHING)}
    rows.sort(key=lambda row: (order[str(row["defect"])], row["dose"]))
    table = pd.DataFrame(rows)
    for row in table[table["dose"] > 0].to_dict("records"):
        metric = "repair/matching" if row["stage"] == "repair" else f"accuracy_change/{row['probe']}"
        stage = "" if row["stage"] == "repair" else row["stage"]
        _write(study, metric, f"{row['defect']} {row['dose']:g}{stage}", row, seed)
    for stage, text in enumerate(STAGES):
        found = probe(outcomes[Defects()][stage], test, "accuracy").estimate(test.clusters)
        _write(study, "accuracy/all", f"no defect{text}", found._asdict(), seed)
    return table


def cross_changes(outcomes: Outcomes, test: TestSet, dose: float) -> pd.DataFrame:
    """Each defect's change of each matching probe at one dose: defect, probe, Estimate's columns, p_holm."""
    rows = []
    for defects, logits in outcomes.items():
        name, _, own = defects.describe().partition(" ")
        for words in MATCHING.values() if own and float(own) == dose else ():
            change = probe(logits[0], test, words) - probe(outcomes[Defects()][0], test, words)
            rows.append({"defect": name, "probe": words, **change.estimate(test.clusters)._asdict()})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def dial_verdicts(table: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """One row per defect at its largest dose: change, excess and remaining change in words, and the verdict.

    "causes": the matching accuracy falls, p < 0.05 after Holm over defects. "does not, within x": the whole
    interval lies within the tolerance, and x is its farther end. "undecided" otherwise.
    """
    full = table[table["dose"] == table.groupby("defect")["dose"].transform("max")]
    picked = {key: rows.set_index("defect") for key, rows in full.groupby(["stage", "probe"], sort=False)}
    main = picked["", "matching"]
    adjusted = holm(main["p"].to_numpy())
    verdict = [_verdict(row, p, tolerance) for row, p in zip(main.to_dict("records"), adjusted, strict=True)]
    return pd.DataFrame(
        {
            "matching": [MATCHING[name] for name in main.index],
            "change": _words(main),
            "p, Holm": adjusted,
            "beyond its counterpart": _words(picked["", "excess"].loc[main.index]),
            "after RealTune": _words(picked[" (RealTune)", "matching"].loc[main.index]),
            "repaired": _words(picked["repair", "matching"].loc[main.index]),
            "verdict": verdict,
        },
        index=main.index,
    )


def record_rates(study: Study, rates: Mapping[str, pd.DataFrame], n: Mapping[str, int], seed: int) -> None:
    """Record what a synthetic image is worth, by probe; rates: tables of `exchange_rates`."""
    for name, table in rates.items():
        for row in table.to_dict("records"):
            unknown = math.isnan(row["worth"])
            study.record(
                metric=f"worth_of_synthetic/{name}",
                value=None if unknown else row["worth"],
                model=f"{row['real_images']} real images",
                data=DATA,
                n=n[name],
                ci=(row["worth_low"], row["worth_high"]),
                seed=seed,
                reason=row["verdict"] if unknown else None,
            )


def record_plan(study: Study, plan: Plan, n: int, seed: int) -> None:
    """Record what the planned mix gains over either kind alone."""
    for name, (value, *interval) in plan.gains.items():
        unknown = math.isnan(value)
        study.record(
            metric="planned_gain",
            value=None if unknown else value,
            model=f"mix vs {name}",
            data=DATA,
            n=n,
            ci=(interval[0], interval[1]),
            seed=seed,
            reason="the budget buys less than was measured" if unknown else None,
        )


def _rows_of_defect(
    outcomes: Outcomes, test: TestSet, defects: Defects, name: str, dose: float
) -> list[dict[str, object]]:
    words = {"matching": MATCHING[name], "counterpart": COUNTERPART[name], "all": "accuracy"}
    rows, changes = [], []
    for stage, text in enumerate(STAGES):
        own = {key: probe(outcomes[defects][stage], test, value) for key, value in words.items()}
        clean = {key: probe(outcomes[Defects()][stage], test, value) for key, value in words.items()}
        change = {key: own[key] - clean[key] for key in words}
        change["excess"] = change["matching"] - change["counterpart"]
        changes.append(change)
        for key in PROBES:
            level = own[key].estimate(test.clusters) if key in own else None
            rows.append(_row(name, dose, text, key, change[key], test, level))
    if dose:
        repair = changes[1]["matching"] - changes[0]["matching"]
        rows.append(_row(name, dose, "repair", "matching", repair, test, None))
    return rows


def _row(
    defect: str, dose: float, stage: str, key: str, change: Effect, test: TestSet, level: Interval | None
) -> dict[str, object]:
    found = change.estimate(test.clusters)
    row = {"defect": defect, "dose": dose, "stage": stage, "probe": key, **found._asdict()}
    if level:
        row |= {"level": level.value, "level_low": level.ci_low, "level_high": level.ci_high}
    return row


def _verdict(row: Mapping[str, float], adjusted: float, tolerance: float) -> str:
    if adjusted < 0.05:
        return "causes" if row["value"] < 0 else "the opposite"
    if np.isnan(row["ci_low"]):
        return "does not: no answer changed"
    bound = max(abs(row["ci_low"]), abs(row["ci_high"]))
    return f"does not, within {bound:.3f}" if bound <= tolerance else "undecided"


def _words(rows: pd.DataFrame) -> Sequence[str]:
    parts = zip(rows["value"], rows["ci_low"], rows["ci_high"], strict=True)
    return [f"{value:+.3f} ({low:+.3f} to {high:+.3f})" for value, low, high in parts]


def _write(study: Study, metric: str, model: str, row: Mapping[str, object], seed: int) -> None:
    study.record(
        metric=metric,
        value=row["value"],  # type: ignore[arg-type]
        model=model,
        data=DATA,
        n=row["n"],  # type: ignore[arg-type]
        ci=(row["ci_low"], row["ci_high"]),  # type: ignore[arg-type]
        seed=seed,
    )
