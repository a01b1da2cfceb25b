"""Labels of any kind (class names, numbers with names beside them) to one ClassLabel column."""

from collections.abc import Sequence

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa

from synreal.errors import InputError

NAME_COLUMN = "class_name"  # names the class of a numeric label, row by row


def classify(ds: datasets.Dataset, names: Sequence[str] | None, where: str) -> datasets.Dataset:
    """The set with column `label` as ClassLabel.

    Names come from `names` (in label order), from the column's own ClassLabel, from the values when they are
    strings (see `class_order`), or from column `class_name`. Numbers without names raise InputError.
    """
    feature = ds.features["label"]
    values = _label_values(ds, where)
    if names is not None:
        _check_names(names, "class_names")
    if isinstance(feature, datasets.ClassLabel):
        return _reorder(ds, values, feature.names, list(names or feature.names), where)
    if pd.api.types.is_integer_dtype(values.dtype):
        found = list(names) if names is not None else _names_beside(ds, values, where)
        return _with_labels(ds, _in_range(values.to_numpy(), found, where), found)
    if pd.api.types.is_string_dtype(values.dtype):
        found = list(names) if names is not None else class_order(values.unique())
        return _with_labels(ds, _numbers(values, found, where), found)
    raise InputError(
        f"{where}: labels are of type {feature}; expected class names (strings), integers or ClassLabel"
    )


def relabel(ds: datasets.Dataset, names: Sequence[str], where: str) -> datasets.Dataset:
    """The same images with labels numbered in the order of `names`; raises InputError on an unknown class."""
    old = ds.features["label"].names
    values = pd.Series(ds.with_format("numpy")["label"][:])
    return ds if old == list(names) else _reorder(ds, values, old, list(names), where)


def class_order(names: Sequence[str]) -> list[str]:
    """Class names sorted as text, or as numbers when every one is a number ("2" before "10")."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _label_values(ds: datasets.Dataset, where: str) -> pd.Series:
    column = ds.with_format("arrow")["label"][:]
    if column.null_count:
        raise InputError(
            f"{where}: {column.null_count} of {len(column)} rows have no label; remove them or fill them in"
        )
    return column.to_pandas()


def _reorder(
    ds: datasets.Dataset, values: pd.Series, old: list[str], new: list[str], where: str
) -> datasets.Dataset:
    numbers = _in_range(values.to_numpy(), old, where)
    if old == new:
        return _with_labels(ds, numbers, new)
    missing = [name for name in old if name not in set(new)]
    if missing:
        raise InputError(f"{where}: classes {shorten(missing)} are not among the class names {shorten(new)}")
    position = {name: i for i, name in enumerate(new)}
    return _with_labels(ds, np.array([position[name] for name in old])[numbers], new)


def _numbers(values: pd.Series, names: list[str], where: str) -> np.ndarray:
    numbers = pd.Index(names).get_indexer(pd.Index(values))
    unknown = sorted(set(values[numbers < 0]))
    if unknown:
        raise InputError(f"{where}: labels {shorten(unknown)} are not among class_names {shorten(names)}")
    return numbers


def _in_range(values: np.ndarray, names: list[str], where: str) -> np.ndarray:
    outside = values[(values < 0) | (values >= len(names))]
    if len(outside):
        raise InputError(
            f"{where}: {len(outside)} labels lie outside 0..{len(names) - 1}, the first is {outside[0]}; "
            f"expected numbers of the {len(names)} classes {shorten(names)}"
        )
    return values


def _names_beside(ds: datasets.Dataset, values: pd.Series, where: str) -> list[str]:
    if NAME_COLUMN not in ds.column_names:
        raise InputError(
            f"{where}: labels are numbers and nothing names the classes; give class_names in label order, "
            f"or store the labels as ClassLabel, or add a column {NAME_COLUMN}"
        )
    pairs = pd.DataFrame({"label": values, "name": ds[NAME_COLUMN][:]}).drop_duplicates().sort_values("label")
    unique = pairs["label"].is_unique and pairs["name"].is_unique
    if not unique or pairs["label"].tolist() != list(range(len(pairs))):
        raise InputError(
            f"{where}: columns label and {NAME_COLUMN} do not pair each of 0, 1, 2, ... with one name; "
            f"found {shorten([f'{n}={name}' for n, name in pairs.itertuples(index=False)])}; give class_names"
        )
    return pairs["name"].tolist()


def _check_names(names: Sequence[str], what: str) -> None:
    doubled = (
        sorted({name for name in names if list(names).count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if isinstance(names, str) or not names or doubled:
        raise InputError(f"{what}: found {names!r:.200}; expected a list of different class names")


def _with_labels(ds: datasets.Dataset, numbers: np.ndarray, names: list[str]) -> datasets.Dataset:
    labels = pa.array(np.asarray(numbers, dtype=np.int64))
    feature = datasets.ClassLabel(names=names)
    return ds.remove_columns("label").add_column("label", labels, feature=feature)


def shorten(names: Sequence[object], most: int = 8) -> str:
    """The first names of a long list, for error messages."""
    shown = ", ".join(str(name) for name in names[:most])
    return f"[{shown}, ... {len(names)} in all]" if len(names) > most else f"[{shown}]"
