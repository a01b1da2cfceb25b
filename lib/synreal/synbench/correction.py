"""Judge-corrected consistency: the share of images that truly show their label, the judge's errors taken out.

The consistency rate mixes two errors, the generator's and the judge's. On real images of known class the
judge's own are seen: P[k, j], the share of real images of class k that it takes for j. If a share W[y, k] of
the images asked for as y truly show k, its answers to them are F[y] = W[y] P, so W = F P^-1, and W[y, y] is
the true consistency of class y. (The "adjusted count" of Forman 2008, per label; the "black box shift"
estimator of Lipton et al. 2018.) The inverse is not forced into 0..1: constrained fits put chance errors on
classes that are not there, and so find too little consistency where there is much. So a single class can come
out above 1 by chance.

The estimate is consistent but biased: P is itself measured, and the mean of an inverse is not the inverse of
the mean. The bias falls as one over the real images per class. In simulations of judges that are right 60 to
90 % of the time with a condition number up to 3, the average over classes came out too high by 0.01 to 0.08
with 10 images per class, and by less than 0.01 with 100; a worse judge needs more (one that takes each class
for one other in 35 % of cases: 0.03 too high with 100). Below ENOUGH_REAL images of a class `note` says so.

Assumption: the judge errs on a synthetic image of class k as it does on a real one. It fails where synthetic
images look different (blurred, cleaner, of another style) or show no class at all. `confidence_gap` checks
this: the judge's mean confidence on the synthetic images, minus what it would be if images of the estimated
classes looked like real ones. An interval beside 0 says that they do not; one around 0 proves nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from synreal.data.labels import shorten
from synreal.errors import InputError
from synreal.evaluate.calibration import confidence
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.statistics import MINIMUM_IMAGES, cluster_codes, no_interval, percentile_interval
from synreal.evaluate.tally import ratio
from synreal.synbench.consistency import Clusters, check_same_judge, confusion

# A chance error of the judge's shares can grow by the condition number of P. Beyond 20, that of a share
# measured on 100 images (5 points) can fill the whole range from 0 to 1: nothing is identified.
LARGEST_CONDITION = 20.0
ENOUGH_REAL = 100  # real images of a class; with fewer, the bias (see above) can be a point or more

COLUMNS = ["model", "data", "metric", "group", "value", "n", "ci_low", "ci_high", "interval", "note"]


@dataclass(frozen=True)
class _Answers:
    """What the judge said of one set: `counts` [C, C] by label and answer, `sure` [C] its confidence."""

    counts: np.ndarray
    sure: np.ndarray

    @property
    def n(self) -> np.ndarray:
        return self.counts.sum(axis=1)

    @property
    def shares(self) -> np.ndarray:
        return ratio(self.counts, self.n[:, None])


def corrected_consistency(
    real: Predictions,
    synthetic: Predictions,
    clusters: Clusters = (None, None),
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per metric and group, with the columns of `evaluate.report`.

    Metrics: corrected_consistency, over all images and per class asked for; confidence_gap (see above);
    condition_number of the judge's confusion P, at least 1, NaN where P is singular. Intervals are 95 %
    percentile bootstraps that resample both sets, whole clusters where given. Where the condition number is
    above LARGEST_CONDITION the confusion does not identify the shares: values and bounds are NaN and `note`
    says so. `note` also says where a class has fewer than ENOUGH_REAL real images.

    `real`: the judge's predictions on real images that it was not trained on, of every one of its classes
    (see `consistency.among`). Raises InputError when a class has fewer than MINIMUM_IMAGES of them, or the
    two sets are not of the same judge.
    """
    check_same_judge(real, synthetic)
    _check_every_class(real)
    samples = zip(
        _resampled(real, clusters[0], draws, 2 * seed),
        _resampled(synthetic, clusters[1], draws, 2 * seed + 1),
        strict=True,
    )
    values = np.array([_estimates(*pair) for pair in samples]).T
    asked = np.bincount(synthetic.labels, minlength=len(synthetic.class_names))
    n, condition = [len(synthetic)] * 2 + asked.tolist(), condition_number(real)
    groups = [("corrected_consistency", "all"), ("confidence_gap", "all")]
    groups += [("corrected_consistency", name) for name in synthetic.class_names]
    bias = _bias(real)
    rows = [
        {"metric": metric, "group": group, **_row(values[i], n[i], condition, bias)}
        for i, (metric, group) in enumerate(groups)
        if n[i]
    ]
    singular = "" if np.isfinite(condition) else "infinite: the judge's confusion has no inverse"
    known = {"metric": "condition_number", "group": "all", "n": len(real), "interval": "", "note": singular}
    table = pd.DataFrame([*rows, known | {"value": np.nan if singular else condition}])
    return table.assign(model=synthetic.model, data=synthetic.image_set)[COLUMNS]


def condition_number(real: Predictions) -> float:
    """Largest over smallest singular value of the judge's confusion P on real images; inf where singular."""
    counts = confusion(real).to_numpy()
    return float(np.linalg.cond(ratio(counts, counts.sum(axis=1, keepdims=True))))


def _check_every_class(real: Predictions) -> None:
    count = np.bincount(real.labels, minlength=len(real.class_names))
    if rare := [name for name, n in zip(real.class_names, count, strict=True) if n < MINIMUM_IMAGES]:
        raise InputError(
            f"{real.image_set!r}: fewer than {MINIMUM_IMAGES} images of {len(rare)} of the judge's classes, "
            f"{shorten(rare)}; add real images of them, or restrict both sets with `consistency.among`"
        )


def _bias(real: Predictions) -> str:
    """A note where the smallest class has too few real images for the bias to be small."""
    count = np.bincount(real.labels, minlength=len(real.class_names))
    least = int(count.argmin())
    if count[least] >= ENOUGH_REAL:
        return ""
    return f"biased: {count[least]} real images of {real.class_names[least]}, fewer than {ENOUGH_REAL}"


def _resampled(
    predictions: Predictions, clusters: pd.Series | None, draws: int, seed: int
) -> Iterator[_Answers]:
    """The answers on the set itself, then on each bootstrap draw of it, whatever the order of its images."""
    order, classes = np.argsort(predictions.ids), len(predictions.class_names)
    labels, answers = predictions.labels[order], predictions.logits.argmax(axis=1)[order]
    sure, cells = confidence(predictions).to_numpy()[order], labels * classes + answers
    codes = cluster_codes(clusters, pd.Index(predictions.ids[order]))
    codes = np.arange(len(labels)) if codes is None else codes
    size, rng = int(codes.max()) + 1, np.random.default_rng(seed)
    for draw in range(1 + draws):
        picked = rng.integers(size, size=size) if draw else np.arange(size)
        times = np.bincount(picked, minlength=size)[codes]
        counts = np.bincount(cells, times, classes**2).reshape(classes, classes)
        yield _Answers(counts, np.bincount(labels, times * sure, classes))


def _estimates(real: _Answers, synthetic: _Answers) -> np.ndarray:
    """Corrected consistency of all images, confidence gap, corrected consistency by class: [2 + C]."""
    asked = synthetic.n > 0
    truly = np.full(synthetic.counts.shape, np.nan)
    truly[asked] = _unmixed(synthetic.shares[asked], real.shares)
    weight = synthetic.n[asked] / synthetic.n.sum()
    expected = truly[asked] @ ratio(real.sure, real.n)
    gap = ratio(synthetic.sure, synthetic.n)[asked] - expected
    share = truly.diagonal()
    return np.array([weight @ share[asked], weight @ gap, *share])


def _unmixed(answered: np.ndarray, judge: np.ndarray) -> np.ndarray:
    """W of answered = W judge, NaN where a draw left the judge's confusion singular."""
    try:
        return np.linalg.solve(judge.T, answered.T).T
    except np.linalg.LinAlgError:
        return np.full_like(answered, np.nan)


def _row(samples: np.ndarray, n: int, condition: float, bias: str) -> dict[str, object]:
    """`samples`: the value, then its bootstrap draws. bias: a note for values that have no other."""
    row = {"value": samples[0], "n": n, "ci_low": np.nan, "ci_high": np.nan, "interval": "bootstrap"}
    if condition > LARGEST_CONDITION:
        unknown = f"not identified: condition number {condition:.0f} > {LARGEST_CONDITION:.0f}"
        return row | {"value": np.nan, "note": unknown}
    if n < MINIMUM_IMAGES:
        return row | {"note": f"too few images ({n} < {MINIMUM_IMAGES})"}
    low, high = percentile_interval(samples[1:])
    return row | {"ci_low": low, "ci_high": high, "note": no_interval(samples[1:]) or bias}
