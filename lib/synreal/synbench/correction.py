"""Consistency of labels as a judge sees it, corrected for the judge's own errors (P1 sec. 3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import datasets
import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.data.imageset import class_names
from synreal.data.worlds import World
from synreal.errors import InputError, shorten
from synreal.evaluate.metrics import confidence, correct, fine_members
from synreal.evaluate.resampling import MINIMUM_IMAGES, cluster_codes, no_interval, percentile_interval, ratio
from synreal.models.card import Card
from synreal.models.load import load_classifier
from synreal.models.predictions import Predictions, predict_cached
from synreal.synbench.compare import ALL, Measured
from synreal.synbench.consistency import (
    Clusters,
    among,
    check_same_judge,
    confusion,
    consistency,
    consistency_gap,
    group_confusion,
)
from synreal.synbench.measures import YES_NO

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


# Consistency as a measure: does the judge see the class that the label names? (P1 sec. 3.1)


@dataclass(frozen=True)
class Consistency:
    """1 where the judge's answer is the label, 0 elsewhere.

    judge: a checkpoint's card. restricted: whether it answers among the classes of the set
    alone, or among all it knows; P1 does not say which. In the scenes both are the same.
    """

    judge: Card
    restricted: bool = False
    device: str = "cpu"
    name: str = "consistency"
    unit: str = YES_NO

    @cached_property
    def fingerprint(self) -> str:
        """The judge's weights and preparation of images, and whom it answers among."""
        classifier = load_classifier(self.judge)
        return f"{classifier.model_hash} {classifier.preprocess_hash} {self.restricted}"

    def values(self, images: datasets.Dataset) -> pd.Series:
        """One value per image, indexed by image id, in the order of the images."""
        return correct(self.predictions(World("", images, None, None))).astype(float).rename(self.name)

    def predictions(self, world: World) -> Predictions:
        """The judge's answers on a set, for the tables of `consistency` and `correction`; kept on disk.

        Raises InputError for a class that the judge does not know.
        """
        found = predict_cached(self.judge, world, device=self.device)
        return among(found, class_names(world.images)) if self.restricted else found


# What the judge's answers say beyond the consistency rate: who is taken for whom (P1 sec. 3.1, Fig. 4b).


GROUPED = [
    f"{kind}_consistency{average}"
    for kind in ("unrestricted", "restricted")
    for average in ("", "_micro", "_macro")
] + ["inside_share", "inside_lift"]
CORRECTED = ["corrected_consistency", "confidence_gap", "condition_number"]
SIDES = ("real", "synthetic")


def answers(measure: Consistency, measured: Measured, classes: list[str]) -> Predictions:
    """The judge's answers among these classes, in their order: the one set of classes that all sets share."""
    return among(measure.predictions(measured.world), classes)


def fine_grained(
    real: Predictions,
    synthetic: Predictions,
    hierarchy: Hierarchy | None = None,
    clusters: Clusters = (None, None),
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per statistic and group: those columns, value, n_real, n_synthetic, ci_low, ci_high, p, p_holm,
    note.

    With a hierarchy the metrics of `consistency` for coarse groups, each as _real, _synthetic and _difference
    (synthetic minus real, p_holm across groups); and of `corrected_consistency` all, also by class. Where the
    real images do not suffice to correct, its value is NaN and `note` says why.
    """
    corrected = _corrected(real, synthetic, clusters, draws, seed)
    if hierarchy is None:
        return corrected
    gap = consistency_gap(real, synthetic, hierarchy, clusters, draws, seed)
    gap = gap[gap["metric"].isin(GROUPED)]
    counts = gap[["metric", "group", "n_real", "n_synthetic"]]
    tables = [gap.rename(columns={"difference": "value"}).assign(statistic=gap["metric"] + "_difference")]
    for side, part, own in zip(SIDES, (real, synthetic), clusters, strict=True):
        single = consistency(part, hierarchy, own, draws, seed).merge(counts, on=["metric", "group"])
        tables.append(single.assign(statistic=single["metric"] + f"_{side}"))
    table = pd.concat([*tables, corrected], ignore_index=True)
    return table[list(corrected.columns)]


def groups_by_statistic(classes: Sequence[str], hierarchy: Hierarchy | None) -> dict[str, list[str]]:
    """By statistic of `fine_grained` that can have an interval, the groups it is given for."""
    found = {"corrected_consistency": [ALL, *classes], "confidence_gap": [ALL]}
    if hierarchy is None:
        return found
    several = [coarse for coarse, fine in hierarchy.groups.items() if len(fine) > 1]
    for metric in GROUPED:
        whole = metric.startswith("inside") or metric.endswith(("_micro", "_macro"))
        parts = [] if metric.endswith(("_micro", "_macro")) else several
        found |= {f"{metric}_{part}": [ALL] * whole + parts for part in (*SIDES, "difference")}
    return found


def group_confusions(predictions: Predictions, hierarchy: Hierarchy) -> dict[str, pd.DataFrame]:
    """`group_confusion` by coarse group, of those with two classes or more."""
    return {
        coarse: group_confusion(predictions, hierarchy, coarse)
        for coarse in fine_members(predictions, hierarchy)
    }


def disagreements(predictions: Predictions, count: int) -> pd.DataFrame:
    """The `count` images that the judge is surest to show another class than their label.

    Columns row (place in the image set), label, judged (class names), confidence; indexed by image id, the
    surest first.
    """
    names, answer = np.array(predictions.class_names), predictions.logits.argmax(axis=1)
    table = pd.DataFrame(
        {
            "row": np.arange(len(predictions)),
            "label": names[predictions.labels],
            "judged": names[answer],
            "confidence": confidence(predictions).to_numpy(),
        },
        index=pd.Index(predictions.ids, name="id"),
    )
    wrong = table[answer != predictions.labels]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(count)


def _corrected(
    real: Predictions, synthetic: Predictions, clusters: Clusters, draws: int, seed: int
) -> pd.DataFrame:
    try:
        table = corrected_consistency(real, synthetic, clusters, draws, seed)
    except InputError as error:
        reason = {"metric": CORRECTED[0], "group": "all", "value": np.nan, "note": str(error)}
        table = pd.DataFrame([reason]).assign(n=len(synthetic), ci_low=np.nan, ci_high=np.nan)
    table = table.rename(columns={"metric": "statistic", "n": "n_synthetic"})
    table = table.assign(n_real=len(real), p=np.nan, p_holm=np.nan)
    columns = ["statistic", "group", "value", "n_real", "n_synthetic", "ci_low", "ci_high", "p", "p_holm"]
    return table[[*columns, "note"]]
