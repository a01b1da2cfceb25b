"""Calibration: how well the probability of the predicted class says how often it is right."""

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from synreal.errors import InputError
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.statistics import wilson_bounds
from synreal.evaluate.tally import Metric, Sums, Tally, ratio

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
