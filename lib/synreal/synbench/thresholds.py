"""Thresholds that a synthetic set has to meet, for somebody's continuous integration."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError, model_validator

from synreal.data.labels import shorten
from synreal.errors import InputError
from synreal.synbench.study import ALL


class Range(BaseModel):
    """The values that pass, bounds included; None leaves a side open."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def verdict(self, low: float, high: float) -> str:
        """Decided on a whole interval: "pass" inside, "fail" outside, else "undecided"; "missing" of NaN."""
        if np.isnan(low) or np.isnan(high):
            return "missing"
        lower = -np.inf if self.min is None else self.min
        upper = np.inf if self.max is None else self.max
        if lower <= low and high <= upper:
            return "pass"
        return "fail" if high < lower or low > upper else "undecided"

    def __str__(self) -> str:
        sides = (
            self.min is not None and f"at least {self.min:g}",
            self.max is not None and f"at most {self.max:g}",
        )
        return " and ".join(side for side in sides if side)


Thresholds = Mapping[str, Range]  # by "measure/statistic", or "measure/statistic/group"


def read_thresholds(path: str | Path) -> Thresholds:
    """Thresholds from YAML such as `object scale/range_ratio: {min: 0.8}`.

    A class or coarse group may follow: `brightness/mean_difference/bag: {min: -5, max: 5}`.
    Raises InputError for a missing file, a repeated key, and for anything else than ranges by such keys.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected YAML with thresholds")
    try:
        text = Path(path).read_text(encoding="utf-8")
        if repeated := _repeated(yaml.compose(text, Loader=yaml.SafeLoader)):
            raise InputError(f"{path}: found {shorten(repeated)} more than once, expected once")
        return TypeAdapter(dict[str, Range]).validate_python(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a table of thresholds, such as `brightness/range_ratio: {{min: 0.8}}`: {error}"
        ) from error


def check_known(thresholds: Thresholds, known: Mapping[str, Mapping[str, Collection[str]]]) -> None:
    """Raises InputError for a threshold on what will not be measured, or never has an interval.

    known: by measure and statistic the classes and coarse groups it is given for, and ALL.
    """
    for key in thresholds:
        measure, _, rest = key.partition("/")
        statistic, slash, group = rest.partition("/")
        if measure not in known:
            _refuse(key, "measures", known)
        if statistic not in known[measure]:
            _refuse(key, f"statistics of {measure}", known[measure])
        groups = known[measure][statistic]
        parts = [name for name in groups if name != ALL]
        if group not in parts if slash else ALL not in groups:
            _refuse(key, f"classes or coarse groups that {statistic} is given for", parts)


def check_thresholds(table: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """One row per set and threshold: synthetic, check, expected, value, ci_low, ci_high, verdict.

    table: rows of `compare.compare_all` or `numbers.all_numbers`. The verdict is that of `Range.verdict`, and
    "missing" where the table has no such statistic of a set, or no interval of it.
    """
    columns = ["value", "ci_low", "ci_high"]
    groups = table.get("group", pd.Series(ALL, table.index))
    keys = table["measure"] + "/" + table["statistic"] + ("/" + groups).where(groups != ALL, "")
    found = table.assign(check=keys).set_index(["synthetic", "check"])[columns].astype(float)
    wanted = pd.MultiIndex.from_product([table["synthetic"].unique(), thresholds], names=found.index.names)
    rows = found.reindex(wanted).assign(known=wanted.isin(found.index)).reset_index()
    rows["expected"] = [str(thresholds[key]) for key in rows["check"]]
    rows["verdict"] = [
        thresholds[row.check].verdict(row.ci_low, row.ci_high) if row.known else "missing"
        for row in rows.itertuples(index=False)
    ]
    return rows[["synthetic", "check", "expected", *columns, "verdict"]]


def _repeated(node: yaml.Node | None) -> list[str]:
    """The keys that a mapping holds twice: YAML would keep the last of them and say nothing."""
    if not isinstance(node, yaml.MappingNode):
        return []
    names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    inside = [name for _, value in node.value for name in _repeated(value)]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1] + inside


def _refuse(key: str, what: str, known: Collection[str]) -> NoReturn:
    raise InputError(f"threshold {key!r}: expected one of the {what}, {shorten(list(known), 60)}")
