"""Statistics of many bootstrap draws of two sets at once, from cumulative counts.

A draw is held as how often it picked each of the pooled, sorted values, so that every statistic of many draws
comes from one table of cumulative counts.
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

from synreal.evaluate.tally import ratio

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
TAILS = {"low_tail_coverage": "q05", "high_tail_coverage": "q95"}
CHUNK_COUNTS = 1 << 20  # counts held at once while resampling, in float64: 8 MB a table

Drawn = dict[str, np.ndarray]  # statistic to its value in each draw


def resampled_counts(members: list[csr_array], draws: int, seed: int) -> Iterator[list[np.ndarray]]:
    """`cumulative` of both sets, resampled independently, the draws in chunks."""
    rngs = [np.random.default_rng([seed, which]) for which in range(len(members))]
    step = max(1, CHUNK_COUNTS // members[0].shape[0])
    for start in range(0, draws, step):
        chunk = min(step, draws - start)
        yield [
            cumulative(part, _picks(rng, part.shape[1], chunk))
            for part, rng in zip(members, rngs, strict=True)
        ]


def _picks(rng: np.random.Generator, units: int, draws: int) -> np.ndarray:
    """How often each unit is in each sample of as many, with replacement: [units, D]."""
    picks = rng.integers(0, units, (draws, units)) + units * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * units).reshape(draws, units).T.astype(float)


def cumulative(members: csr_array, picks: np.ndarray) -> np.ndarray:
    """How many values of each draw lie before each point of the grid, and how many in all: [G + 1, D]."""
    below = np.zeros((members.shape[0] + 1, picks.shape[1]))
    np.cumsum(members @ picks, axis=0, out=below[1:])
    return below


def gap_between(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """The synthetic distribution function minus the real one at each point of the grid, [G, D]."""
    first, second = (below[1:] * ratio(np.ones(()), below[-1]) for below in (real, synthetic))
    return second - first


def distances(grid: np.ndarray, gap: np.ndarray) -> Drawn:
    size = np.abs(gap)
    return {"wasserstein": np.diff(grid, append=grid[-1]) @ size, "ks": size.max(axis=0)}


def summaries(grid: np.ndarray, real: np.ndarray, synthetic: np.ndarray) -> Drawn:
    """Every statistic but the distances, from `cumulative` of both sets."""
    a, b = _mean_and_quantiles(grid, real), _mean_and_quantiles(grid, synthetic)
    found: Drawn = {}
    for name in a:
        found |= {
            f"{name}_real": a[name],
            f"{name}_synthetic": b[name],
            f"{name}_difference": b[name] - a[name],
        }
    found["iqr_ratio"] = ratio(b["q75"] - b["q25"], a["q75"] - a["q25"])
    found["range_ratio"] = ratio(b["q95"] - b["q05"], a["q95"] - a["q05"])
    for name, quantile in TAILS.items():
        shares = [_tail(grid, below, a[quantile], quantile == "q05") for below in (synthetic, real)]
        found[name] = ratio(*shares)
    return found


def _mean_and_quantiles(grid: np.ndarray, below: np.ndarray) -> Drawn:
    total = below[-1]
    mean = grid[-1] - ratio(np.diff(grid) @ below[1:-1], total)
    ranks = np.multiply.outer(list(QUANTILES.values()), np.maximum(total - 1, 0))
    lower = np.floor(ranks)
    low, high = (grid[_position(below[1:], rank)] for rank in (lower, np.minimum(lower + 1, total - 1)))
    quantiles = np.where(total > 0, low + (high - low) * (ranks - lower), np.nan)
    return {"mean": mean} | dict(zip(QUANTILES, quantiles, strict=True))


def _position(cumulative: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """By bisection, the first row of each column of `cumulative` [G, D] that exceeds the ranks [Q, D]."""
    low = np.zeros(ranks.shape, int)
    high = np.full(ranks.shape, len(cumulative) - 1)
    for _ in range(len(cumulative).bit_length()):
        middle = (low + high) // 2
        exceeds = np.take_along_axis(cumulative, middle, axis=0) > ranks
        low, high = np.where(exceeds, low, middle + 1), np.where(exceeds, middle, high)
    return high


def _tail(grid: np.ndarray, below: np.ndarray, threshold: np.ndarray, lower: bool) -> np.ndarray:
    """The share of images at or below the threshold [D] of each draw, or at or above it."""
    before = np.searchsorted(grid, threshold, side="right" if lower else "left")
    share = ratio(np.take_along_axis(below, before[None], axis=0)[0], below[-1])
    return share if lower else 1 - share
