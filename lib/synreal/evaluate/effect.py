"""Effects measured by several trainings on the same test images, with both sources of chance.

A training has its seed (first weights, order, training photographs), a test its photographs. An interval
over one of them alone claims too much. Here the variance of the mean over seeds is the variance between
seeds over their number, plus that between test photographs (`crossed_interval`). The chance of single answers
is in both parts, so the interval is a little too wide rather than too narrow.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from synreal.errors import InputError
from synreal.evaluate.statistics import crossed_interval, require_images


class Estimate(NamedTuple):
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

    def estimate(self, clusters: np.ndarray) -> Estimate:
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
        return Estimate(
            value, *crossed_interval(value, (between, seeds - 1), (images, max(units - 1, 1))), self.n
        )
