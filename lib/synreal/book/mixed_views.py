"""Tables and figures of the chapter 03a_mixed, from what it recorded."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from synreal.book.claims import paper_table
from synreal.book.plots import FURTHER_COLOURS, PALETTE, forest, image_sheet
from synreal.data.worlds import Pool

KINDS = {"Real": "real", "Syn": "synthetic", "Mix": "mixed"}  # as the palette calls them
COLOURS = {"real": PALETTE["real"], "synthetic": PALETTE["synthetic"], "mixed": FURTHER_COLOURS[0]}


def cells_figure(table: pd.DataFrame) -> Figure:
    """Table 3 as dots: a panel for each network, a line for each tuning, a colour for each pretraining."""
    rows = _split_names(table, r"^(?P<colour>Real|Syn|Mix)-(?P<line>None|Syn|Real)$", "")
    tuned = {"None": "not tuned", "Syn": "tuned on synthetic", "Real": "tuned on real"}
    return _dots(rows.assign(colour=rows["colour"].map(KINDS), line=rows["line"].map(tuned)), COLOURS)


def names_figure(table: pd.DataFrame) -> Figure:
    """A line for each name, a panel for each network."""
    return forest(_accuracies(table), group="name", panel="network", xlabel="accuracy", reference=None)


def amounts_figure(table: pd.DataFrame) -> Figure:
    """Cells of P1's ranking by the amount of real images."""
    return _split(table, r"^(?P<colour>Mix-Real|Mix-None|Syn-Real|Real-Syn)(?P<line>$| x.*)", "x1")


def mixing_figure(table: pd.DataFrame) -> Figure:
    """Ways of mixing, before and after RealTune."""
    rows = _split_names(table, r"^Mix-(?P<colour>None|Real)(?P<line>$| MixLoss| dup \d+)$", "MixData")
    return _dots(rows.assign(colour=rows["colour"].map({"None": "not tuned", "Real": "RealTune"})))


def augmentation_figure(table: pd.DataFrame) -> Figure:
    """Augmentations of SynTune and RealTune."""
    palette = {"SynTune": PALETTE["synthetic"], "RealTune": PALETTE["real-tuned"]}
    return _split(table, r"^(?P<colour>SynTune|RealTune)(?P<line>$| \+ .*)", "not augmented", palette)


def dino_figure(table: pd.DataFrame) -> Figure:
    """Ways to learn the classes after DINO on real and on synthetic images."""
    palette = {"DINO-Real": PALETTE["real"], "DINO-Syn": PALETTE["synthetic"]}
    palette |= {"untrained": FURTHER_COLOURS[-1]}
    return _split(table, r"^(?P<colour>DINO-\w+|untrained) (?P<line>.*)$", "", palette)


def transfer_figure(table: pd.DataFrame) -> Figure:
    """Ways of tuning on another data set, by pretraining."""
    rows = _split_names(table, r"^(?P<colour>Real|Syn|Mix) (?P<line>.*)$", "")
    return _dots(rows.assign(colour=rows["colour"].map(KINDS)), COLOURS)


def _split(table: pd.DataFrame, pattern: str, blank: str, palette: Mapping[str, str] | None = None) -> Figure:
    return _dots(_split_names(table, pattern, blank), palette)


def _split_names(table: pd.DataFrame, pattern: str, blank: str) -> pd.DataFrame:
    """The accuracies whose names fit, with the parts of a name in columns `line` and `colour`."""
    rows = _accuracies(table)
    parts = rows["name"].str.extract(pattern)
    rows = rows.assign(colour=parts["colour"], line=parts["line"].str.strip(" +").replace("", blank))
    return rows.dropna(subset="colour")


def _dots(rows: pd.DataFrame, palette: Mapping[str, str] | None = None) -> Figure:
    return forest(
        rows, group="line", hue="colour", panel="network", xlabel="accuracy", palette=palette, reference=None
    )


def _accuracies(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["metric"] == "accuracy"]


def examples(pool: Pool) -> Figure:
    """A real image of each class of the first ten, and a synthetic one below it."""
    shown = range(min(10, len(pool.class_names)))
    rows = [
        np.flatnonzero((pool.labels == label) & (pool.real == real))[0]
        for real in (True, False)
        for label in shown
    ]
    return image_sheet(
        list(pool.images[rows]), [pool.class_names[pool.labels[row]] for row in rows], columns=len(shown)
    )


def alt_text(table: pd.DataFrame) -> str:
    """The figure in words: the best and the worst of each network."""
    words = []
    for network, rows in _accuracies(table).groupby("network", sort=False):
        best, worst = rows.loc[rows["value"].idxmax()], rows.loc[rows["value"].idxmin()]
        words.append(
            f"{network}: {best['name']} is the most accurate with {best['value']:.3f}, "
            f"{worst['name']} the least with {worst['value']:.3f}."
        )
    return "Dots with error bars. " + " ".join(words)


def gap_table(table: pd.DataFrame) -> pd.DataFrame:
    """Gaps and their changes, with intervals, networks side by side."""
    return _side_by_side(table[table["metric"] != "accuracy"], "+")


def _side_by_side(rows: pd.DataFrame, sign: str) -> pd.DataFrame:
    return rows.assign(cell=[_estimate(row, sign) for _, row in rows.iterrows()]).pivot_table(
        index="name", columns="network", values="cell", aggfunc="first", sort=False
    )


def ranking(table: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """The named cells of each network, the most accurate first."""
    rows = _accuracies(table)
    rows = rows[rows["name"].isin(names)].sort_values("value", ascending=False)
    order = {network: " > ".join(own["name"]) for network, own in rows.groupby("network")}
    return pd.DataFrame({"order here": order, "order in P1": " > ".join(names)})


def beside_paper(measured: pd.DataFrame, table: str) -> pd.DataFrame:
    """A table of P1, its rows known by `name`, and what was measured of the same name."""
    paper = paper_table("P1", table)
    printed = paper.set_index("name").map("{:.4f}".format).rename_axis(paper.attrs["where"])
    printed = printed.add_prefix("P1, ")
    own = measured[measured["name"].isin(printed.index)]
    return printed.join(_side_by_side(own, "").add_prefix("here, ")).fillna("not measured")


def _estimate(row: pd.Series, sign: str) -> str:
    value, low, high = (f"{row[key]:{sign}.3f}" for key in ("value", "ci_low", "ci_high"))
    return f"{value} ({low} to {high})"
