"""SynBench as a tool: one page, its numbers as files, and a verdict for somebody's continuous integration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, StrictUndefined, Template

from synreal.book import plots
from synreal.book.synbench_sections import section
from synreal.book.synbench_tables import overview
from synreal.data.hierarchy import Hierarchy
from synreal.data.imageset import class_names
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.evaluate.predictions import Predictions
from synreal.synbench.compare import statistics_of
from synreal.synbench.grained import answers, group_confusions, groups_by_statistic
from synreal.synbench.judged import Consistency
from synreal.synbench.measure import Measure
from synreal.synbench.numbers import all_numbers
from synreal.synbench.study import ALL, Measured, check_worlds, measure_all
from synreal.synbench.thresholds import Thresholds, check_known, check_thresholds

PACKAGES = ("synreal", "numpy", "pillow", "torch", "timm", "ultralytics")  # that values depend on


@dataclass(frozen=True)
class Outcome:
    """Where the page lies, and what it found. passed: False when a threshold failed or a measure did."""

    page: Path
    passed: bool
    failures: list[tuple[str, str, str]]  # set, measure, reason
    checks: pd.DataFrame  # of `check_thresholds`


def synbench(
    real: World,
    synthetic: Sequence[World],
    measures: Sequence[Measure],
    out: Path,
    thresholds: Thresholds | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Outcome:
    """Measure the sets and write the report into `out`.

    Values are kept on disk measure by measure, so that an interrupted run goes on. Raises InputError, before
    anything is measured, when there is no measure or two of one name, a threshold asks for something else,
    `out` is a file or below one, and as `check_worlds`.
    """
    _check_measures(measures)
    check_worlds(real, synthetic)
    check_known(thresholds or {}, _known(real, measures))
    if file := next((part for part in (out, *out.parents) if part.exists() and not part.is_dir()), None):
        raise InputError(f"{file}: found a file, expected a folder for the report; name another one")
    measured = [measure_all(world, measures) for world in (real, *synthetic)]
    return report(measured[0], measured[1:], measures, out, thresholds or {}, draws, seed)


def report(
    real: Measured,
    synthetic: Sequence[Measured],
    measures: Sequence[Measure],
    out: Path,
    thresholds: Thresholds,
    draws: int,
    seed: int,
) -> Outcome:
    """The files of a report: index.html, measurements.csv (every statistic), images.parquet (every value),
    summary.json, and with a judge confusion.csv."""
    sets = (real, *synthetic)
    failures = [(part.name, *failed) for part in sets for failed in part.failures.items()]
    judged = _judged(real, synthetic, measures)
    table = all_numbers(real, synthetic, measures, judged, draws, seed)
    checks = check_thresholds(table, thresholds)
    passed = not failures and not checks["verdict"].isin(["fail", "missing"]).any()
    outcome = Outcome(out / "index.html", passed, failures, checks)
    _write_numbers(out, sets, table, judged)
    kept = [measure for measure in measures if measure.name in set(table["measure"])]
    (out / "summary.json").write_text(_summary(real, kept, table, outcome))
    with plt.rc_context({"text.parse_math": False}):  # names may hold dollars
        plots.use_style()
        sections = [section(m, real, synthetic, table, judged.get(m.name), seed) for m in kept]
    outcome.page.write_text(
        _template().render(
            real=real, synthetic=synthetic, outcome=outcome, overview=overview(table, kept), sections=sections
        )
    )
    return outcome


def _check_measures(measures: Sequence[Measure]) -> None:
    names = [measure.name for measure in measures]
    if not names or len(set(names)) < len(names):
        raise InputError(f"measures: found {names}, expected different ones, at least one")


def _known(real: World, measures: Sequence[Measure]) -> dict[str, dict[str, list[str]]]:
    """By measure and statistic, the groups that it will be given for."""
    classes = class_names(real.images)
    found = {m.name: {name: [ALL, *classes] for name in statistics_of(m)} for m in measures}
    for judge in (m for m in measures if isinstance(m, Consistency)):
        found[judge.name] |= groups_by_statistic(classes, real.hierarchy)
    return found


def _judged(
    real: Measured, synthetic: Sequence[Measured], measures: Sequence[Measure]
) -> dict[str, dict[str, Predictions]]:
    """By measure and set, the answers of the judges."""
    classes = class_names(real.world.images)
    return {
        m.name: {part.name: answers(m, part, classes) for part in (real, *synthetic) if m.name in part.values}
        for m in measures
        if isinstance(m, Consistency) and m.name in real.values
    }


def _write_numbers(
    out: Path,
    sets: Sequence[Measured],
    table: pd.DataFrame,
    judged: Mapping[str, Mapping[str, Predictions]],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "measurements.csv", index=False)
    images = {part.name: part.values.assign(label=part.labels) for part in sets}
    pd.concat(images, names=["set"]).to_parquet(out / "images.parquet")
    if counts := _confusions(sets[0].world.hierarchy, judged):
        tidy = pd.concat(counts, names=["measure", "set", "group"]).rename("count")
        tidy.to_csv(out / "confusion.csv")


def _confusions(
    hierarchy: Hierarchy | None, judged: Mapping[str, Mapping[str, Predictions]]
) -> dict[tuple[str, str, str], pd.Series]:
    """Counts by label and class seen, of each measure, set and coarse group."""
    if hierarchy is None:
        return {}
    return {
        (measure, name, coarse): counts.stack()
        for measure, answered in judged.items()
        for name, predictions in answered.items()
        for coarse, counts in group_confusions(predictions, hierarchy).items()
    }


def _template() -> Template:
    text = (files("synreal.book") / "synbench.jinja").read_text()
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)


def _summary(real: Measured, measures: Sequence[Measure], table: pd.DataFrame, outcome: Outcome) -> str:
    """JSON without NaN. Classes are left out; they are in measurements.csv."""
    groups = [ALL, *(real.world.hierarchy.groups if real.world.hierarchy else [])]
    columns = ["value", "ci_low", "ci_high", "n_real", "n_synthetic", "p_holm"]
    sets: dict[str, Any] = {}
    for row in _records(table[table["group"].isin(groups)]):
        statistic = row["statistic"] if row["group"] == ALL else f"{row['statistic']}/{row['group']}"
        of_measure = sets.setdefault(row["synthetic"], {}).setdefault(row["measure"], {})
        of_measure[statistic] = {column: row[column] for column in columns}
    failed = [dict(zip(("set", "measure", "reason"), f, strict=True)) for f in outcome.failures]
    content = {
        "real": real.name, "passed": outcome.passed, "checks": _records(outcome.checks),
        "failed_measures": failed, "synthetic": sets,
        "measures": {m.name: {"unit": m.unit, "fingerprint": m.fingerprint} for m in measures},
        "versions": {name: version(name) for name in PACKAGES},
    }  # fmt: skip
    return json.dumps(content, indent=1, allow_nan=False)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON knows them: null for NaN."""
    plain = table.astype(object)
    return plain.where(plain.notna(), None).to_dict("records")
