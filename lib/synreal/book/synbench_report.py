"""`synreal synbench`: measures, tables, figures and verdicts in one page."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from matplotlib.figure import Figure
from matplotlib.text import Text

from synreal.book import plots
from synreal.book.plots import PALETTE, Captioned, confusion_maps, forest, quantile_boxes, worst_cases
from synreal.book.tables import estimates, p_value
from synreal.data.hierarchy import Hierarchy
from synreal.data.imageset import class_names
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.models.predictions import Predictions
from synreal.synbench.compare import (
    ALL,
    COLUMNS,
    MAIN,
    REAL,
    Measured,
    Thresholds,
    check_known,
    check_thresholds,
    check_worlds,
    compare_all,
    compare_by_class,
    ends,
    measure_all,
    pictures,
    statistics_of,
    taken,
)
from synreal.synbench.correction import (
    CORRECTED,
    SIDES,
    Consistency,
    answers,
    disagreements,
    fine_grained,
    group_confusions,
    groups_by_statistic,
)
from synreal.synbench.measures import YES_NO, Measure

CLASS_STATISTICS = ("proportion_difference", "mean_difference", "range_ratio", CORRECTED[0])
FORM = ".3g"  # of numbers


def heading(measure: Measure) -> str:
    return f"{measure.name} ({measure.unit})"


def overview(table: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """One row per set and measure, in words: real, synthetic, difference, range, p."""
    named = {measure.name: measure for measure in measures}
    whole = table[table["group"] == ALL].set_index("statistic")
    rows = [
        {"set": name, "measure": heading(named[measure]), **_overview(own, named[measure])}
        for (name, measure), own in whole.groupby(["synthetic", "measure"], sort=False)
    ]
    return pd.DataFrame(rows)


def _overview(own: pd.DataFrame, measure: Measure) -> dict[str, str]:
    kind, main = ("proportion", MAIN[0]) if measure.unit == YES_NO else ("mean", MAIN[1])
    words = estimates(own, FORM)
    return {
        "real": f"{own.loc[f'{kind}_real', 'value']:{FORM}}",
        "synthetic": f"{own.loc[f'{kind}_synthetic', 'value']:{FORM}}",
        "difference (95 % interval)": words[f"{kind}_difference"],
        "range, times real": words.get("range_ratio", ""),
        "p (Holm)": p_value(own.loc[main, "p_holm"]),
    }


def tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By caption, the rows of one measure; of classes the main statistics alone."""
    whole, corrected = rows["group"] == ALL, rows["statistic"].isin(CORRECTED)
    classes = rows["statistic"].isin(CLASS_STATISTICS) & ~whole
    parts = {
        "Corrected for the judge's own errors, among the classes of the sets": rows[whole & corrected],
        "Every statistic": rows[whole & ~corrected],
        "Class by class": rows[classes],
        "Coarse groups": rows[~whole & ~classes & rows["statistic"].str.contains("consistency|inside")],
    }
    return {caption: _in_words(part) for caption, part in parts.items() if len(part)}


def _in_words(rows: pd.DataFrame) -> pd.DataFrame:
    shown = {
        "set": rows["synthetic"],
        "group": rows["group"],
        "statistic": rows["statistic"].str.replace("_", " "),
        "value (95 % interval)": estimates(rows, FORM),
        "p (Holm)": rows["p_holm"].map(p_value),
        "n real": rows["n_real"].map("{:,.0f}".format),
        "n synthetic": rows["n_synthetic"].map("{:,.0f}".format),
        "note": rows["note"],
    }
    frame = pd.DataFrame(shown)
    return frame.drop(columns="group") if (rows["group"] == ALL).all() else frame


# What the SynBench page shows of each measure: figures with their words, and tables.


ENDS = 5  # images at each end of a measure
GROUPS = 6  # coarse groups drawn: those that lose most
PANELS = {
    "unrestricted_consistency": "judged as labelled",
    "inside_share": "of the rest, judged\nas another class of the group",
}
DOTS_PER_INCH = 96  # of a page, in CSS


@dataclass(frozen=True)
class Picture:
    """A figure as a page embeds it."""

    png: str  # base64
    width: int  # CSS pixels
    alt: str
    caption: str

    @classmethod
    def of(cls, figure: Figure, caption: str) -> Self:
        for text in figure.findobj(lambda artist: isinstance(artist, Text) and "$" in artist.get_text()):
            text.set_wrap(False)  # type: ignore[attr-defined]  # or it is measured as a formula, even so
        stream = io.BytesIO()
        figure.savefig(stream, format="png", bbox_inches="tight")
        width = int.from_bytes(stream.getvalue()[16:20], "big") * DOTS_PER_INCH / figure.dpi
        image = base64.b64encode(stream.getvalue()).decode()
        return cls(image, round(width), str(figure.get_label()), caption)


@dataclass(frozen=True)
class Section:
    """A measure on the page. tables: by caption, of words."""

    heading: str
    pictures: list[Picture]
    tables: dict[str, pd.DataFrame]


def section(
    measure: Measure,
    real: Measured,
    synthetic: Sequence[Measured],
    table: pd.DataFrame,
    judged: Mapping[str, Predictions] | None,
    seed: int,
) -> Section:
    """table: of `all_numbers`. judged: the judge's answers by set, where the measure is a judge's."""
    sets = {REAL: real} | {part.name: part for part in synthetic}
    sets = {name: part for name, part in sets.items() if measure.name in part.values}
    rows = table[table["measure"] == measure.name]
    found = [] if measure.unit == YES_NO else _boxes(measure, sets)
    if judged:
        answered = {name: judged[part.name] for name, part in sets.items()}
        caption = "Where the judge is surest of another class: the label, the class seen, and its confidence."
        found += _coarse_groups(rows, real, answered) + _sheet(_disagreements(sets, answered), caption)
    else:
        caption = f"The lowest and the highest {measure.name} of each set, the value below each image."
        found += _sheet(ends(sets, measure.name, ENDS, seed), caption)
    return Section(heading(measure), found, tables(rows))


def _boxes(measure: Measure, sets: Mapping[str, Measured]) -> list[Picture]:
    values = {name: part.values[measure.name] for name, part in sets.items()}
    values = {name: series for name, series in values.items() if series.notna().any()}
    if REAL not in values:
        return []
    caption = "Boxes from 25 to 75 %, whiskers at 5 and 95 %; dotted: the real whiskers."
    return [Picture.of(quantile_boxes(values, xlabel=heading(measure)), caption)]


def _sheet(rows: Mapping[str, Sequence[Captioned]], caption: str) -> list[Picture]:
    return [Picture.of(worst_cases(rows), caption)] if any(rows.values()) else []


def _disagreements(
    sets: Mapping[str, Measured], answered: Mapping[str, Predictions]
) -> dict[str, list[Captioned]]:
    rows = {}
    for name, part in sets.items():
        wrong = disagreements(answered[name], 2 * ENDS)
        words = wrong["label"] + "\nseen: " + wrong["judged"] + wrong["confidence"].map("\n{:.2f}".format)
        rows[name] = list(zip(pictures(part, wrong["row"]), words, strict=True))
    return rows


def _coarse_groups(rows: pd.DataFrame, real: Measured, answered: Mapping[str, Predictions]) -> list[Picture]:
    """For each synthetic set the groups' consistency and confusion, then a pair of heat maps per group."""
    if real.world.hierarchy is None:
        return []
    confusions = {name: group_confusions(part, real.world.hierarchy) for name, part in answered.items()}
    found = []
    for name in [name for name in answered if name != REAL]:
        own = rows[(rows["synthetic"] == name) & rows["group"].isin(list(confusions[REAL]))]
        fall = own[own["statistic"] == "unrestricted_consistency_difference"].sort_values("value")
        worst = fall["group"].head(GROUPS).to_list()
        found += [_shares(own[own["group"].isin(worst)], name)] if worst else []
        for group in worst:
            maps = confusion_maps({key: confusions[key][group] for key in (REAL, name)}, title=group)
            caption = f"Who is taken for whom among {group}: shares of the images of each label."
            found.append(Picture.of(maps, caption))
    return found


def _shares(rows: pd.DataFrame, name: str) -> Picture:
    parts = [
        rows[rows["statistic"] == f"{metric}_{side}"].assign(panel=panel, set=shown, n=rows[f"n_{side}"])
        for metric, panel in PANELS.items()
        for side, shown in zip(SIDES, (REAL, name), strict=True)
    ]
    palette = {REAL: PALETTE["real"], name: PALETTE["synthetic"]}
    figure = forest(
        pd.concat(parts), group="group", hue="set", panel="panel", xlabel="share of images", palette=palette,
        reference=None,
    )  # fmt: skip
    return Picture.of(
        figure,
        f"The coarse groups of {name} that lose most, 95 % intervals; the judge answers among the classes "
        "of the sets.",
    )


# All numbers of a study in one tidy table: whole sets, classes and coarse groups.


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
    `fine_grained` a coarse group or a class. judged: by measure and set, the answers of `correction.answers`.
    """
    tables = [compare_all(real, synthetic, measures, draws, seed).assign(group=ALL)]
    for other in synthetic:
        for measure in taken(real, other, measures):
            classes = compare_by_class(real, other, measure, min(draws, CLASS_DRAWS), seed)
            parts = [classes.rename(columns={"class": "group"})]
            if answers := judged.get(measure.name):
                pair = answers[real.name], answers[other.name]
                clusters = real.world.clusters, other.world.clusters
                parts.append(fine_grained(*pair, real.world.hierarchy, clusters, draws, seed))
            tables += [part.assign(synthetic=other.name, measure=measure.name) for part in parts]
    return pd.concat(tables, ignore_index=True)[TIDY]


# SynBench as a tool: one page, its numbers as files, and a verdict for somebody's continuous integration.


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
