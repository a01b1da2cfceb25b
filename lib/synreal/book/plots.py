"""One look for every figure of the book.

Colours are those of Okabe and Ito, told apart with any common colour blindness, and each source of training
data keeps its own through the whole book; markers differ too, so that print without colour still reads.
Figures are drawn on a white card. A transparent figure would need one grey that is readable on white and on
the dark theme alike, and washes out the palette on one of them; on a card every colour has the contrast it
was chosen for, and the style sheet of the book rounds the card off in dark mode.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PALETTE: dict[str, str] = {
    "real": "#0072B2",  # blue
    "synthetic": "#D55E00",  # vermilion
    "retrieved": "#009E73",  # green
    "real-tuned": "#AA4499",  # purple
    "paper": "#595959",  # grey: what a paper reports, beside what was measured
}
MARKERS: dict[str, str] = {
    "real": "o", "synthetic": "s", "retrieved": "^", "real-tuned": "D", "paper": "X",
}  # fmt: skip
FURTHER_COLOURS = ("#E69F00", "#56B4E9", "#000000")  # groups that are no source of training data
FURTHER_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 144,
    "savefig.dpi": 144,
    "figure.constrained_layout.use": True,
    "axes.grid.axis": "x",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "xtick.color": "#222222",
    "ytick.color": "#222222",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def use_style() -> None:
    """Sets the book's look for all figures drawn after it; call it once at the head of a notebook."""
    sns.set_theme(
        context="notebook", style="whitegrid", palette=list(PALETTE.values()), rc=STYLE, font_scale=0.9
    )


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: its own when the palette knows it, one that is still free otherwise.

    Raises ValueError for more names than colours that can be told apart.
    """
    spare = [colour for name, colour in PALETTE.items() if name not in names] + list(FURTHER_COLOURS)
    unknown = [name for name in dict.fromkeys(names) if name not in PALETTE]
    if len(unknown) > len(spare):
        raise ValueError(f"{len(unknown)} groups need a colour, {len(spare)} are free; split the figure")
    return {name: PALETTE[name] for name in names if name in PALETTE} | dict(
        zip(unknown, spare, strict=False)
    )


def shades(names: Sequence[str]) -> dict[str, str]:
    """Colours for model names by what they learned from: blues for "-Real-", oranges for "-Syn-"."""
    families = {"-Real-": ("#0072B2", "#56B4E9", "#004466"), "-Syn-": ("#D55E00", "#E69F00", "#7A3600")}
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        family = next((own for key, own in families.items() if key in name), FURTHER_COLOURS[::-1])
        kind = name.partition("-")[0]  # ViT and CLIP stand in panels of their own
        taken = sum(other.startswith(f"{kind}-") and found[other] in family for other in found)
        found[name] = family[taken % len(family)]
    return found


def forest(
    frame: pd.DataFrame,
    *,
    group: str,
    hue: str | None = None,
    panel: str | None = None,
    value: str = "value",
    xlabel: str = "",
    palette: Mapping[str, str] | None = None,
    reference: float | None = 0.0,
) -> Figure:
    """Dots with their intervals, one line per group, dodged and coloured by hue, n in the labels.

    frame: one row per dot with the columns `group`, `hue`, `panel`, `value`, ci_low, ci_high and n, as
    recorded; a missing interval draws no bar, a missing value no dot. Panels of the same groups stand side by
    side, four and more of them two by two; panels of different groups one below the other.
    palette: colours by hue, default `colours`. reference: place of the dashed line, None for none.
    Raises ValueError when a (panel, group, hue) triple occurs twice, since one would hide the other.
    """
    parts = [name for name in (panel, group, hue) if name]
    _check(frame, [*parts, value, "ci_low", "ci_high", "n"])
    frame = frame.assign(
        _panel=frame[panel].astype(str) if panel else "",
        _group=frame[group].astype(str),
        _hue=frame[hue].astype(str) if hue else "",
    )
    if frame.duplicated(["_panel", "_group", "_hue"]).any():
        raise ValueError(f"forest: one {' and '.join(parts)} occurs twice; select one row each")
    hues = list(frame["_hue"].unique())
    lines = {title: list(own["_group"].unique()) for title, own in frame.groupby("_panel", sort=False)}
    alike = len({frozenset(groups) for groups in lines.values()}) == 1
    crowd = int(frame.groupby("_panel")["_hue"].nunique().max())  # dots of one group, one below the other
    fig, grid = (_side_by_side if alike else _stacked)(lines, 0.16 * (1 + crowd), xlabel)
    shades = dict(palette or colours(hues))
    for axes, title in zip(grid, lines, strict=False):  # an odd panel leaves a place empty
        own = frame[frame["_panel"] == title]
        groups = list((frame if alike else own)["_group"].unique())
        _dots_of_panel(axes, own, value, groups, hues, shades)
        _finish(axes, frame if alike else own, groups, reference)
        axes.set_title(title)
    if hue:
        handles = {str(h.get_label()): h for axes in grid for h in axes.get_legend_handles_labels()[0]}
        fig.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4)
    return _closed(fig)


def _side_by_side(lines: Mapping[str, list[str]], height: float, xlabel: str) -> tuple[Figure, list[Axes]]:
    """Axes for panels of the same lines, each `height` inches high."""
    columns = len(lines) if len(lines) < 4 else 2
    rows = -(-len(lines) // columns)
    size = (7.5 if columns == 1 else 4.2 * columns, rows * (0.9 + height * len(next(iter(lines.values())))))
    fig, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axes in grid.flat[: len(lines)]:
        axes.set_xlabel(xlabel)
    for axes in grid.flat[len(lines) :]:
        axes.set_axis_off()
    return fig, list(grid.flat)


def _stacked(lines: Mapping[str, list[str]], height: float, xlabel: str) -> tuple[Figure, list[Axes]]:
    """Axes for panels of different lines, each `height` inches high."""
    heights = [height * len(groups) for groups in lines.values()]
    size = (7.5, 0.9 + sum(heights) + 0.4 * len(lines))
    fig, grid = plt.subplots(len(lines), 1, figsize=size, height_ratios=heights, sharex=True)
    grid[-1].set_xlabel(xlabel)
    return fig, list(grid)


def _closed(fig: Figure) -> Figure:
    """The figure out of pyplot's hands, or Jupyter would show it a second time, without alt text."""
    plt.close(fig)
    return fig


def _check(frame: pd.DataFrame, columns: list[str]) -> None:
    missing = [column for column in columns if column not in frame]
    if missing or frame.empty:
        raise ValueError(
            f"the plot needs rows with the columns {columns}; missing: {missing}, rows: {len(frame)}"
        )


def _dots_of_panel(
    axes: Axes, rows: pd.DataFrame, value: str, groups: list[str], hues: list[str], shades: dict[str, str]
) -> None:
    shown = [name for name in hues if name in set(rows["_hue"])]
    for place, name in enumerate(shown):
        own = rows[rows["_hue"] == name]
        shift = (place - (len(shown) - 1) / 2) * 0.7 / len(shown)
        heights = np.array([groups.index(group) + shift for group in own["_group"]])
        marker = MARKERS.get(name, FURTHER_MARKERS[hues.index(name) % len(FURTHER_MARKERS)])
        _dots(axes, own, value, heights, {"label": name, "fmt": marker, "color": shades[name]})


def _dots(axes: Axes, rows: pd.DataFrame, value: str, heights: np.ndarray, look: dict[str, Any]) -> None:
    centre = rows[value].to_numpy(float)
    bars = np.array([centre - rows["ci_low"].to_numpy(float), rows["ci_high"].to_numpy(float) - centre])
    lengths = np.clip(np.nan_to_num(bars), 0, None)
    axes.errorbar(centre, heights, xerr=lengths, markersize=5, capsize=2.5, elinewidth=1.4, **look)


def _finish(axes: Axes, frame: pd.DataFrame, groups: list[str], reference: float | None) -> None:
    counts = frame.groupby("_group")["n"].agg(["min", "max"])
    axes.set_yticks(
        range(len(groups)), [f"{g.replace('_', ' ')}  (n = {_span(counts.loc[g])})" for g in groups]
    )
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if reference is not None:
        axes.axvline(
            reference, color="#222222", linewidth=1, linestyle="--", zorder=1.5
        )  # above the grid, below the dots
    sns.despine(ax=axes, left=True)


def _span(counts: pd.Series) -> str:
    low, high = int(counts["min"]), int(counts["max"])
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def distributions(
    frame: pd.DataFrame, *, x: str, hue: str | None = None, bins: int = 40, title: str = "", xlabel: str = ""
) -> Figure:
    """Histograms as shares of each hue's own total, stepped outlines, n in the legend.

    Shares, so that image sets of different size lie over one another; a count per bin of c has a standard
    error of about sqrt(c), drawn as a band.
    """
    _check(frame, [x, *([hue] if hue else [])])
    series = frame[hue].astype(str) if hue else pd.Series("all", index=frame.index)
    palette = colours(list(series.unique()))
    edges = np.histogram_bin_edges(frame[x].to_numpy(float), bins=bins)
    fig, axes = plt.subplots(figsize=(7, 3))
    for name, rows in frame.groupby(series, sort=False):
        counts = np.histogram(rows[x].to_numpy(float), bins=edges)[0]
        share, error = counts / len(rows), np.sqrt(counts) / len(rows)
        axes.stairs(share, edges, color=palette[name], label=f"{name} (n = {len(rows):,})", linewidth=1.8)
        axes.stairs(share + error, edges, baseline=share - error, color=palette[name], alpha=0.25, fill=True)
    axes.set(xlabel=xlabel or x, ylabel="share of images", title=title)
    axes.legend()
    sns.despine(fig)
    return _closed(fig)


def image_sheet(
    images: Sequence[Any],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 10,
    title: str = "",
    inches: float = 0.85,
) -> Figure:
    """A contact sheet, row by row, each image with its own title.

    images: PIL images or uint8 arrays [H, W, 3]; pixels are enlarged without smoothing, so that 32x32 stays
    honest. Raises ValueError when titles and images differ in number or there is no image.
    """
    if not len(images) or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"image_sheet: {len(images)} images and {len(titles or [])} titles; one title each")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = inches * (1.25 if titles is not None else 1.05) * rows + (0.3 if title else 0)
    fig, grid = plt.subplots(rows, columns, figsize=(inches * columns, height), squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if place < len(images):
            axes.imshow(np.asarray(images[place]), interpolation="nearest")
            axes.set_title(titles[place] if titles is not None else "", fontsize=7, loc="center", pad=2)
    fig.suptitle(title, fontsize=11)
    return _closed(fig)
