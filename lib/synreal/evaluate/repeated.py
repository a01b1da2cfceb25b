"""Metrics of classifiers that were trained several times: images crossed with trainings."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy.stats import t

from synreal.data.hierarchy import Hierarchy
from synreal.data.tasks import Task
from synreal.errors import InputError
from synreal.evaluate.metrics import correct, restricted_correct
from synreal.evaluate.report import check_same_images, predictions_tally
from synreal.evaluate.resampling import (
    ROUNDING,
    Metric,
    Sums,
    Tally,
    cluster_codes,
    require_images,
    resampled,
)
from synreal.models.predictions import Predictions
from synreal.train.adapt import PROTOCOLS, Adapted

# From the sums of each model, in the order named, to one number, or one number per bootstrap draw.
Statistic = Callable[..., np.ndarray]
Number = float | np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A mean over so many trainings (`seeds`), its 95 % interval, and the two-sided p value of 0.

    Bounds and p are NaN where nothing varies: nothing is known of chance.
    """

    value: float
    ci_low: float
    ci_high: float
    seeds: int
    p: float = np.nan


# The one interval of the book. A training has its seed (first weights, order, training photographs), a test
# its photographs; an interval over one of them alone claims too much. The variance of a mean over trainings
# is that between trainings over their number, plus that between test photographs. The chance of single
# answers is in both parts, so the interval is a little too wide rather than too narrow.


# Three trainings often show too little of their spread, and Satterthwaite's rule believes them: without this,
# a 95 % interval holds the truth in 92 % of cases where trainings vary a few times as much as images.
CAUTION = 0.75


def crossed_interval(
    value: Number, *parts: tuple[Number, Number], confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interval of a value that rests on trainings and test images, and the two-sided p value of 0.

    parts: the variance of the value from each source of chance (its trainings, its test images), with that
    variance's degrees of freedom. Their sum has Satterthwaite's degrees of freedom, as in studies of several
    readers and several cases (Hillis 2007), of which `CAUTION` counts, but no fewer than the fewest of a part
    has. All may be arrays [K]. NaN where nothing varies.
    """
    variance = sum(part for part, _ in parts)
    error = np.where(variance > ROUNDING**2, variance, np.nan) ** 0.5
    freedom = error**4 / sum(np.square(part) / degrees for part, degrees in parts)
    fewest = reduce(np.minimum, (np.where(np.asarray(part) > 0, degrees, np.inf) for part, degrees in parts))
    freedom = np.maximum(CAUTION * freedom, np.minimum(fewest, freedom))
    half = t.ppf((1 + confidence) / 2, freedom) * error
    return value - half, value + half, 2 * t.sf(np.abs(value) / error, freedom)


def crossed_estimate(values: np.ndarray, images: tuple[float, int], confidence: float = 0.95) -> Estimate:
    """The mean of `values` [seeds], one of each training, with its interval.

    images: the variance of the mean from the choice of test images, and its degrees of freedom. A single
    training says nothing of chance between trainings; then the interval is over images alone.
    """
    value, seeds = float(values.mean()), len(values)
    trainings = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    parts = (trainings, max(seeds - 1, 1)), images
    low, high, p = (float(end) for end in crossed_interval(value, *parts, confidence=confidence))
    return Estimate(value, low, high, seeds, p)


def drawn_variance(drawn: np.ndarray, units: int) -> tuple[float, int]:
    """Variance of bootstrap draws [draws] of so many `units`, images or clusters, and degrees of freedom."""
    return float(np.nanvar(drawn)) if np.isfinite(drawn).any() else 0.0, units - 1


@dataclass(frozen=True)
class Repeated:
    """The outcomes of models on one image set, summed as they are and in the same bootstrap draws.

    metrics: by name and group, as `report` has them. runs: by model, one (sums, drawn sums) per seed.
    tally: of any one of the models, for what all have in common.
    """

    metrics: Mapping[tuple[str, str], Metric]
    runs: Mapping[str, Sequence[tuple[Sums, Sums]]]
    tally: Tally

    @classmethod
    def of(
        cls,
        models: Mapping[str, Sequence[Predictions]],
        hierarchy: Hierarchy | None = None,
        factors: pd.DataFrame | None = None,
        clusters: pd.Series | None = None,
        draws: int = 1000,
        seed: int = 0,
    ) -> "Repeated":
        """Of each model one Predictions per seed, or a single one where it was trained once.

        Raises InputError when they are not of the same images, and as `report`.
        """
        flat = [run for runs in models.values() for run in runs]
        for other in flat[1:]:
            check_same_images(flat[0], other)
        tallies = [predictions_tally(run, hierarchy, factors, clusters) for run in flat]
        summed = zip((tally.totals() for tally in tallies), resampled(tallies, draws, seed), strict=True)
        runs = {name: [next(summed) for _ in predictions] for name, predictions in models.items()}
        metrics = {(metric.name, metric.group): metric for metric in tallies[0].metrics}
        return cls(metrics, runs, tallies[0])

    def n(self, name: str, group: str = "all") -> int:
        """How many images a metric is computed from."""
        return self.metrics[name, group].n(self.tally.totals())

    def too_few(self, name: str, group: str = "all") -> str:
        """Why a metric has no interval, or nothing where it has one."""
        return self.tally.too_few(self.metrics[name, group])

    def metric(self, name: str, model: str, group: str = "all") -> Estimate:
        """A metric of one model."""
        return self.estimate(self.metrics[name, group].value, model)

    def difference(self, name: str, a: str, b: str, group: str = "all") -> Estimate:
        """A metric of a minus that of b, on the same images, seed by seed."""
        value = self.metrics[name, group].value
        return self.estimate(lambda first, second: value(first) - value(second), a, b)

    def estimate(self, statistic: Statistic, *models: str) -> Estimate:
        """Any statistic of the sums of the named models.

        A model that was trained once stands beside every seed of the others. Raises InputError when two were
        trained several times, but not equally often.
        """
        seeds = self._seeds(models)
        columns = [[self.runs[name][seed % len(self.runs[name])] for name in models] for seed in range(seeds)]
        values = np.array([float(statistic(*(total for total, _ in runs))) for runs in columns])
        drawn = np.mean([statistic(*(draw for _, draw in runs)) for runs in columns], axis=0)
        return crossed_estimate(values, drawn_variance(drawn, self.tally.units))

    def _seeds(self, models: Sequence[str]) -> int:
        counts = {len(self.runs[name]) for name in models} - {1}
        if len(counts) > 1:
            found = ", ".join(f"{name} {len(self.runs[name])}" for name in models)
            raise InputError(f"seeds: found {found}; expected the same number for each, or one")
        return counts.pop() if counts else 1


@dataclass(frozen=True, eq=False)
class Effect:
    """A number that each of S trainings gave, and how each test image moves their mean.

    per_seed: float [S]. influence: float [N] over all test images, 0 where an image plays no part; it sums
    to 0. Effects on the same test images and seeds subtract, which keeps their pairing.
    """

    per_seed: np.ndarray
    influence: np.ndarray
    n: int

    @classmethod
    def of(cls, values: np.ndarray, chosen: np.ndarray, what: str) -> "Effect":
        """The mean over the `chosen` images (bool [N]) of `values` [S, N], such as 0/1 for a right answer.

        Raises InputError naming `what` when fewer images are chosen than an interval needs.
        """
        n = int(chosen.sum())
        require_images(n, what)
        mean = values.mean(axis=0)
        influence = np.where(chosen, mean - mean[chosen].mean(), 0.0) / n
        return cls(values[:, chosen].mean(axis=1), influence, n)

    def __add__(self, other: "Effect") -> "Effect":
        seeds = {len(self.per_seed), len(other.per_seed)} - {1}
        if len(seeds) > 1:
            raise InputError(f"seeds: found {sorted(seeds)}; expected the same number for each, or one")
        influence = self.influence + other.influence
        return Effect(self.per_seed + other.per_seed, influence, min(self.n, other.n))

    def __truediv__(self, number: float) -> "Effect":
        return Effect(self.per_seed / number, self.influence / number, self.n)

    def __sub__(self, other: "Effect") -> "Effect":
        return self + other / -1

    def estimate(self, clusters: np.ndarray, confidence: float = 0.95) -> Estimate:
        """Mean over seeds and its interval; `clusters`: codes [N] of the photographs that images show."""
        moved = np.bincount(clusters, weights=self.influence)
        degrees = max(len(np.unique(clusters[self.influence != 0])) - 1, 1)
        images = float((moved**2).sum()) * (degrees + 1) / degrees
        return crossed_estimate(self.per_seed, (images, degrees), confidence)


def mean_effect(effects: Sequence[Effect]) -> Effect:
    """Their mean, seed by seed and photograph by photograph."""
    return reduce(add, effects) / len(effects)


Key = TypeVar("Key", bound=Hashable)


def hits_by_training(repeats: Sequence[Predictions]) -> pd.DataFrame:
    """Whether a training was right: bool, one row per image, sorted by id, and one column per training.

    Raises InputError when the trainings answered different images.
    """
    return _by_training([correct(predictions) for predictions in repeats])


def _by_training(repeats: Sequence[pd.Series]) -> pd.DataFrame:
    columns = [column.sort_index() for column in repeats]
    if any(not column.index.equals(columns[0].index) for column in columns):
        raise InputError("repeats: the trainings were predicted on different images; predict all on the same")
    return pd.concat(columns, axis=1, keys=range(len(columns)))


def hit_effects(
    hits: Mapping[Key, pd.DataFrame], clusters: pd.Series | None
) -> tuple[dict[Key, Effect], np.ndarray]:
    """By key the mean accuracy as an Effect over all images that occur, and the codes of their clusters.

    hits: as `hits_by_training`; clusters: names by image id, None where images are independent.
    """
    images = pd.Index(sorted(set().union(*(frame.index for frame in hits.values()))))
    codes = cluster_codes(clusters, images)
    effects = {
        key: Effect.of(
            frame.reindex(images, fill_value=False).to_numpy(float).T, images.isin(frame.index), str(key)
        )
        for key, frame in hits.items()
    }
    return effects, np.arange(len(images)) if codes is None else codes


# A function of many trainings at once, such as a law fitted to accuracies at several sizes of training data.


STEP = 0.005  # of accuracy, by which a mean is moved to see what follows from it


@dataclass(frozen=True, eq=False)
class Repeats:
    """Trainings [R] of several groups [G], such as sizes of training data, and the chance in their means.

    accuracies: float [R]; group: int [R]. luck: what independent trainings, or sets of them, add to each mean
    [units, G], those that are alike together. images: covariance [G, G] of the means from the choice of test
    images, and its degrees of freedom.
    """

    accuracies: np.ndarray
    group: np.ndarray
    luck: Sequence[np.ndarray]
    images: tuple[np.ndarray, int]

    @classmethod
    def of(
        cls,
        accuracies: np.ndarray,
        groups: Sequence[Hashable],
        seeds: Sequence[Hashable] | None = None,
        influence: np.ndarray | None = None,
    ) -> "Repeats":
        """influence: [R, U], how each of U independent test images or clusters moves a training's accuracy.

        Trainings of one seed vary together where each group has every seed once; otherwise all are
        independent. Without `influence` the test images are taken as fixed. Raises InputError for a group
        with a single training.
        """
        group, names = pd.factorize(pd.Series(list(groups)))
        counts = np.bincount(group)
        if (counts < 2).any():
            raise InputError(
                f"seeds: found 1 training of {names[counts.argmin()]}, expected 2 or more, better 3, of "
                "each; nothing is known of chance without repeats"
            )
        member = (group[:, None] == np.arange(len(counts))) / counts  # [R, G]: means are accuracies @ member
        own = member * (accuracies - (accuracies @ member)[group])[:, None]
        luck = [own[group == one] for one in range(len(counts))]
        if seeds is not None and (pd.crosstab(pd.Series(list(seeds)), group) == 1).all(axis=None):
            luck = [pd.DataFrame(own).groupby(np.asarray(seeds)).sum().to_numpy()]
        images = np.zeros((len(counts), len(counts))), 1
        if influence is not None:
            moved, units = member.T @ influence, influence.shape[1]
            images = moved @ moved.T * units / (units - 1), units - 1
        return cls(accuracies, group, luck, images)

    def moved(self) -> np.ndarray:
        """The accuracies [G, 2, R] with one group's a STEP higher, and lower."""
        chosen = self.group == np.arange(len(self.images[0]))[:, None]
        return self.accuracies + STEP * np.stack([chosen, -1.0 * chosen], axis=1)

    def interval(self, value: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`crossed_interval` [K] of any smooth function of the accuracies, and p.

        value: [K]; moved: [G, 2, K], the same function of the accuracies `moved`: how it follows each mean.
        """
        slope = (moved[:, 0] - moved[:, 1]) / (2 * STEP)
        covariance, degrees = self.images
        parts = [(np.einsum("gk,gh,hk->k", slope, covariance, slope), degrees)]
        for luck in self.luck:
            units = len(luck)
            parts.append((((luck @ slope) ** 2).sum(axis=0) * units / (units - 1), units - 1))
        return crossed_interval(value, *parts)


# What a generator's artefacts cost: fine-grained and broad accuracy after training on perturbed real images.
#
# P2 Figure 4 perturbs real images by SDEdit and finds that artefacts damage what fine-grained tasks need, and
# less what broad ones need. Here one model answers both questions: which of a coarse group's classes an image
# shows, and which coarse group.


DETAILS = ("fine", "broad")
COLUMNS = ("detail", "strength", "accuracy", "sd", "cost", "ci_low", "ci_high", "seeds", "n")
NO_COSTS = pd.DataFrame(columns=list(COLUMNS))  # where nothing was perturbed


def fine_hits(predictions: Predictions, hierarchy: Hierarchy, group: str) -> pd.Series:
    """Whether the right class of `group` is chosen among its classes; its images alone, bool by id."""
    classes = hierarchy.members(predictions.class_names)[group]
    return restricted_correct(predictions, {group: classes})[np.isin(predictions.labels, classes)]


def broad_hits(predictions: Predictions, hierarchy: Hierarchy) -> pd.Series:
    """Whether the chosen class is of the label's coarse group; all images, bool by id."""
    group_of = np.empty(len(predictions.class_names), dtype=object)
    for coarse, classes in hierarchy.members(predictions.class_names).items():
        group_of[classes] = coarse
    hit = group_of[predictions.logits.argmax(axis=1)] == group_of[predictions.labels]
    return pd.Series(hit, index=pd.Index(predictions.ids, name="id"))


def perturbation_costs(
    runs: Mapping[float, Sequence[Predictions]],
    hierarchy: Hierarchy,
    group: str,
    clusters: pd.Series | None,
) -> pd.DataFrame:
    """One row per detail and strength, with COLUMNS.

    runs: predictions by strength, one per training; strength 0 are the unperturbed images. detail: fine,
    broad, and "fine minus broad". cost: accuracy at strength 0 minus accuracy.
    """
    hits = {
        **{
            ("fine", at): _by_training([fine_hits(one, hierarchy, group) for one in own])
            for at, own in runs.items()
        },
        **{
            ("broad", at): _by_training([broad_hits(one, hierarchy) for one in own])
            for at, own in runs.items()
        },
    }
    effects, codes = hit_effects(hits, clusters)
    costs = {(detail, at): effects[detail, 0.0] - own for (detail, at), own in effects.items()}
    costs |= {
        ("fine minus broad", at): costs["fine", at] - costs["broad", at] for at in sorted(set(runs) - {0.0})
    }
    rows = []
    for (detail, strength), cost in costs.items():
        own = hits.get((detail, strength), pd.DataFrame()).mean()
        found = cost.estimate(codes)
        bounds = found.ci_low, found.ci_high
        rows.append((detail, strength, own.mean(), own.std(), found.value, *bounds, found.seeds, cost.n))
    return pd.DataFrame(rows, columns=list(COLUMNS))


# The accuracies of many adapted models on many tasks, and any comparison among them with its uncertainty.


Cell = tuple[str, str, str, int]  # task, protocol, source, budget
CellStatistic = Callable[[Mapping[Cell, Effect]], Effect]  # such as a difference of two cells
ALL = "all tasks"


@dataclass(frozen=True)
class Accuracies:
    """Every adapted model's accuracy, and how trainings and test images move it.

    table: task, protocol, source, budget, value (mean over seeds), ci_low, ci_high, seeds, sd, n.
    effects: by (task, protocol, source, budget); clusters: of their images.
    """

    table: pd.DataFrame
    effects: Mapping[Cell, Effect]
    clusters: np.ndarray

    @property
    def means(self) -> dict[Cell, float]:
        """Accuracies, by (task, protocol, source, budget)."""
        return {cell: float(effect.per_seed.mean()) for cell, effect in self.effects.items()}

    def effect(self, statistic: CellStatistic, confidence: float = 0.95) -> dict[str, float]:
        """value, ci_low, ci_high and p of sums, differences and means of cells."""
        found = statistic(self.effects).estimate(self.clusters, confidence)
        return {"value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "p": found.p}

    def extreme(self, statistics: Sequence[CellStatistic], largest: bool) -> dict[str, float]:
        """value, ci_low and ci_high of the largest (or least) of several statistics.

        Which one it is is not known either. So each gets Bonferroni's interval, which holds for all of them
        at once; the largest of all is then between the largest lower and the largest upper end.
        """
        each = pd.DataFrame([self.effect(one, 1 - 0.05 / len(statistics)) for one in statistics])
        ends = each[["value", "ci_low", "ci_high"]]
        return (ends.max() if largest else ends.min()).to_dict()

    def budgets(self, task: str, source: str) -> list[int]:
        """What was measured, in ascending order."""
        rows = self.table[(self.table["task"] == task) & (self.table["source"] == source)]
        return sorted(rows["budget"].unique().tolist())

    def shared_budgets(self, task: str) -> list[int]:
        """At which retrieved meets synthetic."""
        return sorted(set(self.budgets(task, "retrieved")) & set(self.budgets(task, "synthetic")))

    @property
    def tasks(self) -> list[str]:
        """In the order measured."""
        return list(self.table["task"].unique())

    def n(self, task: str) -> int:
        """Test images of a task, or of the smallest for "all tasks"."""
        rows = self.table if task == ALL else self.table[self.table["task"] == task]
        return int(rows["n"].min())


def accuracies(runs: Sequence[Adapted], tasks: Sequence[Task]) -> Accuracies:
    """The accuracies of all runs; runs that differ in the seed alone are repeats of each other.

    Tasks may share test images, and those with the same classes share trainings, seed by seed.
    """
    hits = {key: part for task in tasks for key, part in _repeats(runs, task.name).items()}
    clusters = pd.concat([task.clusters for task in tasks])
    effects, codes = hit_effects(hits, clusters[~clusters.index.duplicated()])
    rows = []
    for cell, effect in effects.items():
        place = dict(zip(("task", "protocol", "source", "budget"), cell, strict=True))
        deviation = effect.per_seed.std(ddof=1) if len(effect.per_seed) > 1 else np.nan
        rows.append(place | vars(effect.estimate(codes)) | {"sd": deviation, "n": effect.n})
    return Accuracies(pd.DataFrame(rows).drop(columns="p"), effects, codes)


def _repeats(runs: Sequence[Adapted], task: str) -> dict[Cell, pd.DataFrame]:
    own = [run for run in runs if run.task == task]
    keys = dict.fromkeys((run.source, run.budget) for run in own)
    return {
        (task, protocol, source, budget): hits_by_training(
            [run.predictions[protocol] for run in own if (run.source, run.budget) == (source, budget)]
        )
        for source, budget in keys
        for protocol in PROTOCOLS
    }
