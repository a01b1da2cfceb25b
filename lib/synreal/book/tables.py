"""Tables of the book: estimates in words, and what was measured beside what a paper prints."""

from collections.abc import Sequence

import pandas as pd


def p_value(p: float) -> str:
    """With four decimals, never as a bare 0; empty where there was no test."""
    return "" if pd.isna(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def estimate(value: float, low: float, high: float, form: str = ".3f") -> str:
    """ "0.021 (0.008 to 0.034)"; only the value where there is no interval, nothing where there is none."""
    if pd.isna(value):
        return ""
    return f"{value:{form}}" if pd.isna(low) else f"{value:{form}} ({low:{form}} to {high:{form}})"


def estimates(table: pd.DataFrame, form: str = ".3f") -> pd.Series:
    """`estimate` of each line of a table with the columns value, ci_low and ci_high.

    form: of a number, as in a format string; "+.3f" shows the sign of a difference.
    """
    cells = zip(table["value"], table["ci_low"], table["ci_high"], strict=True)
    return pd.Series([estimate(*cell, form) for cell in cells], index=table.index, dtype=object)


def beside_paper(
    measured: pd.DataFrame, printed: pd.DataFrame, on: Sequence[str], form: str = "+.3f"
) -> pd.DataFrame:
    """A line for each number that a paper prints: what it is of, the same here, the paper's, and their signs.

    printed: the columns `on`, which single out a line of `measured`, and `paper`, the number itself (such as
    `claims.paper_value` returns). measured: the columns `on`, value, ci_low and ci_high. The signs are
    compared where `form` shows them. Raises ValueError when a printed number has two lines in `measured`.
    """
    columns = list(on)
    lines = printed[[*columns, "paper"]].merge(measured, on=columns, how="left", validate="many_to_one")
    here = estimates(lines, form).where(lines["value"].notna(), "not measured")
    table = lines[columns].assign(here=here, paper=lines["paper"].map(lambda number: f"{number:{form}}"))
    if form.startswith("+"):
        same = (lines["value"] * lines["paper"] > 0).map({True: "yes", False: "no"})
        table["same sign"] = same.where(lines["value"].notna(), "")
    return table.set_index(columns)
