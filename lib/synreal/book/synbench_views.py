"""Tables and figures of the chapter 02_synbench, from what it measured."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from synreal.book import plots
from synreal.book.boxes import QUANTILES, quantile_boxes
from synreal.book.papers import paper_table
from synreal.data.hierarchy import Hierarchy
from synreal.synbench.consistency import group_confusion
from synreal.synbench.extremes import extremes, pictures
from synreal.synbench.judged import Consistency
from synreal.synbench.measure import YES_NO, Measure
from synreal.synbench.study import Measured

SHOWN = {  # statistics that say in one number whether a set falls short
    "proportion_difference": "share, minus real",
    "range_ratio": "range, over real",
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
    rows = found[found["statistic"].isin(MAIN)].set_index(["measure", "statistic"])
    shown = _readable(rows.assign(n=rows[["n_real", "n_synthetic"]].min(axis=1)))
    return shown.assign(**{"p, Holm": ["" if pd.isna(p) else f"{p:.4f}" for p in rows["p_holm"]]})


def consistency_table(table: pd.DataFrame) -> pd.DataFrame:
    """Corrected consistency, the check of its assumption, and where wrong images end."""
    return _readable(table.set_index(["model", "metric"]))


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
    rows = table[table["statistic"].isin(SHOWN)].assign(
        n=lambda t: t[["n_real", "n_synthetic"]].min(axis=1),
        panel=lambda t: t["measure"] + "\n" + t["statistic"].map(SHOWN),
        no_difference=lambda t: (t["statistic"] == "range_ratio").astype(float),
    )
    # Ratios are shown as their distance from 1, so that one dashed line means "as real" in every panel.
    for column in ("value", "ci_low", "ci_high"):
        rows[column] -= rows["no_difference"]
    palette = {"": plots.PALETTE["synthetic"]}
    return plots.forest(rows, group="synthetic", panel="panel", xlabel="as real at 0", palette=palette)


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
    return quantile_boxes({key: part.values[name] for key, part in sets.items()}, xlabel=f"{name} ({unit})")


def boxes_alt(sets: Mapping[str, Measured], name: str) -> str:
    """The same in words: median and whiskers of each set."""
    parts = []
    for key, part in sets.items():
        low, _, median, _, high = np.nanquantile(part.values[name], QUANTILES)
        parts.append(f"{key}: median {median:.3g}, from {low:.3g} to {high:.3g}")
    return f"Box plots of {name}. " + "; ".join(parts) + "."


def confusions(judge: Consistency, sets: Mapping[str, Measured], hierarchy: Hierarchy) -> Figure:
    """The judge's answers inside the largest coarse group, a grid for each set (P1 Fig. 4b)."""
    coarse = max(hierarchy.groups, key=lambda group: len(hierarchy.groups[group]))
    fig, grid = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.6), sharey=True, squeeze=False)
    for axes, (name, part) in zip(grid.flat, sets.items(), strict=True):
        counts = group_confusion(judge.predictions(part.world), hierarchy, coarse)
        shares = counts.div(counts.sum(axis=1), axis=0)
        sns.heatmap(shares, annot=True, fmt=".2f", cmap="Blues", vmin=0, vmax=1, cbar=False, ax=axes)
        axes.set(
            title=f"{name}, n = {int(counts.to_numpy().sum()):,}", xlabel="the judge sees", ylabel="label"
        )
    plt.close(fig)
    return fig


def ends(sets: Mapping[str, Measured], name: str, seed: int, count: int = 6) -> Figure:
    """The images with the lowest and the highest values, a row for each set, values above."""
    shown, titles = [], []
    for part in sets.values():
        rows = extremes(part, name, count, seed)
        shown += pictures(part, rows["row"])
        titles += [f"{value:.3g}" for value in rows["value"]]
    return plots.image_sheet(shown, titles, columns=2 * count)


def beside_paper(found: pd.DataFrame) -> pd.DataFrame:
    """What P1 prints of its section 3 beside the same quantity here."""
    rows = []
    for line in paper_table("P1", "sec3").itertuples():
        own = found[(found["measure"] == line.measure) & (found["statistic"] == line.statistic)]
        here = f"{own['value'].iloc[0]:.3f}" if len(own) else "not measured"
        rows.append({"share of images": line.what, "paper": f"{line.share:.4f}", "here": here})
    return pd.DataFrame(rows).set_index("share of images")
