"""The papers' own numbers, from `papers.yaml`, to set beside what was measured."""

from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from synreal.errors import InputError


def paper_table(paper: str, table: str) -> pd.DataFrame:
    """A table of a paper, one row per model; percentages as fractions, so that 78.64 % reads 0.7864.

    `.attrs` holds where it stands ("where"), what it shows ("what") and a "note" when the print is doubtful.
    Raises InputError listing what there is for an unknown paper or table.
    """
    entry = _choose(_choose(_papers(), paper, "paper")["tables"], table, f"table of {paper}")
    frame = pd.DataFrame(entry["rows"])
    if entry["unit"] == "percent":
        measured = frame.select_dtypes("float").columns  # sizes are integers
        frame[measured] = (frame[measured] / 100).round(6)
    frame.attrs = {key: entry.get(key, "") for key in ("where", "what", "note")}
    return frame


def paper_value(paper: str, table: str, *, column: str = "accuracy", **row: str) -> float:
    """One number, e.g. `paper_value("P1", "table2", column="darker", model="CLIP-Syn-371M")`.

    row: what the row says in its other columns, enough to single it out. Raises InputError listing what there
    is otherwise.
    """
    frame = paper_table(paper, table)
    for name in (column, *row):
        _choose({c: c for c in frame}, name, f"column of {paper} {table}")
    chosen = frame[(frame[list(row)] == pd.Series(row)).all(axis="columns")]
    if len(chosen) != 1:
        known = "; ".join(frame.select_dtypes(exclude="number").agg(", ".join, axis="columns"))
        raise InputError(f"{paper} {table}: {row} selects {len(chosen)} rows, expected one of: {known}")
    return float(chosen[column].iloc[0])


def _choose(entries: dict[str, Any], key: str, what: str) -> Any:
    if key not in entries:
        raise InputError(f"{what} {key!r} is not in papers.yaml; there is: {', '.join(entries)}")
    return entries[key]


@cache
def _papers() -> dict[str, Any]:
    return yaml.safe_load((files("synreal.book") / "papers.yaml").read_text())
