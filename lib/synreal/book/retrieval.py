"""How chapter 04_retrieval names its measurements, so that the ledger and the pages find them.

Study "04_retrieval" records, with `data` the task's name (or "all tasks"), `<reading>` zero-shot or probe,

| metric | value | model |
|---|---|---|
| `<reading> accuracy` | mean over seeds after adaptation to N images | "<source> N" |
| `<reading> deviation` | its standard deviation over seeds, as P2's error bars | "<source> N" |
| `<reading>/advantage` | retrieved minus synthetic, of as many images | "retrieved vs synthetic, N" |
| `<reading>/smallest advantage` | the least of them all, interval for all | "retrieved vs synthetic" |
| `<reading>/advantage beyond` | most retrieved minus yet more synthetic | "retrieved vs synthetic" |
| `<reading>/mean advantage beyond` | its mean over tasks | "retrieved vs synthetic" |
| `<reading>/improvement` | adapted minus not adapted, at the largest N of both sources | source |
| `largest improvement` | the largest of these over tasks and readings, interval for all | source |
| `<reading>/mixture advantage` | half of each, minus as many retrieved | "mixture vs retrieved" |
| `perturbed/<detail> cost` | accuracy lost by perturbing what was retrieved | "strength S" |
| `perturbed/fine minus broad` | by how much the fine-grained loss is the larger | "strength S" |
| `rejected` | images that decontamination refused | source |
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from synreal.book.study import Study
from synreal.evaluate.repeated import ALL, Accuracies, CellStatistic, mean_effect
from synreal.evaluate.resampling import with_holm
from synreal.train.adapt import READINGS

PAIR = "retrieved vs synthetic"


def record_accuracies(study: Study, found: Accuracies, seed: int) -> pd.DataFrame:
    """Record every mean with its interval, and the deviation over seeds; returns the table."""
    for row in found.table.to_dict("records"):
        named = {"model": f"{row['source']} {row['budget']}", "data": row["task"], "n": row["n"]}
        interval = (row["ci_low"], row["ci_high"])
        study.record(metric=f"{row['reading']} accuracy", value=row["value"], ci=interval, seed=seed, **named)
        if row["seeds"] > 1:
            deviation = {**named, "n": row["seeds"]}
            study.record(metric=f"{row['reading']} deviation", value=row["sd"], seed=seed, **deviation)
    return found.table


def record_advantages(study: Study, found: Accuracies, seed: int) -> pd.DataFrame:
    """Record retrieved minus synthetic at every shared budget and task, and the least; p Holm-adjusted.

    P2 sec. "Synth vs. real": retrieved matches or beats synthetic everywhere.
    """
    cells = [(task, budget) for task in found.tasks for budget in found.shared_budgets(task)]
    rows = []
    for reading in READINGS:
        advantages = [
            _difference(task, reading, ("retrieved", budget), ("synthetic", budget)) for task, budget in cells
        ]
        for (task, budget), advantage in zip(cells, advantages, strict=True):
            effect = found.effect(advantage)
            rows.append({"task": task, "reading": reading, "budget": budget, "n": found.n(task)} | effect)
            _record(study, f"{reading}/advantage", f"{PAIR}, {budget}", task, found, effect, seed)
        least = found.extreme(advantages, largest=False)
        _record(study, f"{reading}/smallest advantage", PAIR, ALL, found, least, seed)
    return with_holm(pd.DataFrame(rows), "reading")


def record_beyond(study: Study, found: Accuracies, seed: int) -> pd.DataFrame:
    """Record the most retrieved minus the most synthetic images, where these are more (P2 Fig. 2, shaded)."""
    ends = {
        task: (
            ("retrieved", found.budgets(task, "retrieved")[-1]),
            ("synthetic", found.budgets(task, "synthetic")[-1]),
        )
        for task in found.tasks
    }
    ends = {task: pair for task, pair in ends.items() if pair[1][1] > pair[0][1]}
    rows = []
    for reading in READINGS if ends else ():
        differences = {task: _difference(task, reading, *pair) for task, pair in ends.items()}
        for task, difference in differences.items():
            effect = found.effect(difference)
            counts = {"retrieved": ends[task][0][1], "synthetic": ends[task][1][1]}
            rows.append({"task": task, "reading": reading, "n": found.n(task)} | counts | effect)
            _record(study, f"{reading}/advantage beyond", PAIR, task, found, effect, seed)
        mean = found.effect(_mean_of(list(differences.values())))
        _record(study, f"{reading}/mean advantage beyond", PAIR, ALL, found, mean, seed)
    return pd.DataFrame(rows)


def record_improvements(study: Study, found: Accuracies, seed: int) -> pd.DataFrame:
    """Record adapted minus not adapted at the largest shared budget, and the largest of all."""
    rows = []
    for source in ("retrieved", "synthetic"):
        gains = []
        for task in found.tasks:
            budget = found.shared_budgets(task)[-1]
            for reading in READINGS:
                gains.append(_difference(task, reading, (source, budget), ("unadapted", 0)))
                effect = found.effect(gains[-1])
                rows.append({"task": task, "reading": reading, "source": source, "budget": budget} | effect)
                _record(study, f"{reading}/improvement", source, task, found, effect, seed)
        largest = found.extreme(gains, largest=True)
        _record(study, "largest improvement", source, ALL, found, largest, seed)
    return pd.DataFrame(rows)


def record_mixtures(study: Study, found: Accuracies, seed: int) -> pd.DataFrame:
    """Record half of each source minus retrieved alone, of as many images in all."""
    rows = []
    for task in found.tasks:
        for budget in sorted(set(found.budgets(task, "mixture")) & set(found.budgets(task, "retrieved"))):
            for reading in READINGS:
                pair = ("mixture", budget), ("retrieved", budget)
                effect = found.effect(_difference(task, reading, *pair))
                rows.append({"task": task, "reading": reading, "budget": budget, "n": found.n(task)} | effect)
                _record(
                    study, f"{reading}/mixture advantage", "mixture vs retrieved", task, found, effect, seed
                )
    return pd.DataFrame(rows)


def record_costs(study: Study, costs: pd.DataFrame, data: str, seed: int) -> pd.DataFrame:
    """Record what training on perturbed images cost, from `perturbation_costs`."""
    for row in costs[costs["strength"] > 0].to_dict("records"):
        detail = row["detail"] if row["detail"] == "fine minus broad" else f"{row['detail']} cost"
        named = {"metric": f"perturbed/{detail}", "model": f"strength {row['strength']:g}", "data": data}
        study.record(**named, value=row["cost"], n=row["n"], ci=(row["ci_low"], row["ci_high"]), seed=seed)
    return costs


def record_rejected(
    study: Study, counts: Mapping[str, tuple[int, int]], data: str, seed: int
) -> pd.DataFrame:
    """Record, by source, how many of how many images decontamination refused: (rejected, checked)."""
    for source, (rejected, checked) in counts.items():
        study.record(metric="rejected", value=rejected, model=source, data=data, n=checked, seed=seed)
    table = pd.DataFrame.from_dict(counts, orient="index", columns=["rejected", "checked"])
    return table.rename_axis("source")


def _difference(task: str, reading: str, one: tuple[str, int], other: tuple[str, int]) -> CellStatistic:
    return lambda means: means[task, reading, *one] - means[task, reading, *other]


def _mean_of(differences: Sequence[CellStatistic]) -> CellStatistic:
    return lambda means: mean_effect([difference(means) for difference in differences])


def _record(
    study: Study,
    metric: str,
    model: str,
    data: str,
    found: Accuracies,
    effect: Mapping[str, float],
    seed: int,
) -> None:
    interval = (effect["ci_low"], effect["ci_high"])
    n = found.n(data)
    study.record(metric=metric, value=effect["value"], model=model, data=data, n=n, ci=interval, seed=seed)
