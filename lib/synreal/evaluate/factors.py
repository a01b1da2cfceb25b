"""Accuracy on images with a factor (rotated, dark, blocked by a person ...), absolute and relative.

A factor table has one bool column per factor and one row per annotated image, indexed by image id.
"Annotated" are the images with a row, whether a flag is set or not; for ImageNet-X the prototypes are
removed before.
"""

from typing import Literal

import numpy as np
import pandas as pd

from synreal.errors import InputError
from synreal.evaluate.tally import Metric, Sums, Tally, proportion, ratio

Denominator = Literal["annotated", "all"]
# The accuracy that a factor's is set against: columns (hits, images).
BASES: dict[str, tuple[str, str]] = {
    "annotated": ("annotated:correct", "annotated"),
    "all": ("correct", "images"),
}


def factor_accuracy(correct: pd.Series, factors: pd.DataFrame) -> pd.Series:
    """Accuracy over the images with each factor, indexed by factor; NaN where there is none.

    `correct`: bool, indexed by image id. Raises InputError when the factor table does not fit.
    """
    return _named(factor_tally(correct, factors), "factor_accuracy")


def relative_accuracy(
    correct: pd.Series, factors: pd.DataFrame, denominator: Denominator = "annotated"
) -> pd.Series:
    """(acc_factor - acc_all) / acc_all by factor; 0 means no influence, -0.1 a tenth fewer correct.

    "annotated": acc_all is over the annotated images, which reproduces the tables of P1. "all": acc_all is
    over all images, as P1 sec. 2.1 writes.
    """
    if denominator not in BASES:
        raise InputError(f"denominator: found {denominator!r}, expected one of {sorted(BASES)}")
    return _named(factor_tally(correct, factors), f"relative_accuracy_{denominator}")


def error_ratio(correct: pd.Series, factors: pd.DataFrame) -> pd.Series:
    """(1 - acc_factor) / (1 - acc_annotated) by factor, ImageNet-X's own measure; 1 means no influence."""
    return _named(factor_tally(correct, factors), "error_ratio")


def factor_tally(correct: pd.Series, factors: pd.DataFrame) -> Tally:
    """Accuracy on annotated images and, per factor, the accuracy and the measures relative to the whole."""
    flags, annotated = _aligned(correct.index, factors)
    hit = correct.to_numpy()
    columns = {"images": True, "correct": hit, "annotated": annotated, "annotated:correct": annotated & hit}
    for factor in flags:
        flag = flags[factor].to_numpy()
        columns |= {f"factor:{factor}": flag, f"factor:{factor}:correct": flag & hit}
    metrics = [proportion("annotated_accuracy", "all", "annotated:correct", "annotated")]
    for factor in flags:
        metrics += _metrics(factor)
    return Tally(pd.DataFrame(columns, index=correct.index), tuple(metrics))


def _metrics(factor: str) -> list[Metric]:
    images, hits = f"factor:{factor}", f"factor:{factor}:correct"

    def relative(denominator: str) -> Metric:
        def value(sums: Sums) -> np.ndarray:
            return _relative(sums, (hits, images), BASES[denominator])

        return Metric(f"relative_accuracy_{denominator}", factor, (images,), value)

    return [
        proportion("factor_accuracy", factor, hits, images),
        *(relative(denominator) for denominator in BASES),
        Metric("error_ratio", factor, (images,), lambda sums: _error_ratio(sums, (hits, images))),
    ]


def _relative(sums: Sums, part: tuple[str, str], base: tuple[str, str]) -> np.ndarray:
    whole = _rate(sums, base)
    return ratio(_rate(sums, part) - whole, whole)


def _error_ratio(sums: Sums, part: tuple[str, str]) -> np.ndarray:
    return ratio(1 - _rate(sums, part), 1 - _rate(sums, BASES["annotated"]))


def _rate(sums: Sums, columns: tuple[str, str]) -> np.ndarray:
    return ratio(sums[columns[0]], sums[columns[1]])


def _aligned(ids: pd.Index, factors: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The flags of each image (False where it is not annotated), and which images are annotated."""
    _check(factors)
    annotated = ids.isin(factors.index)
    if not annotated.any():
        raise InputError(
            f"factors: none of the {len(factors)} ids of the table (first {factors.index[:3].tolist()}) is "
            f"among the {len(ids)} of the predictions (first {ids[:3].tolist()}); index it by image id"
        )
    return factors.reindex(ids, fill_value=False), annotated


def _check(factors: pd.DataFrame) -> None:
    other = [str(name) for name in factors if factors[name].dtype != bool]
    if other or factors.shape[1] == 0:
        raise InputError(
            f"factors: expected columns of bool, found others: {other}; select the factor columns"
        )
    if not factors.index.is_unique:
        first = factors.index[factors.index.duplicated()][:3].tolist()
        raise InputError(f"factors: ids are not unique, first {first}; keep one row per image")


def _named(tally: Tally, metric: str) -> pd.Series:
    values = tally.values().loc[metric].rename(metric)
    return values.rename_axis("factor")
