"""Tables and figures of the chapter 02_synbench, from what it measured."""

from collections.abc import Mapping, Sequence

import pandas as pd
from datasets import Dataset
from matplotlib.figure import Figure

from synreal.book import plots
from synreal.book.claims import paper_table
from synreal.book.plots import boxes_in_words, quantile_boxes, worst_cases
from synreal.book.synbench import images_behind
from synreal.book.tables import p_value
from synreal.data.decode import to_rgb
from synreal.data.hierarchy import Hierarchy
from synreal.data.imageset import class_names
from synreal.synbench.compare import Measured, extremes, pictures
from synreal.synbench.consistency import group_confusion
from synreal.synbench.correction import Consistency, answers
from synreal.synbench.measures import YES_NO, Measure

SHOWN = {  # statistics that say in one number whether a set falls short
    "proportion_difference": "share of images",
    "range_ratio": "width from 5 to 95 %",
}
MAIN = (
    "proportion_real", "proportion_synthetic", "proportion_difference", "mean_difference", "range_ratio",
    "low_tail_coverage", "high_tail_coverage", "ks",
)  # fmt: skip


def continuous(measures: Sequence[Measure]) -> list[str]:
    """The names of the measures that are no yes-or-no questions."""
    return [measure.name for measure in measures if measure.unit != YES_NO]


def validation_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per measure and statistic: the value, its interval and n; empty where there is no truth."""
    return table if table.empty else _readable(table.set_index(["measure", "statistic"]))


def main_table(found: pd.DataFrame) -> pd.DataFrame:
    """The statistics of one set that decide, with intervals, p after Holm, and n."""
    rows = _counted(found[found["statistic"].isin(MAIN)]).set_index(["measure", "statistic"])
    return _readable(rows).assign(**{"p, Holm": rows["p_holm"].map(p_value)})


def consistency_table(table: pd.DataFrame) -> pd.DataFrame:
    """Corrected consistency, the check of its assumption, and where wrong images end."""
    return _readable(table.set_index(["model", "metric"]))


def _counted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(n=[images_behind(row) for row in rows.to_dict("records")])


def _estimate(row: pd.Series) -> str:
    return f"{row['value']:.4f} ({row['ci_low']:.4f} to {row['ci_high']:.4f}, n = {images_behind(row):,})"


def _readable(rows: pd.DataFrame) -> pd.DataFrame:
    interval = [f"{low:.3f} to {high:.3f}" for low, high in zip(rows["ci_low"], rows["ci_high"], strict=True)]
    return pd.DataFrame(
        {
            "value": rows["value"].map("{:.3f}".format),
            "95 % interval": [text.replace("nan to nan", "none") for text in interval],
            "n": rows["n"].map("{:,.0f}".format),
        },
        index=rows.index,
    )


def shares_and_ranges(table: pd.DataFrame) -> Figure:
    """A panel for each measure, a dot for each set: the difference of shares, or the ratio of ranges."""
    rows = _counted(table[table["statistic"].isin(SHOWN)]).assign(
        panel=lambda t: t["measure"] + "\n" + t["statistic"].map(SHOWN),
        no_difference=lambda t: (t["statistic"] == "range_ratio").astype(float),
    )
    # A ratio is shown as its distance from 1: in all panels the dashed line is "as real", left of it less.
    for column in ("value", "ci_low", "ci_high"):
        rows[column] -= rows["no_difference"]
    palette = {"": plots.PALETTE["synthetic"]}
    return plots.forest(
        rows, group="synthetic", panel="panel", xlabel="less than real (left), more (right)", palette=palette
    )


def effects_alt(table: pd.DataFrame) -> str:
    """In words: which differences from real exclude 0."""
    rows = table[table["statistic"].isin(SHOWN)]
    neutral = (rows["statistic"] == "range_ratio").astype(float)
    below, above = rows[rows["ci_high"] < neutral], rows[rows["ci_low"] > neutral]
    return f"Dots with error bars. Below real: {_named(below)}. Above real: {_named(above)}."


def _named(rows: pd.DataFrame) -> str:
    return ", ".join(f"{row.measure} of {row.synthetic}" for row in rows.itertuples()) or "none"


def boxes(sets: Mapping[str, Measured], measures: Sequence[Measure], name: str) -> Figure:
    """The quantile boxes of one measure in several sets, the real one first."""
    unit = next(measure.unit for measure in measures if measure.name == name)
    return quantile_boxes(_values(sets, name), xlabel=f"{name} ({unit})")


def boxes_alt(sets: Mapping[str, Measured], name: str) -> str:
    """The same in words."""
    return f"Box plots of {name}. {boxes_in_words(_values(sets, name))}."


def _values(sets: Mapping[str, Measured], name: str) -> dict[str, pd.Series]:
    return {key: part.values[name] for key, part in sets.items()}


def confusions(
    judge: Consistency, sets: Mapping[str, Measured], hierarchy: Hierarchy
) -> dict[str, pd.DataFrame]:
    """What the judge sees in the largest coarse group, by set, for `confusion_maps` (P1 Fig. 4b)."""
    coarse = max(hierarchy.groups, key=lambda group: len(hierarchy.groups[group]))
    classes = class_names(next(iter(sets.values())).world.images)
    return {
        name: group_confusion(answers(judge, part, classes), hierarchy, coarse) for name, part in sets.items()
    }


def ends(sets: Mapping[str, Measured], name: str, seed: int, count: int = 5) -> Figure:
    """The images with the lowest and the highest values, a row for each set, the value below each."""
    rows = {}
    for key, part in sets.items():
        found = extremes(part, name, count, seed)
        rows[key] = list(zip(pictures(part, found["row"]), found["value"].map("{:.3g}".format), strict=True))
    return worst_cases(rows)


def examples(sets: Mapping[str, Dataset], count: int = 10) -> Figure:
    """The first images of each set, a row each, with their class below: no selection (P1 Fig. 10)."""
    rows = {}
    for name, images in sets.items():
        first, names = images.select(range(min(count, len(images)))), class_names(images)
        words = [names[label] for label in first["label"]]
        rows[name] = list(zip(map(to_rgb, first["image"]), words, strict=True))
    return worst_cases(rows)


def beside_paper(found: pd.DataFrame) -> pd.DataFrame:
    """What P1 prints of its section 3 beside the same quantity here."""
    rows = []
    for line in paper_table("P1", "sec3").itertuples():
        own = found[(found["measure"] == line.measure) & (found["statistic"] == line.statistic)]
        here = _estimate(own.iloc[0]) if len(own) else "not measured"
        rows.append({"share of images": line.what, "paper": f"{line.share:.4f}", "here": here})
    return pd.DataFrame(rows).set_index("share of images")
