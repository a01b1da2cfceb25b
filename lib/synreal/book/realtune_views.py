"""Tables, figures and words of the chapter 03_realtune, from what it recorded."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from synreal.book.claims import paper_table
from synreal.book.plots import PALETTE, forest
from synreal.book.realtune import SETTINGS, by_kind
from synreal.synbench.rare import RARE

COLOURS = {"Vanilla": "#222222", "SynTune": PALETTE["synthetic"], "RealTune": PALETTE["real-tuned"]}
WHEN_COLOURS = {
    "Vanilla": "#222222", "RealTune": PALETTE["real-tuned"], "RealTune against Vanilla": PALETTE["real"],
}  # fmt: skip
TUNED_TABLES = {"ViT-Syn": "table5_tuned", "CLIP-Syn": "table2_tuned"}


def select(table: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """The rows of these metrics, with columns to plot by.

    A metric that ends in "/" stands for all below it. role and setting: the parts of "<role> (<setting>)";
    kind: ViT or CLIP, or the whole name; when: what follows the last "/" of the metric.
    """
    below = tuple(metric for metric in metrics if metric.endswith("/"))
    rows = table[table["metric"].isin(metrics) | table["metric"].str.startswith(below)].copy()
    parts = rows["model"].str.extract(r"^(.+) \(([^()]+)\)$")
    rows["role"], rows["setting"] = parts[0].fillna(rows["model"]), parts[1].fillna("")
    rows["kind"] = rows["model"].str.extract(r"^(ViT|CLIP)-", expand=False).fillna(rows["model"])
    rows["when"] = rows["metric"].str.rpartition("/")[2]
    return rows


def table_of_settings(table: pd.DataFrame) -> pd.DataFrame:
    """One row per checkpoint: accuracy in each setting, and RealTune's gain with its interval."""
    level = select(table, "accuracy").pivot(index="role", columns="setting", values="value")
    gains = select(table, "accuracy_gain").set_index(["role", "setting"])
    shown = level.loc[list(dict.fromkeys(select(table, "accuracy")["role"])), list(SETTINGS)].round(3)
    for setting in SETTINGS[1:]:
        shown[f"gain, {setting}"] = [estimate(gains.loc[(role, setting)]) for role in shown.index]
    return shown


def estimate(row: pd.Series) -> str:
    """ "+0.021 (+0.008 to +0.034)", or the value alone where there is no interval."""
    if pd.isna(row["ci_low"]):
        return f"{row['value']:+.3f}"
    return f"{row['value']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"


def by_setting(table: pd.DataFrame, group: str, xlabel: str, reference: float | None = 0.0) -> Figure:
    """A panel for each kind, a line for each `group`, a dot for each setting."""
    return forest(
        table, group=group, hue="setting", panel="kind", palette=COLOURS, xlabel=xlabel, reference=reference
    )


def by_when(table: pd.DataFrame, xlabel: str) -> Figure:
    """A panel for each kind, a line for each pair, a dot for each time."""
    pairs = table.assign(pair=table["setting"].where(table["setting"] != "", table["role"]))
    return forest(pairs, group="pair", hue="when", panel="kind", palette=WHEN_COLOURS, xlabel=xlabel)


def by_variant(table: pd.DataFrame, xlabel: str) -> Figure:
    """A panel for each checkpoint, a line for each of its variants "<role>, <variant>"."""
    parts = table["model"].str.extract(r"^([^,]+), (.+)$")
    return forest(
        table.assign(role=parts[0], variant=parts[1]),
        group="variant",
        hue="measured on" if "measured on" in table else None,
        panel="role",
        palette=None if "measured on" in table else {"": PALETTE["real-tuned"]},
        xlabel=xlabel,
    )


def by_factor(table: pd.DataFrame, xlabel: str) -> Figure:
    """A panel for each kind, a line for each factor."""
    return forest(table, group="group", panel="model", palette={"": PALETTE["real-tuned"]}, xlabel=xlabel)


def alt_text(table: pd.DataFrame) -> str:
    """What a dot-and-interval figure shows, for those who cannot see it: extremes, and what excludes 0."""
    known = table.dropna(subset=["value"]).reset_index()
    low, high = known.loc[known["value"].idxmin()], known.loc[known["value"].idxmax()]
    above, below = (known["ci_low"] > 0).sum(), (known["ci_high"] < 0).sum()
    return (
        f"{len(known)} dots with error bars. The lowest is {low['metric']} of {low['model']} at "
        f"{low['value']:.3f}, the highest {high['metric']} of {high['model']} at {high['value']:.3f}; "
        f"{above} intervals lie above 0 and {below} below."
    )


def beside_paper(
    settings: pd.DataFrame, gaps: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]
) -> pd.DataFrame:
    """What P1 prints of Figure 6 and Tables 2 and 5 beside the same quantity here, as fractions."""
    gains = paper_table("P1", "fig6_gains").set_index("model")["gain"]
    # A synthetic checkpoint in two pairs of the paper is one line.
    in_paper = paper_table("P1", "pairs").set_index("pair")["synthetic"]
    twins = {in_paper[title]: pair[1] for title, pair in pairs.items() if title in in_paper}
    rows = [
        {"what": f"gain of {role}, RealTune", "here": _of(settings, "accuracy_gain", f"{role} (RealTune)")}
        | {"P1": f"{gains[twin]:+.3f} ({twin})"}
        for twin, role in twins.items()
    ]
    for line in paper_table("P1", "fig6_gaps").itertuples():
        here = _of(gaps, f"accuracy_gap/{line.when}", line.pair)
        rows.append({"what": f"{line.pair}, {line.when}", "here": here, "P1": f"{line.gap:+.3f}"})
    for kind, table in TUNED_TABLES.items():
        for factor in RARE:
            here = _of(settings, f"factor_gain/{factor}", f"{kind} (RealTune)")
            change = float(paper_table("P1", table).set_index("tuning")[factor].loc["random"]) - float(
                paper_table("P1", table.removesuffix("_tuned")).set_index("model")[factor].iloc[-1]
            )
            rows.append({"what": f"{kind} on {factor}, change", "here": here}
                        | {"P1": f"{change:+.3f}"})  # fmt: skip
    return pd.DataFrame(rows).set_index("what")


def _of(table: pd.DataFrame, metric: str, model: str) -> str:
    own = table[(table["metric"] == metric) & (table["model"] == model)]
    return estimate(own.iloc[0]) if len(own) else "not measured"


def pattern_of_p1(table: pd.DataFrame) -> pd.DataFrame:
    """For each method: does it lift synthetic ViTs and lower real ones, as P1 finds?"""
    parts = table["model"].str.extract(r"^([^,]+), (.+)$")
    rows = table.assign(role=parts[0], method=parts[1])
    source = {
        role: kind for kind, roles in by_kind(list(dict.fromkeys(rows["role"]))).items() for role in roles
    }
    rows["kind"] = rows["role"].map(source)
    found = []
    for method, own in rows.groupby("method", sort=False):
        gains = own.set_index("kind")
        if {"ViT-Real", "ViT-Syn"} <= set(gains.index):
            real, synthetic = gains.loc["ViT-Real"], gains.loc["ViT-Syn"]
            found.append({"method": method, "real": estimate(real), "synthetic": estimate(synthetic)}
                         | {"P1's pattern": _pattern(real, synthetic)})  # fmt: skip
    return pd.DataFrame(found, columns=["method", "real", "synthetic", "P1's pattern"]).set_index("method")


def _pattern(real: pd.Series, synthetic: pd.Series) -> str:
    if real["ci_high"] < 0 < synthetic["ci_low"]:
        return "yes"
    against = real["ci_low"] > 0 or synthetic["ci_high"] < 0
    return "no" if against else "undecided"
