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

        Picked after looking, it is extreme by chance too; so its interval is Bonferroni's, which holds for
        all of them at once.
        """
        values = [float(statistic(self.means)) for statistic in statistics]
        place = int(np.argmax(values) if largest else np.argmin(values))
        draws = np.asarray(statistics[place](self.drawn), dtype=float)
        low, high = percentile_interval(draws, 1 - 0.05 / len(statistics))
        return {
            "value": values[place],
            "ci_low": min(low, values[place]),
            "ci_high": max(high, values[place]),
        }

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
    """The accuracies of all runs; runs that differ in the seed alone are repeats of each other."""
    rows: list[dict[str, object]] = []
    means: dict[Key, np.ndarray] = {}
    drawn: dict[Key, np.ndarray] = {}
    for task in tasks:
        repeats = _repeats([run for run in runs if run.task == task.name])
        resampled = resampled_means(repeats, task.clusters, draws, seed)
        drawn |= resampled
        for key, hits in repeats.items():
            shares = hits.mean()
            means[key] = np.asarray(shares.mean())
            low, high = percentile_interval(resampled[key])
            rows.append(
                {"task": key[0], "reading": key[1], "source": key[2], "budget": key[3]}
                | {"value": shares.mean(), "sd": shares.std(), "seeds": len(shares), "n": len(hits)}
                | {"ci_low": min(low, shares.mean()), "ci_high": max(high, shares.mean())}
            )
    return Accuracies(pd.DataFrame(rows), means, drawn)


def _repeats(runs: Sequence[Adapted]) -> dict[Key, pd.DataFrame]:
    keys = dict.fromkeys((run.task, run.source, run.budget) for run in runs)
    return {
        (task, reading, source, budget): hits_by_training(
            [r.predictions[reading] for r in runs if (r.task, r.source, r.budget) == (task, source, budget)]
        )
        for task, source, budget in keys
        for reading in READINGS
    }
