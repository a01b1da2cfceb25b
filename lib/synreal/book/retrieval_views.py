"""Tables and figures of the chapter 04_retrieval, from what it measured."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synreal.book import plots
from synreal.book.claims import paper_table
from synreal.book.plots import Captioned, worst_cases
from synreal.book.tables import p_value
from synreal.data.decode import to_rgb
from synreal.data.imageset import class_names
from synreal.evaluate.repeated import Accuracies

CURVES = ("retrieved", "synthetic")


def curves(found: Accuracies, reading: str) -> Figure:
    """Accuracy against the number of images, a panel for each task (P2 Fig. 2).

    Dots and bars: mean and one standard deviation over seeds, as P2 has it; bands: the 95 % interval of the
    mean. Dashed: the model without adaptation. Shaded: more synthetic images than were retrieved.
    """
    tasks = found.tasks
    columns = min(2, len(tasks))
    lines = -(-len(tasks) // columns)
    fig, panels = plt.subplots(lines, columns, figsize=(3.6 * columns, 2.9 * lines + 0.4), squeeze=False)
    for axes in panels.flat[len(tasks) :]:
        axes.remove()
    for axes, task in zip(panels.flat, tasks, strict=False):
        rows = found.table[(found.table["task"] == task) & (found.table["reading"] == reading)]
        for source in (*CURVES, "mixture"):
            _curve(axes, rows[rows["source"] == source], source)
        _guides(axes, rows, found)
        axes.set_xscale("log")
        _ticks(axes, rows)
        axes.set(title=f"{task}\nn = {found.n(task):,}", xlabel="training images")
    for line in panels:
        line[0].set_ylabel(f"{reading} accuracy")
    handles, names = panels[0][0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=4)
    sns.despine(fig)
    plt.close(fig)
    return fig


def _curve(axes: Axes, rows: pd.DataFrame, source: str) -> None:
    if rows.empty:
        return
    rows = rows.sort_values("budget")
    colour = {"mixture": plots.FURTHER_COLOURS[0]}.get(source) or plots.PALETTE[source]
    marker = plots.MARKERS.get(source, "D")
    axes.errorbar(
        rows["budget"],
        rows["value"],
        yerr=rows["sd"].fillna(0),
        color=colour,
        marker=marker,
        label=source,
        capsize=2.5,
    )
    axes.fill_between(rows["budget"], rows["ci_low"], rows["ci_high"], color=colour, alpha=0.15, linewidth=0)


def _ticks(axes: Axes, rows: pd.DataFrame) -> None:
    """The numbers of images that were measured, and no others."""
    budgets = sorted(set(rows["budget"]) - {0})
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets], fontsize=8)
    axes.minorticks_off()


def _guides(axes: Axes, rows: pd.DataFrame, found: Accuracies) -> None:
    task = rows["task"].iloc[0]
    base = rows.loc[rows["source"] == "unadapted", "value"]
    if len(base):
        axes.axhline(
            base.iloc[0], color=plots.PALETTE["paper"], linestyle="--", linewidth=1.2, label="not adapted"
        )
    last, most = found.budgets(task, "retrieved")[-1], found.budgets(task, "synthetic")[-1]
    if most > last:
        axes.axvspan(last * 1.15, most * 1.15, color="#000000", alpha=0.07, linewidth=0)


def curves_alt(found: Accuracies, reading: str) -> str:
    """The same in words, at the largest number that both have."""
    parts = []
    for task in found.tasks:
        budget = found.shared_budgets(task)[-1]
        real, drawn = (float(found.means[task, reading, source, budget]) for source in CURVES)
        base = float(found.means[task, reading, "unadapted", 0])
        parts.append(
            f"{task}, {budget} images: retrieved {real:.3f}, synthetic {drawn:.3f}, not adapted {base:.3f}"
        )
    return f"Curves of {reading} accuracy against training images. {'; '.join(parts)}."


def sensitivity(curves: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """Share of each source that decontamination would refuse, by its threshold; dashed, the one taken."""
    figure, axes = plt.subplots(figsize=(5.5, 2.6), layout="constrained")
    for source, rows in curves.items():
        colour, marker = plots.PALETTE[source], plots.MARKERS[source]
        axes.plot(rows["threshold"], rows["share"], color=colour, marker=marker, markersize=3, label=source)
    axes.axvline(threshold, color=plots.PALETTE["paper"], linestyle="--", linewidth=1.2)
    axes.set(xlabel="cosine from which an image is refused", ylabel="share refused")
    axes.legend()
    return figure


def sensitivity_alt(curves: Mapping[str, pd.DataFrame]) -> str:
    """The same in words, at some thresholds."""
    told = [
        f"{source} {row.share:.1%} at {row.threshold:g}"
        for source, rows in curves.items()
        for row in rows[rows["threshold"].isin([0.9, 0.95, 0.975])].itertuples()
    ]
    return f"Curves that fall as the threshold rises: {'; '.join(told)}."


def accuracy_table(found: Accuracies, reading: str) -> pd.DataFrame:
    """A row per task and number of images, a column per source: mean, standard deviation over seeds."""
    rows = found.table[found.table["reading"] == reading].copy()
    sd = rows["sd"].map(lambda sd: "" if pd.isna(sd) else f" ± {sd:.3f}")
    rows["text"] = rows["value"].map("{:.3f}".format) + sd
    table = rows.pivot(index=["task", "budget"], columns="source", values="text").fillna("")
    wanted = ["unadapted", "retrieved", "synthetic", "mixture"]
    return table[[source for source in wanted if source in table]].loc[found.tasks]


def advantages(table: pd.DataFrame) -> Figure:
    """Retrieved minus synthetic of as many images, a panel for each reading."""
    rows = table.assign(group=table["task"] + ", " + table["budget"].astype(str))
    palette = {"": plots.PALETTE["retrieved"]}
    return plots.forest(
        rows, group="group", panel="reading", xlabel="accuracy, retrieved minus synthetic", palette=palette
    )


def effects_alt(table: pd.DataFrame, what: str) -> str:
    """How many intervals are above, below, and across 0."""
    return f"Dots with error bars: {what}; {_signs(table)}."


def effect_table(table: pd.DataFrame, index: Sequence[str]) -> pd.DataFrame:
    """Differences with intervals, and p after Holm where there is one, by the columns `index`."""
    bounds = zip(table["ci_low"], table["ci_high"], strict=True)
    shown = {
        "difference": table["value"].map("{:+.3f}".format),
        "95 % interval": [f"{low:+.3f} to {high:+.3f}" for low, high in bounds],
    }
    if "p_holm" in table:
        shown["p, Holm"] = table["p_holm"].map(p_value)
    return table[list(index)].assign(**shown).set_index(list(index))


def side_by_side(sets: Mapping[str, Dataset], names: Sequence[str], seed: int, count: int = 4) -> Figure:
    """For each class, images of each set in a row: real, retrieved and synthetic (P2 Fig. 3)."""
    rng, rows = np.random.default_rng(seed), {}
    for name in names:
        row: list[Captioned] = []
        for source, images in sets.items():
            labels = np.asarray(images.with_format("numpy")["label"][:])
            own = np.flatnonzero(labels == class_names(images).index(name))
            chosen = rng.permutation(own)[:count]
            row += [(to_rgb(image), source) for image in images.select(chosen)["image"]]
        rows[name] = row
    return worst_cases(rows)


def strengths_sheet(sets: Mapping[float, Dataset], rows: Sequence[int]) -> Figure:
    """The same images at each strength, a row for each image (P2 Fig. 4)."""
    first = next(iter(sets.values()))
    pictures = {strength: images.select(rows)["image"] for strength, images in sets.items()}
    names = [class_names(first)[label] for label in first.select(rows)["label"]]
    lines = {
        f"{name} {place + 1}": [
            (to_rgb(shown[place]), f"{strength:g}" if strength else "real")
            for strength, shown in pictures.items()
        ]
        for place, name in enumerate(names)
    }
    return worst_cases(lines)


def costs(table: pd.DataFrame) -> Figure:
    """Accuracy lost by training on perturbed images, against the strength, fine-grained and broad."""
    fig, axes = plt.subplots(figsize=(6, 3.2))
    styles = {"fine": ("#000000", "o"), "broad": (plots.FURTHER_COLOURS[1], "s")}
    for detail, (colour, marker) in styles.items():
        rows = table[(table["detail"] == detail) & (table["strength"] > 0)]
        bars = [rows["cost"] - rows["ci_low"], rows["ci_high"] - rows["cost"]]
        label = f"{detail} (n = {rows['n'].iloc[0]:,})"
        axes.errorbar(
            rows["strength"], rows["cost"], yerr=bars, color=colour, marker=marker, label=label, capsize=2.5
        )
    axes.axhline(0, color="#222222", linewidth=1, linestyle="--")
    axes.set(xlabel="strength of the perturbation", ylabel="accuracy lost", xticks=rows["strength"])
    fig.legend(loc="outside upper center", ncols=2)
    sns.despine(fig)
    plt.close(fig)
    return fig


def costs_alt(table: pd.DataFrame) -> str:
    """The same in words."""
    rows = table[(table["strength"] > 0) & (table["detail"] != "fine minus broad")]
    told = [f"{row.detail} at {row.strength:g}: {row.cost:+.3f}" for row in rows.itertuples()]
    return f"Two curves of accuracy lost against strength. {'; '.join(told)}."


def beside_paper(
    advantages: pd.DataFrame, beyond: pd.DataFrame, improvements: pd.DataFrame, costs: pd.DataFrame
) -> pd.DataFrame:
    """What P2 says of its figures, in words since its text prints no values, beside the same here."""
    own = improvements[improvements["source"] == "synthetic"]
    strong = costs[(costs["detail"] == "fine minus broad") & (costs["strength"] >= 0.6)]
    measured = ["retrieved minus synthetic"] * 2 + [
        "synthetic minus not adapted",
        "fine loss minus broad loss",
    ]
    here = [_signs(table) for table in (advantages, beyond, own, strong)]
    lines = pd.concat([paper_table("P2", "fig2"), paper_table("P2", "fig4")]).set_index("finding")
    return lines.assign(measured=measured, here=here)


def _signs(table: pd.DataFrame) -> str:
    if table.empty:
        return "not measured"
    above, below = int((table["ci_low"] > 0).sum()), int((table["ci_high"] < 0).sum())
    return f"of {len(table)} intervals {above} above 0, {below} below"
