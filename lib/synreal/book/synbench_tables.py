"""The numbers of a SynBench study in words, as the page shows them."""

from collections.abc import Sequence

import pandas as pd

from synreal.book.wording import p_value
from synreal.synbench.compare import MAIN
from synreal.synbench.grained import CORRECTED
from synreal.synbench.measure import YES_NO, Measure
from synreal.synbench.study import ALL

CLASS_STATISTICS = ("proportion_difference", "mean_difference", "range_ratio", CORRECTED[0])


def heading(measure: Measure) -> str:
    return f"{measure.name} ({measure.unit})"


def overview(table: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """One row per set and measure, in words: real, synthetic, difference, range, p."""
    whole = table[table["group"] == ALL].set_index("statistic")
    rows = []
    for name in table["synthetic"].unique():
        for measure in measures:
            own = whole[(whole["synthetic"] == name) & (whole["measure"] == measure.name)]
            if len(own):
                rows.append({"set": name, "measure": heading(measure), **_overview(own, measure)})
    return pd.DataFrame(rows)


def tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By caption, the rows of one measure; of classes the main statistics alone."""
    whole, corrected = rows["group"] == ALL, rows["statistic"].isin(CORRECTED)
    classes = rows["statistic"].isin(CLASS_STATISTICS) & ~whole
    parts = {
        "Corrected for the judge's own errors, among the classes of the sets": rows[whole & corrected],
        "Every statistic": rows[whole & ~corrected],
        "Class by class": rows[classes],
        "Coarse groups": rows[~whole & ~classes & rows["statistic"].str.contains("consistency|inside")],
    }
    return {caption: _in_words(part) for caption, part in parts.items() if len(part)}


def _in_words(rows: pd.DataFrame) -> pd.DataFrame:
    shown = {
        "set": rows["synthetic"],
        "group": rows["group"],
        "statistic": rows["statistic"].str.replace("_", " "),
        "value (95 % interval)": [_estimate(row) for _, row in rows.iterrows()],
        "p (Holm)": rows["p_holm"].map(p_value),
        "n real": rows["n_real"].map("{:,.0f}".format),
        "n synthetic": rows["n_synthetic"].map("{:,.0f}".format),
        "note": rows["note"],
    }
    frame = pd.DataFrame(shown)
    return frame.drop(columns="group") if (rows["group"] == ALL).all() else frame


def _overview(own: pd.DataFrame, measure: Measure) -> dict[str, str]:
    kind = "proportion" if measure.unit == YES_NO else "mean"
    p = own.loc[own.index.isin(MAIN), "p_holm"].iloc[0]
    return {
        "real": f"{own.loc[f'{kind}_real', 'value']:.3g}",
        "synthetic": f"{own.loc[f'{kind}_synthetic', 'value']:.3g}",
        "difference (95 % interval)": _estimate(own.loc[f"{kind}_difference"]),
        "range, times real": _estimate(own.loc["range_ratio"]) if "range_ratio" in own.index else "",
        "p (Holm)": p_value(p),
    }


def _estimate(row: pd.Series) -> str:
    if pd.isna(row["ci_low"]):
        return f"{row['value']:.3g}" if pd.notna(row["value"]) else ""
    return f"{row['value']:.3g} ({row['ci_low']:.3g} to {row['ci_high']:.3g})"
