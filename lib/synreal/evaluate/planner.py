"""Which mix of real labels and synthetic images a budget should buy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from synreal.errors import InputError
from synreal.evaluate.repeated import Number, Repeats

COLUMNS = ("n_real", "n_syn", "accuracy")
FEWEST_MIXES = 6  # the planner's law has five numbers to fit
FEWEST_OF_A_KIND = 3
READERS = {".csv": pd.read_csv, ".parquet": pd.read_parquet}


def read_mixes(path: str | Path) -> pd.DataFrame:
    """The table of a CSV or parquet file, checked by `check_mixes`.

    Raises InputError as that does, and for a file that is missing or cannot be read.
    """
    path = Path(path)
    if path.suffix not in READERS or not path.is_file():
        found = "no such file" if path.suffix in READERS else f"found the ending {path.suffix!r}"
        raise InputError(f"{path}: {found}; expected a .csv or .parquet with the columns {list(COLUMNS)}")
    try:
        table = READERS[path.suffix](path)
        named = list(pd.read_csv(path, header=None, nrows=1).iloc[0]) if path.suffix == ".csv" else []
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]} ({error}); write it again") from error
    if twice := [name for name in COLUMNS if named.count(name) > 1]:
        raise InputError(f"{path}: found the columns {twice} more than once, expected each once")
    return check_mixes(table, str(path))


def check_mixes(table: pd.DataFrame, where: str = "measured") -> pd.DataFrame:
    """The rows of `table` as numbers: n_real, n_syn, accuracy, one row per training; and seed, where it is.

    Raises InputError naming `where`: for missing columns, values out of range, too few different mixes (of
    real alone, or with synthetic images), or a mix that was trained once only.
    """
    if missing := [name for name in COLUMNS if name not in table]:
        raise InputError(
            f"{where}: no columns {missing}; found {list(table.columns)}, expected {list(COLUMNS)}"
        )
    rows = table[list(COLUMNS)].apply(pd.to_numeric, errors="coerce")
    rows = rows.mask(table[list(COLUMNS)].map(lambda cell: isinstance(cell, bool | np.bool_)))
    fits = (rows["accuracy"].between(0, 1)) & (rows[["n_real", "n_syn"]] >= 0).all(axis=1)
    fits &= (rows[["n_real", "n_syn"]] % 1 == 0).all(axis=1)
    fits &= rows[["n_real", "n_syn"]].sum(axis=1).between(0, float("inf"), inclusive="neither")
    if not fits.all():
        first = table.loc[~fits].iloc[0][list(COLUMNS)].to_dict()
        raise InputError(
            f"{where}: {int((~fits).sum())} rows are out of range, first {first}; expected whole numbers, "
            "not both 0, and an accuracy from 0 to 1"
        )
    _check_enough(rows.groupby(["n_real", "n_syn"]).size(), where)
    return rows.assign(seed=table["seed"]) if "seed" in table else rows


def _check_enough(counts: pd.Series, where: str) -> None:
    """counts: how many trainings there are of each mix."""
    real_alone = int((counts.index.get_level_values("n_syn") == 0).sum())
    if len(counts) < FEWEST_MIXES or min(real_alone, len(counts) - real_alone) < FEWEST_OF_A_KIND:
        raise InputError(
            f"{where}: found {len(counts)} different mixes, {real_alone} of them of real images alone; "
            f"expected {FEWEST_MIXES} or more, with {FEWEST_OF_A_KIND} of real alone and {FEWEST_OF_A_KIND} "
            "with synthetic images: train on further sizes"
        )
    if (single := counts[counts < 2]).size:
        raise InputError(
            f"{where}: {single.size} mixes were trained once, first {single.index[0]}; train each with "
            "2 seeds or more, better 3, so that chance can be told from data"
        )


# Which mix of real labels and synthetic images a budget should buy, from accuracies measured on some mixes.
#
# One law for all mixes: error is `floor + height (w / w0) ** -rate` in the worth w of the data, counted in
# real images. A real image is worth 1; the first synthetic ones are worth `first` each, and all synthetic
# images together never more than `most`: worth = real + first s / (1 + first s / most). Plans stay within the
# numbers of images that were measured.


LOWER = (0.0, 0.0, 0.05, -9.0, 0.0)  # of floor, height, rate, and the logarithms of first and most
UPPER = (1.0, 1.0, 3.0, 2.0, 20.0)
START = (0.2, 0.3, 0.5, -1.0, 8.0)
SHARES = np.linspace(0, 1, 101)  # of the budget that goes to real labels
BUDGETS = 120  # tried on the way to a target accuracy
HALVINGS = 12  # of the step between two of them
ESTIMATE = "{:.3f} ({:.3f} to {:.3f})"  # a value and its interval, in words


@dataclass(frozen=True)
class Prices:
    """Of one real label and of one synthetic image, in any currency. Raises InputError when not positive."""

    real: float
    synthetic: float

    def __post_init__(self) -> None:
        for name, price in (("real", self.real), ("synthetic", self.synthetic)):
            if not 0 < price < np.inf:
                raise InputError(f"price of a {name} image: found {price}, expected a number above 0")


@dataclass(frozen=True, eq=False)
class MixLaw:
    """The law fitted to measured mixes, and how it follows each mean that was measured.

    law: [5]; moved: the laws [G, 2, 5] of `repeats.moved`; smallest: w0; most_real, most_synthetic: the
    largest numbers measured. miss: largest distance of a mix's mean accuracy from the law.
    """

    law: np.ndarray
    moved: np.ndarray
    repeats: Repeats
    smallest: float
    most_real: int
    most_synthetic: int
    miss: float

    def accuracy(self, real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
        """Accuracies [K] of mixes [K]; NaN below w0 images."""
        return self._accuracies(self.law, real, synthetic)

    def band(self, real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of the same."""
        moved = self._accuracies(self.moved[..., None, :], real, synthetic)
        return self.repeats.interval(self.accuracy(real, synthetic), moved)[:2]

    def gain(
        self, mix: tuple[int, int], real: np.ndarray, synthetic: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Accuracy of a mix minus that of others [K], and its 95 % interval."""
        first = [np.array([count]) for count in mix]
        value = self.accuracy(*first) - self.accuracy(real, synthetic)
        laws = self.moved[..., None, :]
        moved = self._accuracies(laws, *first) - self._accuracies(laws, real, synthetic)
        return value, *self.repeats.interval(value, moved)[:2]

    def _accuracies(self, laws: np.ndarray, real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
        mix = real / self.smallest, synthetic / self.smallest
        accuracy = np.clip(1 - _error(mix, *np.moveaxis(laws, -1, 0)), 0, 1)
        return np.where(np.add(real, synthetic) < self.smallest, np.nan, accuracy)


@dataclass(frozen=True)
class BudgetPlan:
    """A recommended mix, its accuracy with its 95 % interval, and what else might be as good.

    real_interval, synthetic_interval: of the mixes for the same money that are not surely less accurate.
    gains: how much more accurate the mix is than the best that the same money buys of one kind alone, for the
    kinds of which it buys as many images as were measured.
    """

    real: int
    synthetic: int
    cost: float
    accuracy: tuple[float, float, float]
    real_interval: tuple[int, int]
    synthetic_interval: tuple[int, int]
    gains: Mapping[str, tuple[float, float, float]]


def fit_mixes(table: pd.DataFrame, repeats: Repeats | None = None) -> MixLaw:
    """The law of a table as `check_mixes` returns it.

    repeats: of its rows, where they are known to vary with the test photographs, too. Trainings of one seed
    vary together where the table has a column seed and every mix has each seed once.
    """
    real, synthetic, accuracy = (table[name].to_numpy(float) for name in COLUMNS)
    repeats = repeats or Repeats.of(accuracy, list(zip(real, synthetic, strict=True)), table.get("seed"))
    smallest = float((real + synthetic).min())
    mixes = (real / smallest, synthetic / smallest)
    law = _fit(mixes, accuracy, START)
    moved = np.array([[_fit(mixes, row, law) for row in pair] for pair in repeats.moved()])
    fitted = pd.Series(accuracy - 1 + _error(mixes, *law)).groupby([real, synthetic]).mean()
    most = int(real.max()), int(synthetic.max())
    return MixLaw(law, moved, repeats, smallest, *most, float(fitted.abs().max()))


def plan_for_budget(law: MixLaw, prices: Prices, budget: float) -> BudgetPlan:
    """The most accurate mix that the budget buys.

    Raises InputError when it buys fewer images than the smallest mix measured has.
    """
    least = law.smallest * min(prices.real, prices.synthetic)
    if not least <= budget < np.inf:
        raise InputError(
            f"budget: found {budget}, expected {least:g} or more, the price of the smallest mix measured "
            f"({law.smallest:g} images)"
        )
    return _plan(law, prices, budget)


def plan_for_target(law: MixLaw, prices: Prices, target: float) -> BudgetPlan | None:
    """The cheapest mix that reaches the accuracy; None where no mix within the sizes measured does."""
    check_target(target)
    highest = law.most_real * prices.real + law.most_synthetic * prices.synthetic
    budgets = np.geomspace(min(prices.real, prices.synthetic), highest, BUDGETS)
    reaches = np.array([_best(law, prices, budget)[0] for budget in budgets]) >= target
    if not reaches.any():
        return None
    first = int(reaches.argmax())
    enough, short = budgets[first], budgets[max(first - 1, 0)]
    for _ in range(HALVINGS):
        middle = (enough + short) / 2
        enough, short = (middle, short) if _best(law, prices, middle)[0] >= target else (enough, middle)
    return _plan(law, prices, float(enough))


def check_target(target: float) -> None:
    """Raises InputError for what is no accuracy."""
    if not 0 < target < 1:
        raise InputError(f"target: found {target}, expected an accuracy between 0 and 1")


def plan_table(plan: BudgetPlan) -> pd.DataFrame:
    """The plan in words, a row for each of its numbers."""
    rows = {
        "real labels": "{:,} ({:,} to {:,} may be as good)".format(plan.real, *plan.real_interval),
        "synthetic images": "{:,} ({:,} to {:,} may be as good)".format(
            plan.synthetic, *plan.synthetic_interval
        ),
        "cost": f"{plan.cost:,.2f}",
        "accuracy": ESTIMATE.format(*plan.accuracy),
        **{f"gain over {name}": ESTIMATE.format(*gain) for name, gain in plan.gains.items()},
    }
    return pd.Series(rows, name="plan").to_frame()


def affordable(law: MixLaw, prices: Prices, budget: float) -> tuple[np.ndarray, np.ndarray]:
    """What the budget buys at each of SHARES [101]: real and synthetic images, no more than were measured."""
    real = _bought(SHARES * budget, prices.real, law.most_real)
    return real, _bought(budget - real * prices.real, prices.synthetic, law.most_synthetic)


def _best(law: MixLaw, prices: Prices, budget: float) -> tuple[float, int]:
    """The highest accuracy that the budget buys, and the number of its share."""
    accuracy = np.nan_to_num(law.accuracy(*affordable(law, prices, budget)), nan=-np.inf)
    return float(accuracy.max()), int(accuracy.argmax())


def _bought(money: np.ndarray, price: float, most: int) -> np.ndarray:
    # A hair more than the quotient, or 50 / 0.1 would buy 499 images.
    return np.minimum(np.floor(money / price + 1e-9), most).astype(int)


def _plan(law: MixLaw, prices: Prices, budget: float) -> BudgetPlan:
    all_real, all_synthetic = affordable(law, prices, budget)
    at = _best(law, prices, budget)[1]
    mix = int(all_real[at]), int(all_synthetic[at])
    as_good = ~(law.gain(mix, all_real, all_synthetic)[1] > 0) & (all_real + all_synthetic >= law.smallest)
    alone = {
        "real only": (_bought(np.array([budget]), prices.real, law.most_real), np.array([0])),
        "synthetic only": (np.array([0]), _bought(np.array([budget]), prices.synthetic, law.most_synthetic)),
    }
    bought = [np.array([count]) for count in mix]
    return BudgetPlan(
        real=mix[0],
        synthetic=mix[1],
        cost=float(mix[0] * prices.real + mix[1] * prices.synthetic),
        accuracy=_triple(law.accuracy(*bought), *law.band(*bought)),
        real_interval=_range(all_real[as_good]),
        synthetic_interval=_range(all_synthetic[as_good]),
        gains={
            name: _triple(*law.gain(mix, *other))
            for name, other in alone.items()
            if np.isfinite(law.accuracy(*other)[0])
        },
    )


def _triple(*columns: np.ndarray) -> tuple[float, float, float]:
    value, low, high = (float(column[0]) for column in columns)
    return value, low, high


def _range(counts: np.ndarray) -> tuple[int, int]:
    return int(counts.min()), int(counts.max())


def _error(
    mix: tuple[np.ndarray, np.ndarray],
    floor: Number,
    height: Number,
    rate: Number,
    log_first: Number,
    log_most: Number,
) -> np.ndarray:
    real, synthetic = mix
    promised = np.exp(log_first) * synthetic
    worth = real + promised / (1 + promised / np.exp(log_most))
    return floor + height * np.maximum(worth, 1e-3) ** -rate


def _fit(
    mixes: tuple[np.ndarray, np.ndarray], accuracy: np.ndarray, start: Sequence[float] | np.ndarray
) -> np.ndarray:
    inside = np.clip(start, np.add(LOWER, 1e-6), np.subtract(UPPER, 1e-6))
    return curve_fit(_error, mixes, 1 - accuracy, inside, bounds=(LOWER, UPPER), max_nfev=2000)[0]
