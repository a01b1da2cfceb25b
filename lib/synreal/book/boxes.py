"""Distributions of several image sets side by side, as P1's Figure 5 draws them."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from synreal.book.plots import PALETTE

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def quantile_boxes(values: Mapping[str, pd.Series], *, xlabel: str, title: str = "") -> Figure:
    """A box from the 25 % to the 75 % quantile of each set, its median, and whiskers at 5 % and 95 %.

    values: by name of the set, the real one first; NaN are left out, and n in the label counts the rest.
    Dotted lines carry the real whiskers through the figure. Raises ValueError when a set has no value.
    """
    shown = {name: series.dropna() for name, series in values.items()}
    if empty := [name for name, series in shown.items() if series.empty]:
        raise ValueError(f"quantile_boxes: no value in {empty}; leave these sets out")
    stats = [_box(name, series) for name, series in shown.items()]
    fig, axes = plt.subplots(figsize=(7.5, 0.9 + 0.45 * len(stats)))
    drawn = axes.bxp(stats, orientation="horizontal", showfliers=False, patch_artist=True, widths=0.6)
    for place, (patch, median) in enumerate(zip(drawn["boxes"], drawn["medians"], strict=True)):
        patch.set(facecolor=PALETTE["synthetic" if place else "real"], alpha=0.75)
        median.set(color="#222222", linewidth=2)
    for edge in ("whislo", "whishi"):
        axes.axvline(stats[0][edge], color=PALETTE["real"], linestyle=":", linewidth=1, zorder=0)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel, title=title)
    sns.despine(ax=axes, left=True)
    plt.close(fig)  # or Jupyter would show it a second time, without alt text
    return fig


def boxes_in_words(values: Mapping[str, pd.Series]) -> str:
    """The same for readers who cannot see it: median and whiskers of each set."""
    found = {name: np.quantile(series.dropna(), QUANTILES) for name, series in values.items()}
    return "; ".join(f"{name}: median {q[2]:.3g}, from {q[0]:.3g} to {q[4]:.3g}" for name, q in found.items())


def _box(name: str, series: pd.Series) -> dict[str, Any]:
    low, q1, median, q3, high = np.quantile(series, QUANTILES)
    label = f"{name} (n = {len(series):,})"
    return {"label": label, "whislo": low, "q1": q1, "med": median, "q3": q3, "whishi": high}
