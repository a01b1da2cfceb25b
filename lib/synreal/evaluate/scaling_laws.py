"""Accuracy as a power law of the number of images, and what a real image is worth in synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from synreal.errors import InputError
from synreal.evaluate.repeated import Number, Repeats
from synreal.evaluate.slices import TestSet, slice_hits
from synreal.train.interventions import Mix

FEWEST_SIZES = 4  # a law has three numbers to fit
LOWER, UPPER = (0.0, 0.0, 0.05), (1.0, 1.0, 3.0)  # of floor, height and rate
START = (0.2, 0.3, 0.5)
NEVER = "no number of synthetic images reaches it"
NOTHING_MORE = "more than the fewest measured add nothing"
BOUNDS = ("ci_low", "ci_high", "worth_low", "worth_high")
NUMBERS = ("synthetic_images", "worth", *BOUNDS)
NAN = float("nan")
TRIED = np.append(np.geomspace(1, 1e8, 2000), np.inf)  # numbers of images, to find where two curves meet


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy against size of one source: the fitted law, and how it follows each mean that was measured.

    law: floor, height, rate [3]; moved: the laws [G, 2, 3] of `repeats.moved`. smallest, largest: sizes
    measured. miss: largest distance of a size's mean accuracy from the law.
    """

    law: np.ndarray
    moved: np.ndarray
    repeats: Repeats
    smallest: int
    largest: int
    miss: float

    def accuracy(self, sizes: np.ndarray) -> np.ndarray:
        """Accuracies [K] by the law."""
        return self._accuracies(self.law, sizes)

    def moved_accuracy(self, sizes: np.ndarray) -> np.ndarray:
        """The same [G, 2, K] by the laws `moved`."""
        return self._accuracies(self.moved[..., None, :], sizes)

    def _accuracies(self, laws: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        return np.clip(1 - _error(sizes / self.smallest, *np.moveaxis(laws, -1, 0)), 0, 1)

    def band(self, sizes: np.ndarray) -> np.ndarray:
        """95 % interval of the accuracies: [2, K]."""
        return np.stack(self.repeats.interval(self.accuracy(sizes), self.moved_accuracy(sizes))[:2])

    def size_for(self, accuracy: float) -> float:
        """How many images reach the accuracy; infinite where no number does.

        Never less than one: a law that hardly falls would ask for 1e-80 of an image.
        """
        floor, height, rate = self.law
        above = 1 - accuracy - floor
        if above <= 0:
            return np.inf
        with np.errstate(divide="ignore", over="ignore"):
            return float(max(self.smallest * np.divide(above, height) ** (-1 / rate), 1.0))


def fit_curve(sizes: np.ndarray, repeats: Repeats) -> Curve:
    """The law of one source. sizes: [R], of its trainings among the repeats; NaN for those of no account.

    Raises InputError for fewer than FEWEST_SIZES different sizes.
    """
    own = np.isfinite(sizes)
    different = np.unique(sizes[own])
    if len(different) < FEWEST_SIZES:
        raise InputError(f"sizes: found {different.tolist()}, expected {FEWEST_SIZES} different ones or more")
    relative, accuracies = sizes[own] / different[0], repeats.accuracies[own]
    law = _fit(relative, accuracies, START)
    moved = np.tile(law, (len(repeats.images[0]), 2, 1))
    for group in np.unique(repeats.group[own]):
        moved[group] = [_fit(relative, row[own], law) for row in repeats.moved()[group]]
    means = np.array([accuracies[sizes[own] == size].mean() for size in different])
    miss = float(np.abs(means - 1 + _error(different / different[0], *law)).max())
    return Curve(law, moved, repeats, int(different[0]), int(different[-1]), miss)


def exchange_rates(real: Curve, synthetic: Curve, sizes: Sequence[int]) -> pd.DataFrame:
    """How many synthetic images reach the accuracy of so many real ones; both curves of the same `repeats`.

    One row per size: real_images, synthetic_images (infinite where none do) with ci_low and ci_high, worth
    (real images that one synthetic replaces, 0 where none do) with worth_low and worth_high, and verdict in
    words. Beyond the bounds the accuracy is surely lower, or surely higher, than that of the real ones
    (Fieller's way to bound a ratio). They are NaN where nothing varies; all numbers are where synthetic
    images add nothing to the fewest, so that none can be named.
    """
    return pd.DataFrame([_rate(size, real, synthetic) for size in sizes])


def _rate(size: int, real: Curve, synthetic: Curve) -> dict[str, object]:
    count = np.array([float(size)])
    point = synthetic.size_for(float(real.accuracy(count)[0]))
    more = synthetic.accuracy(TRIED) - real.accuracy(count)
    moved = synthetic.moved_accuracy(TRIED) - real.moved_accuracy(count)
    lowest, highest, _ = synthetic.repeats.interval(more, moved)
    row = {"real_images": size, "synthetic_images": point, "worth": size / point}
    if point <= 1:
        return row | dict.fromkeys(NUMBERS, NAN) | {"verdict": NOTHING_MORE}
    if np.isnan(lowest).all():
        return row | dict.fromkeys(BOUNDS, NAN) | {"verdict": _verdict(size, point, NAN, NAN, synthetic)}
    # From the point down to the first number that surely does not reach it, and up to one that surely does.
    low = max(TRIED[(highest < 0) & (point >= TRIED)], default=1.0)
    high = min(TRIED[(lowest > 0) & (point < TRIED)], default=np.inf)
    bounds = dict(zip(BOUNDS, (low, high, size / high, size / low), strict=True))
    return row | bounds | {"verdict": _verdict(size, point, low, high, synthetic)}


def _verdict(real: float, point: float, low: float, high: float, synthetic: Curve) -> str:
    smallest, largest = synthetic.smallest, synthetic.largest
    if np.isinf(low) or (np.isnan(low) and np.isinf(point)):
        return NEVER
    if low > largest:
        return f"more than {largest / real:.1f} each: beyond the sizes measured"
    if np.isinf(high) or np.isinf(point):
        return f"at least {low / real:.1f} each; perhaps no number reaches it"
    interval = "no interval: nothing varies" if np.isnan(low) else f"{low / real:.1f} to {high / real:.1f}"
    if point < smallest:
        most = max(high, smallest) / real
        return f"at most {most:.1f} each (by the law {point / real:.1f}, {interval})"
    beyond = ", beyond what was measured" if point > largest else ""
    return f"{point / real:.1f} each ({interval}){beyond}"


def _error(relative: np.ndarray, floor: Number, height: Number, rate: Number) -> np.ndarray:
    return floor + height * relative**-rate


def _fit(relative: np.ndarray, accuracies: np.ndarray, start: Sequence[float] | np.ndarray) -> np.ndarray:
    inside = np.clip(start, np.add(LOWER, 1e-6), np.subtract(UPPER, 1e-6))
    return curve_fit(_error, relative, 1 - accuracies, inside, bounds=(LOWER, UPPER), max_nfev=2000)[0]


# Both sources' curves of accuracy against data size, overall and on each slice, on the same test images.


@dataclass(frozen=True, eq=False)
class SliceAccuracies:
    """Of trainings, on a slice. table: n_real, n_syn, seed, accuracy; repeats: its rows; n: test images."""

    table: pd.DataFrame
    repeats: Repeats
    n: int

    def curve(self, source: str) -> Curve:
        """The law of the trainings on "real" or "synthetic" images alone."""
        own, other = ("n_real", "n_syn") if source == "real" else ("n_syn", "n_real")
        return fit_curve(self.table[own].where(self.table[other] == 0).to_numpy(float), self.repeats)


def slice_accuracies(mixes: Sequence[Mix], logits: np.ndarray, test: TestSet, name: str) -> SliceAccuracies:
    """Accuracy on a slice of the trainings of `train_mixes`; logits: [mixes, seeds, N, classes]."""
    table = pd.DataFrame(
        [(mix.real, mix.synthetic, repeat) for mix in mixes for repeat in range(logits.shape[1])],
        columns=["n_real", "n_syn", "seed"],
    )
    hits, chosen = slice_hits(logits.reshape(len(table), *logits.shape[2:]), test, name)
    hits, clusters = hits[:, chosen], pd.factorize(test.clusters[chosen])[0]
    table["accuracy"] = hits.mean(axis=1)
    influence = np.stack([np.bincount(clusters, row - row.mean()) / len(row) for row in hits.astype(float)])
    cells = list(zip(table["n_real"], table["n_syn"], strict=True))
    repeats = Repeats.of(table["accuracy"].to_numpy(), cells, table["seed"], influence)
    return SliceAccuracies(table, repeats, int(chosen.sum()))
