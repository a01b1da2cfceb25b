"""Accuracy as a power law of the number of images, and what a real image is worth in synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from synreal.errors import InputError
from synreal.evaluate.resampling import ROUNDING, percentile_interval, resampled_sums
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


def accuracy_draws(
    hits: np.ndarray, cells: Sequence[object], clusters: np.ndarray | None, draws: int, seed: int = 0
) -> np.ndarray:
    """Accuracies of R trainings in bootstrap draws of test photographs and of seeds: float64 [draws, R].

    hits: 0/1 [R, N], whether a training got a test image right. cells: for each training what it shares with
    its repeats of other seeds. clusters: codes [N] of the photographs that the test images show.
    """
    columns = np.vstack([hits, np.ones_like(hits[:1])]).T
    sums = resampled_sums(columns, draws, seed, clusters)
    return resample_repeats(sums[:, :-1] / sums[:, -1:], cells, seed)


def resample_repeats(accuracies: np.ndarray, cells: Sequence[object], seed: int = 0) -> np.ndarray:
    """The same [draws, R] with each cell's trainings drawn anew from it, their spread made unbiased.

    k trainings drawn from k vary by (k - 1) / k of what trainings do; with three seeds that matters.
    Raises InputError for a cell with a single training.
    """
    rng, drawn = np.random.default_rng([seed, 1]), accuracies.copy()
    codes = pd.factorize(pd.Series(list(cells)))[0]
    for cell in range(codes.max() + 1):
        rows = np.flatnonzero(codes == cell)
        if len(rows) < 2:
            raise InputError(
                f"seeds: found 1 training of {list(cells)[rows[0]]}, expected 2 or more, better 3, of each; "
                "nothing is known of chance without repeats"
            )
        picked = rows[rng.integers(0, len(rows), (len(accuracies), len(rows)))]
        own = np.take_along_axis(accuracies, picked, axis=1)
        mean = accuracies[:, rows].mean(axis=1, keepdims=True)
        drawn[:, rows] = mean + (own - mean) * (len(rows) / (len(rows) - 1)) ** 0.5
    return drawn


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy against size of one source: the fitted law, and the same in every bootstrap draw.

    law: floor, height, rate [3]; drawn: [draws, 3]. smallest, largest: sizes measured. miss: largest distance
    of a size's mean accuracy from the law.
    """

    law: np.ndarray
    drawn: np.ndarray
    smallest: int
    largest: int
    miss: float

    def accuracy(self, sizes: np.ndarray) -> np.ndarray:
        """Accuracies [K] by the law."""
        return 1 - _error(sizes / self.smallest, *self.law)

    def band(self, sizes: np.ndarray) -> np.ndarray:
        """95 % interval of the same: [2, K]."""
        drawn = np.stack([1 - _error(sizes / self.smallest, *law) for law in self.drawn])
        return np.quantile(drawn, [0.025, 0.975], axis=0)

    def size_for(self, accuracies: np.ndarray, laws: np.ndarray) -> np.ndarray:
        """How many images reach the accuracies, by laws [D, 3]: [D, K]; infinite where none do.

        Never less than one: a law that hardly falls would ask for 1e-80 of an image.
        """
        floor, height, rate = laws.T[:, :, None]
        above = 1 - accuracies - floor
        with np.errstate(divide="ignore", over="ignore"):
            sizes = self.smallest * np.where(above > 0, above / height, 0.0) ** (-1 / rate)
        return np.where(above > 0, np.maximum(sizes, 1.0), np.inf)


def fit_curve(sizes: np.ndarray, accuracies: np.ndarray, draws: np.ndarray) -> Curve:
    """The law of one source. sizes: [R]; accuracies: [R], measured; draws: [D, R], see `accuracy_draws`.

    Raises InputError for fewer than FEWEST_SIZES different sizes.
    """
    different = np.unique(sizes)
    if len(different) < FEWEST_SIZES:
        raise InputError(f"sizes: found {different.tolist()}, expected {FEWEST_SIZES} different ones or more")
    relative = sizes / different[0]
    law = _fit(relative, accuracies, START)
    drawn = np.stack([_fit(relative, row, law) for row in draws])
    means = np.array([accuracies[sizes == size].mean() for size in different])
    miss = float(np.abs(means - 1 + _error(different / different[0], *law)).max())
    return Curve(law, drawn, int(different[0]), int(different[-1]), miss)


def exchange_rates(real: Curve, synthetic: Curve, sizes: Sequence[int]) -> pd.DataFrame:
    """How many synthetic images reach the accuracy of so many real ones.

    One row per size: real_images, synthetic_images (infinite where none do) with ci_low and ci_high, worth
    (real images that one synthetic replaces, 0 where none do) with worth_low and worth_high, unreachable
    (share of bootstrap draws in which no number does), and verdict in words. The bounds are NaN where draws
    do not differ; all numbers are where synthetic images add nothing to the fewest, so that none can be
    named.
    """
    counts = np.asarray(sizes, dtype=float)
    points = synthetic.size_for(real.accuracy(counts)[None], synthetic.law[None])[0]
    reached = np.stack([1 - _error(counts / real.smallest, *law) for law in real.drawn])
    drawn = synthetic.size_for(reached, synthetic.drawn)
    rows = zip(counts, points, drawn.T, strict=True)
    return pd.DataFrame([_rate(n, point, column, synthetic) for n, point, column in rows])


def _rate(real: float, point: float, drawn: np.ndarray, synthetic: Curve) -> dict[str, object]:
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    unreachable = float(np.isinf(drawn).mean())
    row = {
        "real_images": int(real),
        "synthetic_images": point,
        "ci_low": min(low, point),
        "ci_high": max(high, point),
        **_worth(real, point, drawn),
        "unreachable": unreachable,
    }
    verdict = _verdict(real, point, low, high, unreachable, synthetic)
    if point <= 1:
        return row | dict.fromkeys(NUMBERS, NAN) | {"verdict": NOTHING_MORE}
    if np.isfinite(high) and _same(low, high):
        row |= dict.fromkeys(BOUNDS, NAN)
    return row | {"verdict": verdict}


def _worth(real: float, point: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = percentile_interval(np.where(np.isinf(drawn), 0.0, real / drawn))
    value = 0.0 if np.isinf(point) else real / point
    return {
        "worth": value,
        "worth_low": float(np.nanmin([low, value])),
        "worth_high": float(np.nanmax([high, value])),
    }


def _verdict(real: float, point: float, low: float, high: float, unreachable: float, synthetic: Curve) -> str:
    smallest, largest = synthetic.smallest, synthetic.largest
    if unreachable >= 0.975:
        return NEVER
    if low > largest:
        return f"more than {largest / real:.1f} each: beyond the sizes measured"
    if np.isinf(high) or np.isinf(point):
        return f"at least {low / real:.1f} each; perhaps no number reaches it"
    interval = "no interval: equal draws"
    if not _same(low, high):
        interval = f"{low / real:.1f} to {high / real:.1f}"
    if point < smallest:
        most = max(high, smallest) / real
        return f"at most {most:.1f} each (by the law {point / real:.1f}, {interval})"
    beyond = ", beyond what was measured" if point > largest else ""
    return f"{point / real:.1f} each ({interval}){beyond}"


def _same(low: float, high: float) -> bool:
    return bool(np.isclose(low, high, rtol=ROUNDING, atol=0))


def _error(relative: np.ndarray, floor: float, height: float, rate: float) -> np.ndarray:
    return floor + height * relative**-rate


def _fit(relative: np.ndarray, accuracies: np.ndarray, start: Sequence[float] | np.ndarray) -> np.ndarray:
    inside = np.clip(start, np.add(LOWER, 1e-6), np.subtract(UPPER, 1e-6))
    return curve_fit(_error, relative, 1 - accuracies, inside, bounds=(LOWER, UPPER), max_nfev=2000)[0]


# Both sources' curves of accuracy against data size, overall and on each slice, on the same test images.


@dataclass(frozen=True, eq=False)
class SliceAccuracies:
    """Of trainings, on a slice. table: n_real, n_syn, seed, accuracy; draws: [D, rows]; n: test images."""

    table: pd.DataFrame
    draws: np.ndarray
    n: int

    def curve(self, source: str) -> Curve:
        """The law of the trainings on "real" or "synthetic" images alone."""
        own, other = ("n_real", "n_syn") if source == "real" else ("n_syn", "n_real")
        rows = (self.table[other] == 0).to_numpy()
        alone = self.table[rows]
        return fit_curve(alone[own].to_numpy(float), alone["accuracy"].to_numpy(), self.draws[:, rows])


def slice_accuracies(
    mixes: Sequence[Mix], logits: np.ndarray, test: TestSet, name: str, draws: int, seed: int = 0
) -> SliceAccuracies:
    """Accuracy on a slice of the trainings of `train_mixes`; logits: [mixes, seeds, N, classes]."""
    table = pd.DataFrame(
        [(mix.real, mix.synthetic, repeat) for mix in mixes for repeat in range(logits.shape[1])],
        columns=["n_real", "n_syn", "seed"],
    )
    hits, chosen = slice_hits(logits.reshape(len(table), *logits.shape[2:]), test, name)
    hits, clusters = hits[:, chosen], pd.factorize(test.clusters[chosen])[0]
    cells = list(zip(table["n_real"], table["n_syn"], strict=True))
    drawn = accuracy_draws(hits.astype(np.float32), cells, clusters, draws, seed)
    return SliceAccuracies(table.assign(accuracy=hits.mean(axis=1)), drawn, int(chosen.sum()))
