"""Metrics of classifiers that were trained several times: images crossed with trainings."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

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
    bootstrap_p,
    cluster_codes,
    crossed_interval,
    percentile_interval,
    require_images,
    resampled,
    resampled_sums,
)
from synreal.models.predictions import Predictions
from synreal.train.adapt import READINGS, Adapted

# From the sums of each model, in the order named, to one number, or one number per bootstrap draw.
Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A mean over so many seeds with its 95 % interval; bounds are NaN where the draws never vary."""

    value: float
    ci_low: float
    ci_high: float
    seeds: int


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
        return crossed_estimate(values, drawn, self.tally.units)

    def _seeds(self, models: Sequence[str]) -> int:
        counts = {len(self.runs[name]) for name in models} - {1}
        if len(counts) > 1:
            found = ", ".join(f"{name} {len(self.runs[name])}" for name in models)
            raise InputError(f"seeds: found {found}; expected the same number for each, or one")
        return counts.pop() if counts else 1


def crossed_estimate(values: np.ndarray, drawn: np.ndarray, units: int) -> Estimate:
    """The mean of a statistic over trainings and its `crossed_interval`; NaN bounds where nothing varies.

    values: of each training [seeds]. drawn: the mean in bootstrap draws [draws] of so many `units`, images or
    clusters.
    """
    value, seeds = float(values.mean()), len(values)
    photographs = float(np.nanvar(drawn)) if np.isfinite(drawn).any() else 0.0
    trainings = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    if not np.isfinite(value) or (photographs + trainings) ** 0.5 <= ROUNDING:
        return Estimate(value, np.nan, np.nan, seeds)
    low, high, _ = crossed_interval(value, (trainings, max(seeds - 1, 1)), (photographs, units - 1))
    return Estimate(value, low, high, seeds)


# Effects measured by several trainings on the same test images, with both sources of chance.
#
# A training has its seed (first weights, order, training photographs), a test its photographs. An interval
# over one of them alone claims too much. Here the variance of the mean over seeds is the variance between
# seeds over their number, plus that between test photographs (`crossed_interval`). The chance of single
# answers is in both parts, so the interval is a little too wide rather than too narrow.


class Interval(NamedTuple):
    """A value with its 95 % interval, the two-sided p value of 0, and the test images behind it."""

    value: float
    ci_low: float
    ci_high: float
    p: float
    n: int


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

    def __sub__(self, other: "Effect") -> "Effect":
        influence = self.influence - other.influence
        return Effect(self.per_seed - other.per_seed, influence, min(self.n, other.n))

    def estimate(self, clusters: np.ndarray) -> Interval:
        """Mean over seeds and its interval; `clusters`: codes [N] of the photographs that images show.

        Raises InputError for fewer than two seeds.
        """
        seeds = len(self.per_seed)
        if seeds < 2:
            raise InputError(f"seeds: found {seeds}, expected 2 or more for an interval, better 3")
        between = self.per_seed.var(ddof=1) / seeds
        moved = np.bincount(clusters, weights=self.influence)
        units = len(np.unique(clusters[self.influence != 0]))
        images = units / max(units - 1, 1) * float((moved**2).sum())
        value = float(self.per_seed.mean())
        return Interval(
            value, *crossed_interval(value, (between, seeds - 1), (images, max(units - 1, 1))), self.n
        )


# Mean accuracy over repeated trainings: both the images and the trainings are a sample.
#
# P2 reports mean and one standard deviation over seeds (Fig. 2), which says how much a training varies, but
# not how well the test images tell the truth. The bootstrap here resamples both (Owen 2007, the pigeonhole
# bootstrap); its draws serve any function of several means, such as the least of their differences.


Key = TypeVar("Key", bound=Hashable)


def hits_by_training(repeats: Sequence[Predictions]) -> pd.DataFrame:
    """Whether a training was right: bool, one row per image, sorted by id, and one column per training.

    Raises InputError when the trainings answered different images.
    """
    columns = [correct(predictions).sort_index() for predictions in repeats]
    if any(not column.index.equals(columns[0].index) for column in columns):
        raise InputError("repeats: the trainings were predicted on different images; predict all on the same")
    return pd.concat(columns, axis=1, keys=range(len(columns)))


def resampled_means(
    hits: Mapping[Key, pd.DataFrame],
    clusters: pd.Series | None,
    draws: int = 2000,
    seed: int = 0,
    training: Callable[[Key], Hashable] | None = None,
) -> dict[Key, np.ndarray]:
    """Mean accuracy in `draws` bootstrap samples, float [draws] by key.

    hits: as `hits_by_training`. A draw is one of all images that occur in them, shared by all keys, so that
    answers to the same image vary together. clusters: names by image id; whole clusters are drawn.
    training: what was trained, by key; where it is the same, one draw of trainings serves. Without it each
    key has trainings of its own. As many are drawn as there are, with replacement.
    """
    images = pd.Index(sorted(set().union(*(frame.index for frame in hits.values()))))
    columns = [
        np.column_stack([images.isin(frame.index), frame.reindex(images, fill_value=False)])
        for frame in hits.values()
    ]
    sums = resampled_sums(np.hstack(columns).astype(np.float32), draws, seed, cluster_codes(clusters, images))
    ends = np.cumsum([part.shape[1] for part in columns])[:-1]
    rng, picked, means = np.random.default_rng([seed, 1]), dict[Hashable, np.ndarray](), {}
    for key, part in zip(hits, np.split(sums, ends, axis=1), strict=True):
        shares, same = part[:, 1:] / part[:, :1], training(key) if training else key
        if same not in picked:
            picked[same] = rng.integers(0, shares.shape[1], shares.shape)
        means[key] = np.take_along_axis(shares, picked[same], axis=1).mean(axis=1)
    return means


# What a generator's artefacts cost: fine-grained and broad accuracy after training on perturbed real images.
#
# P2 Figure 4 perturbs real images by SDEdit and finds that artefacts damage what fine-grained tasks need, and
# less what broad ones need. Here one model answers both questions: which of a coarse group's classes an image
# shows, and which coarse group.


DETAILS = ("fine", "broad")
COLUMNS = ("detail", "strength", "accuracy", "sd", "cost", "ci_low", "ci_high", "seeds", "n")
NO_COSTS = pd.DataFrame(columns=list(COLUMNS))  # where nothing was perturbed
Perturbation = tuple[str, float]  # detail and strength
Cost = tuple[float, np.ndarray]  # the cost, and [draws] of it


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
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per detail and strength, with COLUMNS.

    runs: predictions by strength, one per training; strength 0 are the unperturbed images. detail: fine,
    broad, and "fine minus broad". cost: accuracy at strength 0 minus accuracy; its interval resamples images
    and trainings, the same for both details.
    """
    hits = {
        (detail, strength): _hits(detail, repeats, hierarchy, group)
        for detail in DETAILS
        for strength, repeats in runs.items()
    }
    drawn = resampled_means(hits, clusters, draws, seed, training=lambda key: key[1])
    rows = []
    for (detail, strength), (cost, lost) in _costs(hits, drawn).items():
        own = hits.get((detail, strength))
        accuracy = {} if own is None else {"accuracy": own.mean().mean(), "sd": own.mean().std()}
        low, high = percentile_interval(lost)
        counts = {"seeds": len(runs[strength]), "n": len(hits["fine", strength] if own is None else own)}
        interval = {"cost": cost, "ci_low": min(low, cost), "ci_high": max(high, cost)}
        rows.append({"detail": detail, "strength": strength} | accuracy | interval | counts)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _costs(
    hits: Mapping[Perturbation, pd.DataFrame], drawn: Mapping[Perturbation, np.ndarray]
) -> dict[Perturbation, Cost]:
    """By detail and strength, "fine minus broad" among the details: the cost, and the same in every draw."""
    means = {key: frame.mean().mean() for key, frame in hits.items()}
    costs = {
        (detail, strength): (means[detail, 0.0] - mean, drawn[detail, 0.0] - drawn[detail, strength])
        for (detail, strength), mean in means.items()
    }
    for strength in sorted({strength for _, strength in hits} - {0.0}):
        (fine, fine_drawn), (broad, broad_drawn) = (costs[detail, strength] for detail in DETAILS)
        costs["fine minus broad", strength] = fine - broad, fine_drawn - broad_drawn
    return costs


def _hits(detail: str, repeats: Sequence[Predictions], hierarchy: Hierarchy, group: str) -> pd.DataFrame:
    columns = [
        fine_hits(one, hierarchy, group) if detail == "fine" else broad_hits(one, hierarchy)
        for one in repeats
    ]
    return pd.concat(columns, axis=1, keys=range(len(columns))).sort_index()


# The accuracies of many adapted models on many tasks, and any comparison among them with its uncertainty.


Cell = tuple[str, str, str, int]  # task, reading, source, budget
CellStatistic = Callable[[Mapping[Cell, np.ndarray]], np.ndarray]  # of mean accuracies
ALL = "all tasks"


@dataclass(frozen=True)
class Accuracies:
    """Every adapted model's accuracy, and the same in bootstrap draws of images and seeds.

    table: task, reading, source, budget, value (mean over seeds), sd, seeds, n, ci_low, ci_high.
    means, drawn: by (task, reading, source, budget), one number and [draws].
    """

    table: pd.DataFrame
    means: dict[Cell, np.ndarray]
    drawn: dict[Cell, np.ndarray]

    def effect(self, statistic: CellStatistic) -> dict[str, float]:
        """value, ci_low, ci_high (95 %, widened to hold the value) and p of any function of the means."""
        value, draws = float(statistic(self.means)), np.asarray(statistic(self.drawn), dtype=float)
        low, high = percentile_interval(draws)
        bounds = {"ci_low": min(low, value), "ci_high": max(high, value)}
        return {"value": value, **bounds, "p": bootstrap_p(draws)}

    def extreme(self, statistics: Sequence[CellStatistic], largest: bool) -> dict[str, float]:
        """value, ci_low and ci_high of the largest (or least) of several statistics.

        Which one it is is not known either. So each gets Bonferroni's interval, which holds for all of them
        at once; the largest of all is then between the largest lower and the largest upper end.
        """
        confidence, best = 1 - 0.05 / len(statistics), max if largest else min
        intervals = [percentile_interval(np.asarray(s(self.drawn)), confidence) for s in statistics]
        value = best(float(statistic(self.means)) for statistic in statistics)
        low, high = (best(ends) for ends in zip(*intervals, strict=True))
        return {"value": value, "ci_low": min(low, value), "ci_high": max(high, value)}

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


def accuracies(runs: Sequence[Adapted], tasks: Sequence[Task], draws: int, seed: int = 0) -> Accuracies:
    """The accuracies of all runs; runs that differ in the seed alone are repeats of each other.

    Tasks may share test images, and those with the same classes share trainings: both are drawn together.
    """
    classes = {task.name: tuple(task.class_names) for task in tasks}
    hits = {key: part for task in tasks for key, part in _repeats(runs, task.name).items()}
    clusters = pd.concat([task.clusters for task in tasks])
    drawn = resampled_means(
        hits,
        clusters[~clusters.index.duplicated()],
        draws,
        seed,
        training=lambda key: (classes[key[0]], *key[2:]),
    )
    shares = {key: frame.mean() for key, frame in hits.items()}
    rows = []
    for key, own in shares.items():
        low, high = percentile_interval(drawn[key])
        rows.append(
            dict(zip(("task", "reading", "source", "budget"), key, strict=True))
            | {"value": own.mean(), "sd": own.std(), "seeds": len(own), "n": len(hits[key])}
            | {"ci_low": min(low, own.mean()), "ci_high": max(high, own.mean())}
        )
    means = {key: np.asarray(own.mean()) for key, own in shares.items()}
    return Accuracies(pd.DataFrame(rows), means, drawn)


def _repeats(runs: Sequence[Adapted], task: str) -> dict[Cell, pd.DataFrame]:
    own = [run for run in runs if run.task == task]
    keys = dict.fromkeys((run.source, run.budget) for run in own)
    return {
        (task, reading, source, budget): hits_by_training(
            [run.predictions[reading] for run in own if (run.source, run.budget) == (source, budget)]
        )
        for source, budget in keys
        for reading in READINGS
    }
