"""Tables, figures and words of the chapter 01_classifiers, from what it recorded."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from synreal.book.claims import paper_table
from synreal.book.plots import forest, shades
from synreal.models import Card

BASES = {"equal data": "#222222", "equal accuracy": "#8C8C8C", "": "#222222"}  # colours of a comparison
# The published checkpoints that P1 compares, by the pair they stand in and the table of their factors.
PAPER_PAIRS = {
    "ViT-Real vs ViT-Syn (equal data)": ("ViT-Real-1M", "ViT-Syn-1M", "table5"),
    "ViT-Real vs ViT-Syn (equal accuracy)": ("ViT-Real-0.25M", "ViT-Syn-2M", None),
    "CLIP-Real vs CLIP-Syn (equal data)": ("CLIP-Real-371M", "CLIP-Syn-371M", "table2"),
    "CLIP-Real vs CLIP-Syn (equal accuracy)": ("CLIP-Real-64M", "CLIP-Syn-371M", None),
}


def select(table: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """The rows of these metrics (a metric that ends in "/" stands for all below it), with columns to plot by.

    `kind`: ViT, CLIP, or the model's whole name; `basis`: what a pair is equal in.
    """
    below = tuple(metric for metric in metrics if metric.endswith("/"))
    rows = table[table["metric"].isin(metrics) | table["metric"].str.startswith(below)].copy()
    rows["kind"] = rows["model"].str.extract(r"^(ViT|CLIP)-", expand=False).fillna(rows["model"])
    rows["basis"] = rows["model"].str.extract(r"\((.+)\)$", expand=False).fillna("")
    rows["group"] = rows["group"].replace("all", "all together")
    return rows


def table_of_models(cards: Mapping[str, Card], measured: pd.DataFrame) -> pd.DataFrame:
    """P1's Table 1 for checkpoints by label: data, size, accuracy with its interval, calibration error."""
    rows = []
    for label, card in cards.items():
        own = measured[measured["model"] == label].set_index("metric")
        images = card.training.get("images", "unknown")
        accuracy = own.loc["accuracy"]
        rows.append(
            {
                "model": label,
                "trained on": card.training.get("source", "unknown"),
                "images": f"{images:,}" if isinstance(images, int) else str(images),
                "accuracy": f"{accuracy['value']:.3f}",
                "95 % interval": f"{accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f}",
                "n": f"{int(accuracy['n']):,}",
                "calibration error": f"{own.loc['calibration_error', 'value']:.3f}",
            }
        )
    return pd.DataFrame(rows).set_index("model")


def by_model(table: pd.DataFrame, xlabel: str, reference: float | None = 0.0) -> Figure:
    """A panel for each kind of classifier, a line for each group, a dot for each model."""
    return forest(
        table,
        group="group",
        hue="model",
        panel="kind",
        palette=shades(list(table["model"])),
        xlabel=xlabel,
        reference=reference,
    )


def by_basis(table: pd.DataFrame, xlabel: str) -> Figure:
    """A panel for each kind of classifier, a line for each group, a dot for each comparison."""
    return forest(table, group="group", hue="basis", panel="kind", palette=BASES, xlabel=xlabel)


def alt_text(table: pd.DataFrame) -> str:
    """What a dot-and-interval figure shows, for those who cannot see it: extremes, and what excludes 0."""
    known = table.dropna(subset=["value"])
    low, high = known.loc[known["value"].idxmin()], known.loc[known["value"].idxmax()]
    above, below = (known["ci_low"] > 0).sum(), (known["ci_high"] < 0).sum()
    return (
        f"{len(known)} dots with error bars. The lowest is {_place(low)} at {low['value']:.3f}, the highest "
        f"{_place(high)} at {high['value']:.3f}; {above} intervals lie above 0 and {below} below."
    )


def _place(row: pd.Series) -> str:
    return f"{row['model']}, {row['group']}".replace("_", " ")


def factor_table(factor_gaps: pd.DataFrame) -> pd.DataFrame:
    """Factor by pair: the gap, a star where Holm's p is below 5 %, and in brackets the detectable gap."""
    if factor_gaps.empty:
        return pd.DataFrame()
    shown = factor_gaps.assign(
        factor=factor_gaps["group"].str.replace("_", " "),
        pair=[_short(pair) for pair in factor_gaps["model"]],
        cell=[_gap(row) for row in factor_gaps.to_dict("records")],
    )
    table = shown.pivot(index="factor", columns="pair", values="cell")
    return table[list(dict.fromkeys(shown["pair"]))].rename_axis(columns=None)


def _gap(row: dict[str, Any]) -> str:
    if pd.isna(row["value"]):
        return "no images"
    star = "*" if row["p_holm"] < 0.05 else ""
    detectable = "?" if pd.isna(row["mde"]) else f"{row['mde']:.3f}"
    return f"{row['value']:+.3f}{star} ({detectable})"


def beside_paper(gaps: pd.DataFrame) -> pd.DataFrame:
    """What was measured beside what P1 prints, for every pair and metric that both have."""
    rows = []
    for pair, (real, synthetic, factors) in PAPER_PAIRS.items():
        printed = {"accuracy_gap": _difference("table1", "accuracy", real, synthetic)}
        if factors:
            names = [c for c in paper_table("P1", factors).columns if c != "model"]
            printed |= {f"factor_gap/{c}": -_difference(factors, c, real, synthetic) for c in names}
        own = gaps[gaps["model"] == pair].set_index("metric")
        rows += [
            _beside(pair, own.loc[metric], number)
            for metric, number in printed.items()
            if metric in own.index
        ]
    columns = ["pair", "metric", "here", "95 % interval", "P1", "same sign"]
    return pd.DataFrame(rows, columns=columns).set_index("pair")


def _short(pair: str) -> str:
    """ "ViT, equal data" for "ViT-Real vs ViT-Syn (equal data)"; a pair of your own keeps its name."""
    return re.sub(r"^(\w+)-Real vs \1-Syn \((.+)\)$", r"\1, \2", pair)


def _difference(table: str, column: str, real: str, synthetic: str) -> float:
    values = paper_table("P1", table).set_index("model")[column]
    return float(values[real] - values[synthetic])


def _beside(pair: str, own: pd.Series, printed: float) -> dict[str, str]:
    known = pd.notna(own["ci_low"])
    interval = f"{own['ci_low']:+.3f} to {own['ci_high']:+.3f}" if known else own["note"]
    return {
        "pair": _short(pair),
        "metric": str(own.name),
        "here": f"{own['value']:+.3f}",
        "95 % interval": interval,
        "P1": f"{printed:+.3f}",
        "same sign": "yes" if own["value"] * printed > 0 else "no",
    }
