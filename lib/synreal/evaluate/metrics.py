"""Metrics of a classifier from its predictions: accuracy, calibration, in groups, by factor."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError
from synreal.evaluate.resampling import Metric, Sums, Tally, proportion, ratio, wilson_bounds
from synreal.models.predictions import Predictions


def correct(predictions: Predictions) -> pd.Series:
    """Whether the class of the largest logit is the label: bool [N], indexed by image id.

    Of equal logits the first class counts.
    """
    hit = np.argmax(predictions.logits, axis=1) == predictions.labels
    return pd.Series(hit, index=pd.Index(predictions.ids, name="id"), name="correct")


def accuracy_tally(hit: pd.Series) -> Tally:
    """Overall accuracy from per-image correctness (bool, indexed by id)."""
    columns = pd.DataFrame({"images": True, "correct": hit})
    return Tally(columns, (proportion("accuracy", "all", "correct", "images"),))


# Calibration: how well the probability of the predicted class says how often it is right.


BINS = 15  # of equal width on [0, 1], as Guo et al. 2017 and ImageNet-X take
ROWS = 4096  # images whose probabilities are held at once


def confidence(predictions: Predictions) -> pd.Series:
    """Softmax probability of the predicted class: float64 [N] in (0, 1], indexed by image id."""
    logits = predictions.logits
    parts = [logits[start : start + ROWS] for start in range(0, len(logits), ROWS)]
    log_probability = [part.max(axis=1).astype(np.float64) - logsumexp(part, axis=1) for part in parts]
    probability = np.exp(np.concatenate(log_probability)).clip(max=1.0)
    return pd.Series(probability, index=pd.Index(predictions.ids, name="id"), name="confidence")


def expected_calibration_error(confidence: pd.Series, correct: pd.Series, bins: int = BINS) -> float:
    """Mean over images of |accuracy - mean confidence| of their bin, 0 to 1 (Guo et al. 2017).

    Bins of equal width on [0, 1], closed on the right. Chance pushes it up, the more the fewer images there
    are per bin: compare models on the same images only. Resampling adds chance of its own, so that the
    bootstrap interval of a well calibrated model can lie above the value.
    """
    return float(calibration_tally(confidence, correct, bins).values().iloc[0])


def reliability(confidence: pd.Series, correct: pd.Series, bins: int = BINS) -> pd.DataFrame:
    """The table of a reliability diagram: one row per bin.

    Columns low, high (edges), n, confidence, accuracy, ci_low, ci_high. `confidence` and `accuracy` are means
    over the bin's images, NaN for an empty one; the Wilson bounds of the accuracy are NaN below
    MINIMUM_IMAGES images. Bins as in `expected_calibration_error`.
    """
    position = _bins(confidence, correct, bins)
    n = np.bincount(position, minlength=bins)
    hits = np.bincount(position, weights=correct.to_numpy(), minlength=bins).astype(int)
    total = np.bincount(position, weights=confidence.to_numpy(), minlength=bins)
    low, high = np.transpose([wilson_bounds(*counts) for counts in zip(hits, n, strict=True)])
    edges = np.linspace(0, 1, bins + 1)
    means = {"confidence": ratio(total, n), "accuracy": ratio(hits, n)}
    return pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "n": n} | means | {"ci_low": low, "ci_high": high}
    )


def calibration_tally(confidence: pd.Series, correct: pd.Series, bins: int = BINS) -> Tally:
    """Expected calibration error from per-image confidence and correctness, both indexed by id."""
    position = _bins(confidence, correct, bins)
    gap = correct.to_numpy() - confidence.to_numpy()
    columns = {"images": np.ones(len(gap))} | {
        f"gap:{b}": np.where(position == b, gap, 0) for b in range(bins)
    }

    def value(sums: Sums) -> np.ndarray:
        gaps = np.abs([sums[f"gap:{b}"] for b in range(bins)])
        return ratio(gaps.sum(axis=0), sums["images"])

    metric = Metric("expected_calibration_error", "all", ("images",), value)
    return Tally(pd.DataFrame(columns, index=confidence.index), (metric,))


def _bins(confidence: pd.Series, correct: pd.Series, bins: int) -> np.ndarray:
    if bins < 1 or not confidence.between(0, 1).all() or not confidence.index.equals(correct.index):
        raise InputError(
            f"calibration: found {bins} bins and confidences from {confidence.min()} to {confidence.max()}, "
            "expected at least 1 bin, confidences within 0 to 1, and correctness of the same images in order"
        )
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence.to_numpy())


# Fine-grained accuracy: telling apart the classes of one coarse group (P1 sec. 2.1, Fig. 2).
#
# P1 does not say how it averages over coarse groups, so both averages are given: micro counts every image
# once, macro counts every coarse group once. Groups of one class have nothing to tell apart and are left out.


KINDS = ("restricted", "unrestricted")


def restricted_correct(predictions: Predictions, members: Mapping[str, np.ndarray]) -> pd.Series:
    """Whether the label has the largest logit within its own coarse group: bool [N], indexed by id.

    Never false where `correct` is true. `members` as from Hierarchy.members, of at least one group;
    images of a class in no group count as False.
    """
    hit = np.zeros(len(predictions), dtype=bool)
    group = _group_of_image(predictions, members)
    for position, classes in enumerate(members.values()):
        rows = np.flatnonzero(group == position)
        best = classes[predictions.logits[np.ix_(rows, classes)].argmax(axis=1)]
        hit[rows] = best == predictions.labels[rows]
    return pd.Series(hit, index=pd.Index(predictions.ids, name="id"), name="restricted")


def fine_grained_accuracy(predictions: Predictions, hierarchy: Hierarchy) -> pd.DataFrame:
    """One row per coarse group of two classes or more: classes, n, and for each kind its accuracy.

    Restricted: the label space is the coarse group. Unrestricted: all classes. Columns `restricted`,
    `restricted_low`, `restricted_high` (Wilson), the same for `unrestricted`; bounds are NaN where a group
    has fewer than MINIMUM_IMAGES images.
    Raises InputError when a class of the predictions is outside the hierarchy.
    """
    members = fine_members(predictions, hierarchy)
    sums = fine_grained_tally(predictions, members).totals()
    rows = {coarse: _group_row(sums, coarse, len(classes)) for coarse, classes in members.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("coarse")


def fine_members(predictions: Predictions, hierarchy: Hierarchy) -> dict[str, np.ndarray]:
    """The groups of two classes or more, as indices of the predictions' classes."""
    members = hierarchy.members(predictions.class_names)
    return {coarse: classes for coarse, classes in members.items() if len(classes) > 1}


def fine_grained_tally(predictions: Predictions, members: Mapping[str, np.ndarray]) -> Tally:
    """Fine-grained accuracy per coarse group, micro and macro, restricted and unrestricted."""
    group = _group_of_image(predictions, members)
    outcomes = {
        "restricted": restricted_correct(predictions, members).to_numpy(),
        "unrestricted": correct(predictions).to_numpy(),
    }
    columns = {"fine": group >= 0}
    columns |= {f"fine:{kind}": hit & (group >= 0) for kind, hit in outcomes.items()}
    for position, coarse in enumerate(members):
        inside = group == position
        columns[f"coarse:{coarse}"] = inside
        columns |= {f"coarse:{coarse}:{kind}": hit & inside for kind, hit in outcomes.items()}
    frame = pd.DataFrame(columns, index=pd.Index(predictions.ids, name="id"))
    return Tally(frame, tuple(metric for kind in KINDS for metric in _metrics(kind, frame, list(members))))


def _metrics(kind: str, columns: pd.DataFrame, groups: list[str]) -> list[Metric]:
    # A coarse group without images has no accuracy, so the macro average is over those that have some.
    present = [coarse for coarse in groups if columns[f"coarse:{coarse}"].any()]
    metrics = [
        proportion(f"{kind}_accuracy", coarse, f"coarse:{coarse}:{kind}", f"coarse:{coarse}")
        for coarse in groups
    ]
    if present:
        metrics.append(proportion(f"{kind}_accuracy_micro", "all", f"fine:{kind}", "fine"))
        metrics.append(_macro(kind, present))
    return metrics


def _macro(kind: str, groups: list[str]) -> Metric:
    def value(sums: Sums) -> np.ndarray:
        parts = [ratio(sums[f"coarse:{g}:{kind}"], sums[f"coarse:{g}"]) for g in groups]
        return np.mean(parts, axis=0)

    return Metric(f"{kind}_accuracy_macro", "all", tuple(f"coarse:{g}" for g in groups), value)


def _group_of_image(predictions: Predictions, members: Mapping[str, np.ndarray]) -> np.ndarray:
    group_of_class = np.full(len(predictions.class_names), -1)
    for position, classes in enumerate(members.values()):
        group_of_class[classes] = position
    return group_of_class[predictions.labels]


def _group_row(sums: Sums, coarse: str, classes: int) -> dict[str, float]:
    n = int(sums[f"coarse:{coarse}"])
    row: dict[str, float] = {"classes": classes, "n": n}
    for kind in KINDS:
        hits = int(sums[f"coarse:{coarse}:{kind}"])
        low, high = wilson_bounds(hits, n)
        row |= {kind: hits / n if n else np.nan, f"{kind}_low": low, f"{kind}_high": high}
    return row


# Accuracy on images with a factor (rotated, dark, blocked by a person ...), absolute and relative.
#
# A factor table has one bool column per factor and one row per annotated image, indexed by image id.
# "Annotated" are the images with a row, whether a flag is set or not; for ImageNet-X the prototypes are
# removed before.


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
        metrics += _factor_metrics(factor)
    return Tally(pd.DataFrame(columns, index=correct.index), tuple(metrics))


def _factor_metrics(factor: str) -> list[Metric]:
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
