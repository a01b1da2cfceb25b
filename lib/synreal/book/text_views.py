"""Tables and figures of the chapter 05_text_realtune, from what it measured."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from synreal.book import plots
from synreal.book.claims import paper_table
from synreal.text.train import MIX, REAL, SEEN, SYN

TUNED = ("vanilla", "SynTune", "RealTune")
COLOURS = {
    "vanilla": plots.PALETTE["paper"],
    "SynTune": plots.PALETTE["synthetic"],
    "RealTune": plots.PALETTE["real-tuned"],
    SEEN: plots.PALETTE["real"],
}


def table4(losses: pd.DataFrame, metric: str = "loss") -> pd.DataFrame:
    """P1's Table 4: models by tuning, value and interval."""
    return _grid({row.model: _estimate(row) for row in _of(losses, metric).itertuples()})


def beside_paper(losses: pd.DataFrame) -> pd.DataFrame:
    """What P1's Table 4 prints, beside the same cell here, and each less that of GPT2-Real untuned."""
    here = _of(losses, "loss").set_index("model")["value"]
    printed = paper_table("P1", "table4").set_index("model")["loss"]
    columns = {"paper": printed, "here": here[printed.index]}
    table = pd.DataFrame(
        columns | {f"{name}, less {REAL}": part - part[REAL] for name, part in columns.items()}
    )
    return (table.round(2) + 0).map("{:.2f}".format)  # + 0: no minus before zero


def effects_table(effects: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Changes or gaps of loss with their intervals and n."""
    rows = _of(effects, metric)
    cells = {"nats per token": map(_estimate, rows.itertuples()), "texts": rows["n"].map("{:,}".format)}
    return pd.DataFrame({name: list(column) for name, column in cells.items()}, index=list(rows["model"]))


def losses_figure(losses: pd.DataFrame) -> Figure:
    """A dot with its interval for each model: a group for each pretraining, a colour for each tuning."""
    parts = _of(losses, "loss")["model"].str.extract(r"(?P<pretrained>\S+)(?: \((?P<tuned>.+)\))?")
    rows = _of(losses, "loss").assign(**parts.fillna({"tuned": TUNED[0]}))
    axis = "loss on held-out real text (nats per token)"
    return plots.forest(rows, group="pretrained", hue="tuned", xlabel=axis, palette=COLOURS, reference=None)


def losses_alt(losses: pd.DataFrame) -> str:
    """The same in words."""
    rows = _of(losses, "loss").sort_values("value")
    listed = ", ".join(f"{row.model} {row.value:.3f}" for row in rows.itertuples())
    return f"Dots with error bars, from the lowest loss to the highest: {listed}."


def curves_figure(curves: pd.DataFrame) -> Figure:
    """How validation loss changes while tuning: a line per model, the mean over seeds, with their range."""
    names = list(dict.fromkeys(curves["model"]))
    shades = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    fig, axes = plt.subplots(figsize=(7.5, 3.6))
    for place, (name, by_step) in enumerate(_changes(curves).items()):
        marker = plots.FURTHER_MARKERS[place % len(plots.FURTHER_MARKERS)]
        axes.plot(by_step.index, by_step["mean"], label=name, color=shades[name], marker=marker, markersize=5)
        axes.fill_between(by_step.index, by_step["min"], by_step["max"], color=shades[name], alpha=0.2)
    axes.axhline(0, color="#222222", linewidth=1, linestyle="--")
    axes.set(xlabel="steps of tuning", ylabel="change of validation loss\n(nats per token)")
    fig.legend(loc="outside right upper")
    sns.despine(fig)
    plt.close(fig)
    return fig


def curves_alt(curves: pd.DataFrame) -> str:
    """The same in words: where each line ends."""
    ends = [f"{name} at {by_step['mean'].iloc[-1]:+.3f}" for name, by_step in _changes(curves).items()]
    return f"Lines of the change of validation loss over steps of tuning, which end: {', '.join(ends)}."


def _changes(curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By model: mean, min and max over seeds of the loss less that before tuning, by step."""
    start = curves.groupby(["model", "seed"])["loss"].transform("first")
    changed = curves.assign(change=curves["loss"] - start)
    return {
        str(name): rows.groupby("step")["change"].agg(["mean", "min", "max"])
        for name, rows in changed.groupby("model", sort=False)
    }


def texts_table(found: pd.DataFrame) -> pd.DataFrame:
    """One row per measure: real, synthetic, and their ratio, each with its interval."""
    cells = {(row.measure, row.statistic): _estimate(row) for row in found.itertuples()}
    table = pd.Series(cells).unstack(sort=False)[["real", "synthetic", "ratio"]]
    return table.rename(columns={"ratio": "synthetic to real"}).rename_axis("measure")


def texts_figure(found: pd.DataFrame) -> Figure:
    """The ratio of synthetic to real for each measure, a dot for each set."""
    rows = found[found["statistic"] == "ratio"]
    colour = {"": plots.PALETTE["synthetic"]}
    axis = "synthetic to real"
    return plots.forest(rows, group="model", panel="measure", xlabel=axis, palette=colour, reference=1.0)


def texts_alt(found: pd.DataFrame) -> str:
    """In words: which ratios exclude 1."""
    rows = found[found["statistic"] == "ratio"]
    below, above = rows[rows["ci_high"] < 1], rows[rows["ci_low"] > 1]
    return f"Dots with error bars. Below real text: {_named(below)}. Above: {_named(above)}."


def _named(rows: pd.DataFrame) -> str:
    return ", ".join(f"{row.measure} of {row.model}" for row in rows.itertuples()) or "none"


def _of(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    return table[table["metric"] == metric]


def _estimate(row: object) -> str:
    return f"{row.value:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})"  # type: ignore[attr-defined]


def _grid(cells: dict[str, str]) -> pd.DataFrame:
    rows = {
        base: [cells.get(base if tuning == "vanilla" else f"{base} ({tuning})", "") for tuning in TUNED]
        for base in (REAL, SYN, MIX)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(TUNED))
