"""The accuracies of many adapted models on many tasks, and any comparison among them with its uncertainty."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from synreal.data.tasks import Task
from synreal.evaluate.adapted import READINGS, Adapted
from synreal.evaluate.retrained import hits_by_training, resampled_means
from synreal.evaluate.statistics import bootstrap_p, percentile_interval

Key = tuple[str, str, str, int]  # task, reading, source, budget
Statistic = Callable[[Mapping[Key, np.ndarray]], np.ndarray]  # of mean accuracies
ALL = "all tasks"


@dataclass(frozen=True)
class Accuracies:
    """Every adapted model's accuracy, and the same in bootstrap draws of images and seeds.

    table: task, reading, source, budget, value (mean over seeds), sd, seeds, n, ci_low, ci_high.
    means, drawn: by (task, reading, source, budget), one number and [draws].
    """

    table: pd.DataFrame
    means: dict[Key, np.ndarray]
    drawn: dict[Key, np.ndarray]

    def effect(self, statistic: Statistic) -> dict[str, float]:
        """value, ci_low, ci_high (95 %, widened to hold the value) and p of any function of the means."""
        value, draws = float(statistic(self.means)), np.asarray(statistic(self.drawn), dtype=float)
        low, high = percentile_interval(draws)
        bounds = {"ci_low": min(low, value), "ci_high": max(high, value)}
        return {"value": value, **bounds, "p": bootstrap_p(draws)}

    def extreme(self, statistics: Sequence[Statistic], largest: bool) -> dict[str, float]:
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


def _repeats(runs: Sequence[Adapted], task: str) -> dict[Key, pd.DataFrame]:
    own = [run for run in runs if run.task == task]
    keys = dict.fromkeys((run.source, run.budget) for run in own)
    return {
        (task, reading, source, budget): hits_by_training(
            [run.predictions[reading] for run in own if (run.source, run.budget) == (source, budget)]
        )
        for source, budget in keys
        for reading in READINGS
    }
