"""Fine-grained consistency: does a strong judge see the class that the label names? (P1 sec. 3.1, Fig. 4)

The consistency rate is the judge's accuracy against the labels, so it is computed as accuracy is. P1 takes
ConvNeXt-B and does not say whether it answers among its 1,000 classes or among the 100 of the set:
predictions as they are ask among all, `among` restricts them. The judge errs too; `correction` takes its
errors out.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError, shorten
from synreal.evaluate.metrics import accuracy_tally, correct, fine_grained_tally, fine_members
from synreal.evaluate.report import tally_report
from synreal.evaluate.resampling import (
    Metric,
    Sums,
    Tally,
    bootstrap_p,
    joined,
    no_interval,
    percentile_interval,
    proportion,
    ratio,
    resampled,
    with_holm,
)
from synreal.models.predictions import Predictions

Clusters = tuple[pd.Series | None, pd.Series | None]  # of the real and the synthetic set, see `report`


def among(predictions: Predictions, class_names: Sequence[str]) -> Predictions:
    """The judge's predictions had it been asked among these classes alone, in their order.

    Raises InputError for a class that the judge does not know, and for images of any other class.
    """
    known = {name: column for column, name in enumerate(predictions.class_names)}
    if unknown := [name for name in class_names if name not in known]:
        raise InputError(
            f"class_names: {predictions.model!r} does not know {shorten(unknown)}; leave them out"
        )
    columns = np.array([known[name] for name in class_names])
    position = np.full(len(known), -1)
    position[columns] = np.arange(len(columns))
    labels = position[predictions.labels]
    if others := int((labels < 0).sum()):
        raise InputError(
            f"class_names: {others} images of {predictions.image_set!r} are of other classes than "
            f"{shorten(class_names)}; add their classes, or leave these images out"
        )
    logits = np.ascontiguousarray(predictions.logits[:, columns])
    return replace(predictions, labels=labels, logits=logits, class_names=tuple(class_names))


def consistency(
    predictions: Predictions,
    hierarchy: Hierarchy | None = None,
    clusters: pd.Series | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per metric and group, with the columns and intervals of `evaluate.report`.

    Metrics: consistency (group all: the consistency rate); class_consistency per class; and with a hierarchy,
    for coarse groups of two classes or more, unrestricted_consistency (among all classes of the judge) and
    restricted_consistency (among those of the group), per group and as _micro and _macro averages, and of the
    inconsistent images, per group and over all such groups:
    - inside_share: how many are taken for another class of their coarse group, rather than something else;
    - inside_lift: how many times the share to expect if wrong answers fell evenly on all other classes.
    """
    tally = consistency_tally(predictions, np.unique(predictions.labels), hierarchy, clusters)
    return tally_report(predictions, tally, draws, seed)


def consistency_gap(
    real: Predictions,
    synthetic: Predictions,
    hierarchy: Hierarchy | None = None,
    clusters: Clusters = (None, None),
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per metric and group of `consistency`: by how much the synthetic set differs from the real one.

    Columns: judge, real, synthetic (names of the sets), metric, group, value_real, value_synthetic,
    difference (synthetic minus real), n_real, n_synthetic, ci_low, ci_high, p, p_holm, note. The two sets
    hold different images, so each is resampled on its own; p is of the bootstrap, p_holm adjusted across the
    groups of one metric. Bounds and p are NaN, and `note` says why, as in `evaluate.compare`.
    Raises InputError when the two are not of the same judge and classes.
    """
    check_same_judge(real, synthetic)
    classes = np.union1d(real.labels, synthetic.labels)
    tallies = [
        consistency_tally(part, classes, hierarchy, codes)
        for part, codes in zip((real, synthetic), clusters, strict=True)
    ]
    totals = [tally.totals() for tally in tallies]
    drawn = [resampled([tally], draws, 2 * seed + part)[0] for part, tally in enumerate(tallies)]
    table = pd.DataFrame([_gap(metric, tallies, totals, drawn) for metric in tallies[0].metrics])
    table = with_holm(table, "metric")
    names = {"judge": real.model, "real": real.image_set, "synthetic": synthetic.image_set}
    return pd.concat([pd.DataFrame(names, index=table.index), table], axis=1)


def check_same_judge(real: Predictions, synthetic: Predictions) -> None:
    """Raises InputError unless one judge with one preparation answered for both among the same classes."""
    for part in ("model_hash", "preprocess_hash", "class_names"):
        if getattr(real, part) != getattr(synthetic, part):
            raise InputError(
                f"{real.image_set!r} was judged by {real.model!r} among {len(real.class_names)} classes, "
                f"{synthetic.image_set!r} by {synthetic.model!r} among {len(synthetic.class_names)}: {part} "
                "differs; predict both with the same judge and classes"
            )


def confusion(predictions: Predictions) -> pd.DataFrame:
    """How many images of each label (rows) the judge takes for each class (columns)."""
    names = list(predictions.class_names)
    answers = predictions.logits.argmax(axis=1)
    counts = confusion_matrix(predictions.labels, answers, labels=np.arange(len(names)))
    return pd.DataFrame(counts, pd.Index(names, name="label"), pd.Index(names, name="judged"))


def group_confusion(predictions: Predictions, hierarchy: Hierarchy, coarse: str) -> pd.DataFrame:
    """`confusion` of the classes of one coarse group; column "elsewhere" counts answers outside it (Fig. 4b).

    Raises InputError for a group that the hierarchy does not have.
    """
    members = hierarchy.members(predictions.class_names)
    if coarse not in members:
        raise InputError(
            f"coarse: found {coarse!r}, expected a group of {hierarchy.name!r}: {shorten([*members])}"
        )
    rows = confusion(predictions).iloc[members[coarse]]
    inside = rows.iloc[:, members[coarse]]
    return inside.assign(elsewhere=rows.sum(axis=1) - inside.sum(axis=1))


def consistency_tally(
    predictions: Predictions, classes: np.ndarray, hierarchy: Hierarchy | None, clusters: pd.Series | None
) -> Tally:
    """The outcomes of one set and all metrics of `consistency`; `classes`: labels to measure one by one."""
    hit = correct(predictions)
    parts = [_renamed(accuracy_tally(hit)), _class_tally(predictions, classes, hit)]
    if hierarchy is not None:
        members = fine_members(predictions, hierarchy)
        parts += [_renamed(fine_grained_tally(predictions, members)), _inside_tally(predictions, members)]
    return joined(parts, clusters)


def _renamed(tally: Tally) -> Tally:
    named = (replace(metric, name=metric.name.replace("accuracy", "consistency")) for metric in tally.metrics)
    return replace(tally, metrics=tuple(named))


def _class_tally(predictions: Predictions, classes: np.ndarray, hit: pd.Series) -> Tally:
    columns: dict[str, np.ndarray] = {}
    metrics = []
    for label in classes:
        name, shown = predictions.class_names[label], predictions.labels == label
        columns |= {f"class:{name}": shown, f"class:{name}:correct": shown & hit.to_numpy()}
        metrics.append(proportion("class_consistency", name, f"class:{name}:correct", f"class:{name}"))
    return Tally(pd.DataFrame(columns, index=hit.index), tuple(metrics))


def _inside_tally(predictions: Predictions, members: dict[str, np.ndarray]) -> Tally:
    classes = len(predictions.class_names)
    group_of_class, chance = np.full(classes, -1), np.zeros(classes)
    for position, inside in enumerate(members.values()):
        group_of_class[inside], chance[inside] = position, (len(inside) - 1) / (classes - 1)
    labels, answers = predictions.labels, predictions.logits.argmax(axis=1)
    own = group_of_class[labels]
    groups = {"all": own >= 0} | {group: own == position for position, group in enumerate(members)}
    columns: dict[str, np.ndarray] = {}
    for group, rows in groups.items():
        wrong = rows & (answers != labels)
        columns |= {
            f"wrong:{group}": wrong,
            f"wrong:{group}:inside": wrong & (group_of_class[answers] == own),
            f"wrong:{group}:chance": wrong * chance[labels],
        }
    frame = pd.DataFrame(columns, index=pd.Index(predictions.ids, name="id"))
    return Tally(frame, tuple(metric for group in groups for metric in _inside_metrics(group)))


def _inside_metrics(group: str) -> list[Metric]:
    wrong, inside, chance = f"wrong:{group}", f"wrong:{group}:inside", f"wrong:{group}:chance"
    lift = Metric("inside_lift", group, (wrong,), lambda sums: ratio(sums[inside], sums[chance]))
    return [proportion("inside_share", group, inside, wrong), lift]


def _gap(
    metric: Metric, tallies: Sequence[Tally], totals: Sequence[Sums], drawn: Sequence[Sums]
) -> dict[str, object]:
    real, synthetic = (float(metric.value(sums)) for sums in totals)
    row = {"metric": metric.name, "group": metric.group, "value_real": real, "value_synthetic": synthetic}
    row |= {"difference": synthetic - real, "n_real": metric.n(totals[0]), "n_synthetic": metric.n(totals[1])}
    note = next(filter(None, (tally.too_few(metric) for tally in tallies)), "")
    if note:
        return row | {"ci_low": np.nan, "ci_high": np.nan, "p": np.nan, "note": note}
    samples = metric.value(drawn[1]) - metric.value(drawn[0])
    low, high = percentile_interval(samples)
    return row | {"ci_low": low, "ci_high": high, "p": bootstrap_p(samples), "note": no_interval(samples)}
