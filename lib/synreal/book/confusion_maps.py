"""Who is taken for whom inside a coarse group, in several sets side by side (P1 Fig. 4b)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

ANNOTATED = 12  # classes; the numbers of larger groups would not be readable


def confusion_maps(counts: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """A heat map for each set: of the images of each label (rows), the share that is taken for each class.

    counts: `consistency.group_confusion` by name of the set, the real one first. n counts a label's images.
    """
    size = max(len(table.columns) for table in counts.values())
    side = 1.2 + 0.42 * size
    fig, grid = plt.subplots(1, len(counts), figsize=(side * len(counts) + 1, side), squeeze=False)
    for axes, (name, table) in zip(grid.flat, counts.items(), strict=True):
        n = table.sum(axis=1)
        shares = table.div(n, axis=0).set_axis([f"{label} (n = {n[label]:,})" for label in table.index])
        sns.heatmap(
            shares, annot=size <= ANNOTATED, fmt=".2f", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
            linewidths=0.5, annot_kws={"fontsize": 7}, ax=axes,
        )  # fmt: skip
        axes.set(title=name, xlabel="the judge sees", ylabel="")
        axes.tick_params(axis="x", rotation=45)
    fig.suptitle(title, fontsize=11)
    plt.close(fig)  # or Jupyter would show it a second time, without alt text
    return fig


def confusions_in_words(counts: Mapping[str, pd.DataFrame]) -> str:
    """The same for readers who cannot see it: those taken for their label, and the largest confusion."""
    return "; ".join(f"{name}: {_in_words(table)}" for name, table in counts.items())


def _in_words(table: pd.DataFrame) -> str:
    if not (total := int(table.to_numpy().sum())):
        return "no image"
    inside = table.drop(columns="elsewhere")
    own = sum(int(inside.loc[label, label]) for label in inside.index)
    shares = inside.div(table.sum(axis=1), axis=0)
    others = {(a, b): shares.loc[a, b] for a in inside.index for b in inside.columns if a != b}
    label, judged = max(others, key=lambda pair: (others[pair] == others[pair], others[pair]))
    return (
        f"{own / total:.0%} of {total:,} taken for their label, most often {label} for {judged} "
        f"({others[label, judged]:.0%})"
    )
