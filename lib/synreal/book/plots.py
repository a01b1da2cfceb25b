"""Figures of the book: one palette, error bars always, alt text in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# One look for every figure of the book.
#
# Colours are those of Okabe and Ito, told apart with any common colour blindness, and each source of training
# data keeps its own through the whole book; markers differ too, so that print without colour still reads.
# Figures are drawn on a white card. A transparent figure would need one grey that is readable on white and on
# the dark theme alike, and washes out the palette on one of them; on a card every colour has the contrast it
# was chosen for, and the style sheet of the book rounds the card off in dark mode.
#
# Every function says in the label of its figure what the figure shows, for readers who cannot see it.


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
    return _closed(fig, dots_in_words(frame.assign(value=frame[value]), parts, reference))


def dots_in_words(frame: pd.DataFrame, parts: Sequence[str], reference: float | None = 0.0) -> str:
    """Dots with intervals for readers who cannot see them: the extremes, and what excludes the reference.

    frame: the columns `parts`, which name a dot, value, ci_low and ci_high.
    """
    known = frame.dropna(subset=["value"]).reset_index(drop=True)
    if known.empty:
        return "Dots with error bars; no value is known."
    ends = [known.loc[known["value"].idxmin()], known.loc[known["value"].idxmax()]]
    low, high = (f"{', '.join(str(row[part]) for part in parts)} at {row['value']:.3f}" for row in ends)
    text = f"{len(known)} dots with error bars. The lowest is {low}, the highest {high}".replace("_", " ")
    if reference is None:
        return f"{text}."
    above, below = (known["ci_low"] > reference).sum(), (known["ci_high"] < reference).sum()
    return f"{text}; {above} intervals lie above {reference:g} and {below} below."


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


def _closed(fig: Figure, alt: str) -> Figure:
    """The figure with its alt text, out of pyplot's hands, or Jupyter would show it a second time without."""
    fig.set_label(alt)
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
    spans = frame.groupby(series, sort=False)[x].quantile([0.05, 0.5, 0.95]).unstack()
    words = [f"{name}: median {q[1]:.3g}, from {q[0]:.3g} to {q[2]:.3g}" for name, *q in spans.itertuples()]
    return _closed(fig, f"Histograms of {xlabel or x}. {'; '.join(words)} (5 % and 95 % quantiles).")


def curves(
    frame: pd.DataFrame, *, x: str, hue: str, panel: str | None = None, xlabel: str = "", ylabel: str = "",
    log: bool = False, reference: float | Mapping[str, float] | None = None,
    palette: Mapping[str, str] | None = None, points: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """A line with its interval as a band for each hue, over x; panels in rows of two or three.

    frame: the columns x, `hue`, `panel`, value, ci_low, ci_high. log: a logarithmic x axis. reference: height
    of the dashed line, or one for each panel. palette: colours by hue, default `colours`. points: single
    measurements, with the same columns but for the interval, where the lines are laws fitted to them; the
    markers are then theirs.
    """
    _check(frame, [x, hue, *([panel] if panel else []), "value", "ci_low", "ci_high"])
    titles = list(frame[panel].unique()) if panel else [""]
    shades = dict(palette or colours([str(name) for name in frame[hue].unique()]))
    columns = 2 if len(titles) == 4 else min(len(titles), 3)
    rows = -(-len(titles) // columns)
    size = (4.2 * columns if panel else 7.0, 3.4 * rows)
    fig, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axes in grid.flat[len(titles) :]:
        axes.set_axis_off()
    for axes, title in zip(grid.flat, titles, strict=False):
        own = frame[frame[panel] == title] if panel else frame
        for place, (name, line) in enumerate(own.sort_values(x).groupby(hue, sort=False)):
            colour, label = shades[str(name)], str(name)
            marker = MARKERS.get(label, FURTHER_MARKERS[place % len(FURTHER_MARKERS)])
            look = {"marker": marker, "color": colour, "markersize": 5 if points is None else 4}
            axes.fill_between(line[x], line["ci_low"], line["ci_high"], color=colour, alpha=0.2, linewidth=0)
            if len(line) == 1:  # a band needs two
                axes.vlines(line[x], line["ci_low"], line["ci_high"], color=colour)
            if points is None:
                axes.plot(line[x], line["value"], label=label, **look)
                continue
            axes.plot(line[x], line["value"], label=label, color=colour)
            dots = points[(points[hue] == name) & (points[panel] == title if panel else True)]
            axes.plot(dots[x], dots["value"], linestyle="", **look)
        height = reference.get(title) if isinstance(reference, Mapping) else reference
        if height is not None:
            axes.axhline(height, color="#222222", linewidth=1, linestyle="--")
        axes.set(title=title, xlabel=xlabel or x, xscale="log" if log else "linear")
        ticks = sorted(set((own if points is None else points)[x]))
        if log and len(ticks) < 9:  # where something was measured
            axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], fontsize=8)
            axes.minorticks_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    handles = {str(h.get_label()): h for axes in grid.flat for h in axes.get_legend_handles_labels()[0]}
    fig.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4)
    sns.despine(fig)
    return _closed(fig, _curves_in_words(frame, x, [name for name in (panel, hue) if name]))


def _curves_in_words(frame: pd.DataFrame, x: str, parts: list[str]) -> str:
    frame = frame.reset_index(drop=True)  # the lines of several tables may share their index
    last = frame.loc[frame.groupby(parts, sort=False)[x].idxmax()]
    ends = [f"{', '.join(str(row[p]) for p in parts)} at {row['value']:.3f}" for _, row in last.iterrows()]
    return f"Lines over {x.replace('_', ' ')} that end: {'; '.join(ends)}."


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
    return _closed(fig, f"{len(images)} small images in rows of {columns}.")


# Distributions of several image sets side by side, as P1's Figure 5 draws them.


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
    return _closed(fig, f"Boxes of {xlabel}. {boxes_in_words(values)}.")


def boxes_in_words(values: Mapping[str, pd.Series]) -> str:
    """The same for readers who cannot see it: median and whiskers of each set."""
    found = {name: np.quantile(series.dropna(), QUANTILES) for name, series in values.items()}
    return "; ".join(f"{name}: median {q[2]:.3g}, from {q[0]:.3g} to {q[4]:.3g}" for name, q in found.items())


def _box(name: str, series: pd.Series) -> dict[str, Any]:
    low, q1, median, q3, high = np.quantile(series, QUANTILES)
    label = f"{name} (n = {len(series):,})"
    return {"label": label, "whislo": low, "q1": q1, "med": median, "q3": q3, "whishi": high}


# Who is taken for whom inside a coarse group, in several sets side by side (P1 Fig. 4b).


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
    of = f" of {title}" if title else ""
    return _closed(fig, f"Heat maps{of}. {confusions_in_words(counts)}.")


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


# Images of several sets below each other, the real ones on top, with what was measured under each.


INCHES = 0.85  # a cell
LARGEST = 160  # pixels of a side: a cell has fewer, and a page stays small
ROOM = 0.15  # of a cell, for each line of words below an image

Captioned = tuple[Image.Image, str]


def worst_cases(rows: Mapping[str, Sequence[Captioned]], *, title: str = "") -> Figure:
    """A row of images for each set, named at its left, each image with its words below it.

    Images keep their proportions; small ones are enlarged without smoothing, so that 32x32 stays honest.
    Raises ValueError when there is no image.
    """
    columns = max((len(row) for row in rows.values()), default=0)
    if not columns:
        raise ValueError("worst_cases: found no image in any set, expected at least one")
    lines = max(words.count("\n") + 1 for row in rows.values() for _, words in row)
    height = 1.1 + ROOM * lines
    fig, axes = plt.subplots(
        figsize=(INCHES * (columns + 1.5), INCHES * height * len(rows) + 0.3 * bool(title))
    )
    size = 6 * max(1.0, columns / 8)  # points; a page scales wide sheets down
    for number, (name, row) in enumerate(rows.items()):
        axes.text(-0.1, number * height + 0.5, name, ha="right", va="center", fontsize=size + 2, wrap=True)
        for column, (image, words) in enumerate(row):
            _place(axes, image, words, column, number * height, size)
    axes.set(xlim=(-1.5, columns), ylim=(len(rows) * height, 0), aspect="equal", title=title)
    axes.set_axis_off()
    said = "; ".join(
        f"{name}: {', '.join(' '.join(w.split()) for _, w in row)}" for name, row in rows.items()
    )
    return _closed(fig, f"A row of images for each set, with these words below them. {said}.")


def _place(axes: Axes, image: Image.Image, words: str, left: float, top: float, points: float) -> None:
    """The image in the cell [left, left + 1] x [top, top + 1], 5 % free on each side."""
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    width, height = 0.9 * np.array(small.size) / max(small.size)
    x, y = left + (1 - width) / 2, top + (1 - height) / 2
    axes.imshow(np.asarray(small), extent=(x, x + width, y + height, y), interpolation="nearest")
    axes.text(left + 0.5, top + 1, words, ha="center", va="top", fontsize=points)
