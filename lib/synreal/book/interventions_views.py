"""Figures and tables of the chapter 03b_interventions, from what it measured."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from synreal.book import plots
from synreal.book.tables import p_value
from synreal.evaluate.planner import SHARES, MixLaw, Plan, Prices, affordable
from synreal.evaluate.scaling_laws import Curve
from synreal.evaluate.slices import MATCHING
from synreal.generate.rerender import Defects
from synreal.train.interventions import dosed_arrays

LINES = {  # stage and probe: label, colour, marker
    ("", "counterpart"): ("its counterpart", plots.PALETTE["paper"], "X"),
    ("", "matching"): ("what it should hurt", plots.PALETTE["synthetic"], "s"),
    (" (RealTune)", "matching"): ("the same, RealTuned", plots.PALETTE["real-tuned"], "D"),
}


def dosed_scenes(grid: Sequence[Defects], count: int = 10) -> Figure:
    """The first training scenes without a defect and with each of the grid, a row each."""
    rows = [dosed_arrays(defects, count)[0] for defects in grid]
    titles = [d.describe() if at == 0 else "" for d in grid for at in range(count)]
    return plots.image_sheet([image for row in rows for image in row], titles, columns=count)


def dose_response(table: pd.DataFrame) -> Figure:
    """Accuracy against dose, a panel for each defect, with 95 % intervals over seeds and photographs."""
    names = list(table["defect"].unique())
    fig, grid = plt.subplots(-(-len(names) // 2), 2, figsize=(9, 2.9 * -(-len(names) // 2)), squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        rows = table[table["defect"] == name]
        for key, (label, colour, marker) in LINES.items():
            _line(axes, rows[(rows["stage"] == key[0]) & (rows["probe"] == key[1])], label, colour, marker)
        axes.set(title=f"{name}: {MATCHING[name]}", xlabel="dose", ylabel="accuracy")
        axes.set_xticks(sorted(rows["dose"].unique()))
    fig.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return _closed(fig)


def _line(axes: Axes, rows: pd.DataFrame, label: str, colour: str, marker: str) -> None:
    bars = np.nan_to_num([rows["level"] - rows["level_low"], rows["level_high"] - rows["level"]])
    n = int(rows["n"].iloc[0])
    axes.errorbar(
        rows["dose"], rows["level"], yerr=bars.clip(0), label=label, color=colour, marker=marker, capsize=3
    )
    axes.annotate(
        f"n = {n:,}", (rows["dose"].iloc[-1], rows["level"].iloc[-1]), (5, 0), color=colour, fontsize=7,
        textcoords="offset points", annotation_clip=False,
    )  # fmt: skip


def dose_alt(verdicts: pd.DataFrame) -> str:
    """The same in words."""
    parts = [f"{name}: {row['change']} on {row['matching']}" for name, row in verdicts.iterrows()]
    return f"Lines of accuracy against dose. At the largest dose, {'; '.join(parts)}."


def verdict_table(found: pd.DataFrame) -> Styler:
    """The verdicts of `dial_verdicts`, a column for each defect."""
    shown = found.assign(**{"p, Holm": found["p, Holm"].map(p_value)})
    return _wrapped(shown[["verdict", *(name for name in shown if name != "verdict")]].T)


def cross_figure(table: pd.DataFrame) -> Figure:
    """A square for each defect and matching probe with the change of accuracy; stars where p < 0.05, Holm."""
    order = [name for name in MATCHING if name in set(table["defect"])]
    square = table.pivot(index="defect", columns="probe").loc[order]
    values, p = (square[column][list(MATCHING.values())] for column in ("value", "p_holm"))
    words = values.map("{:+.3f}".format) + (p < 0.05).map({True: "*", False: ""}.get)
    limit = float(np.abs(values.to_numpy()).max()) or 1.0
    fig, axes = plt.subplots(figsize=(8, 0.9 + 0.55 * len(order)))
    sns.heatmap(values, annot=words, fmt="", cmap="RdBu", vmin=-limit, vmax=limit, cbar=False, ax=axes)
    axes.set(xlabel="accuracy on", ylabel="defect of the training data")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.set_xticklabels([text.get_text().replace(" or ", "\nor ") for text in axes.get_xticklabels()])
    return _closed(fig)


def size_curves(
    tables: Mapping[str, pd.DataFrame], curves: Mapping[str, tuple[Curve, Curve]], n: Mapping[str, int]
) -> Figure:
    """Accuracy against training images of either kind, a panel for each probe, with the laws and bands."""
    fig, grid = plt.subplots(-(-len(tables) // 3), 3, figsize=(11, 3 * -(-len(tables) // 3)), squeeze=False)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    for axes, (name, table) in zip(grid.flat, tables.items(), strict=False):
        for source, curve in zip(("real", "synthetic"), curves[name], strict=True):
            _curve(axes, table, source, curve)
        axes.set(title=f"{name} (n = {n[name]:,})", xscale="log", xlabel="training images", ylabel="accuracy")
        sizes = sorted({*table["n_real"], *table["n_syn"]} - {0})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axes.minorticks_off()
    fig.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return _closed(fig)


def _curve(axes: Axes, table: pd.DataFrame, source: str, curve: Curve) -> None:
    own, other = ("n_real", "n_syn") if source == "real" else ("n_syn", "n_real")
    rows, colour = table[table[other] == 0], plots.PALETTE[source]
    sizes = np.geomspace(curve.smallest, curve.largest, 60)
    low, high = curve.band(sizes)
    axes.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(sizes, curve.accuracy(sizes), color=colour)
    axes.plot(rows[own], rows["accuracy"], plots.MARKERS[source], color=colour, markersize=4, label=source)


def rates_table(rates: Mapping[str, pd.DataFrame]) -> Styler:
    """How many synthetic images stand for one real one, by probe and number of real images, in words."""
    rows = {name: table.set_index("real_images")["verdict"] for name, table in rates.items()}
    return _wrapped(pd.DataFrame(rows).rename_axis("real images"))


def _wrapped(table: pd.DataFrame) -> Styler:
    """A table of words: its cells wrap, where those of numbers stay on one line."""
    return table.style.set_table_attributes('class="dataframe words"')


def plan_figure(law: MixLaw, prices: Prices, budget: float) -> Figure:
    """Accuracy by the law against the share of the budget that goes to real labels, with its band."""
    accuracy = law.accuracy(*affordable(law, prices, budget))
    low, high = np.nanquantile(accuracy[1:], [0.025, 0.975], axis=0)
    fig, axes = plt.subplots(figsize=(7, 3))
    axes.fill_between(SHARES, low, high, color=plots.PALETTE["real-tuned"], alpha=0.2, linewidth=0)
    axes.plot(SHARES, accuracy[0], color=plots.PALETTE["real-tuned"])
    axes.set(xlabel="share of the budget spent on real labels", ylabel="accuracy")
    return _closed(fig)


def plan_table(plan: Plan) -> pd.DataFrame:
    """The plan in words, a row for each of its numbers."""
    rows = {
        "real labels": f"{plan.real:,} ({plan.real_interval[0]:,} to {plan.real_interval[1]:,})",
        "synthetic images": (
            f"{plan.synthetic:,} ({plan.synthetic_interval[0]:,} to {plan.synthetic_interval[1]:,})"
        ),
        "cost": f"{plan.cost:,.2f}",
        "accuracy": _estimate(plan.accuracy),
        **{f"gain over {name}": _estimate(gain) for name, gain in plan.gains.items()},
        "bootstrap draws that choose": ", ".join(f"{k} {v:.0%}" for k, v in plan.choices.items()),
    }
    return pd.Series(rows, name="plan").to_frame()


def _estimate(parts: tuple[float, float, float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*parts)


def _closed(fig: Figure) -> Figure:
    plt.close(fig)
    return fig
