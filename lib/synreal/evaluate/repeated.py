"""Any metric of models that were trained with several seeds, with intervals that cover seeds and photographs.

Trained with another seed, a recipe gives another model; shown other photographs, a model another accuracy.
Both count: the variance of a mean over seeds is that of the bootstrap over photographs (whole photographs
with all their images, the same draws for every model) plus that between seeds over their number
(`crossed_interval`). The spread between seeds holds some of the first part too, which makes the interval
wider than it need be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError
from synreal.evaluate.compare import check_same_images
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.report import predictions_tally
from synreal.evaluate.statistics import ROUNDING, crossed_interval
from synreal.evaluate.tally import Metric, Sums, Tally, resampled

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
