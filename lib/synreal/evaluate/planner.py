"""Which mix of real labels and synthetic images a budget should buy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from synreal.errors import InputError
from synreal.evaluate.scaling_laws import resample_repeats

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
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]} ({error}); write it again") from error
    return check_mixes(table, str(path))


def check_mixes(table: pd.DataFrame, where: str = "measured") -> pd.DataFrame:
    """The rows of `table` as numbers: n_real, n_syn, accuracy, one row per training.

    Raises InputError naming `where`: for missing columns, values out of range, too few different mixes (of
    real alone, or with synthetic images), or a mix that was trained once only.
    """
    if missing := [name for name in COLUMNS if name not in table]:
        raise InputError(
            f"{where}: no columns {missing}; found {list(table.columns)}, expected {list(COLUMNS)}"
        )
    rows = table[list(COLUMNS)].apply(pd.to_numeric, errors="coerce")
    fits = (rows["accuracy"].between(0, 1)) & (rows[["n_real", "n_syn"]] >= 0).all(axis=1)
    fits &= rows[["n_real", "n_syn"]].sum(axis=1).between(0, float("inf"), inclusive="neither")
    if not fits.all():
        first = table.loc[~fits].iloc[0][list(COLUMNS)].to_dict()
        raise InputError(
            f"{where}: {int((~fits).sum())} rows are out of range, first {first}; expected finite counts, "
            "not both 0, and an accuracy from 0 to 1"
        )
    _check_enough(rows.groupby(["n_real", "n_syn"]).size(), where)
    return rows


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
Number = float | np.ndarray
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
    """The law fitted to measured mixes, and the same in every bootstrap draw.

    law: [5]; drawn: [draws, 5]; smallest: w0; most_real, most_synthetic: the largest numbers measured. miss:
    largest distance of a mix's mean accuracy from the law.
    """

    law: np.ndarray
    drawn: np.ndarray
    smallest: float
    most_real: int
    most_synthetic: int
    miss: float

    def accuracy(self, real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
        """Accuracies [1 + draws, K] of mixes [K] or [1 + draws, K]: by the law, then by each draw's.

        NaN below w0 images.
        """
        laws = np.vstack([self.law, self.drawn]).T[:, :, None]
        accuracy = 1 - _error((real / self.smallest, synthetic / self.smallest), *laws)
        return np.where(np.add(real, synthetic) < self.smallest, np.nan, np.clip(accuracy, 0, 1))


@dataclass(frozen=True)
class BudgetPlan:
    """A recommended mix. Intervals are 95 %, over bootstrap draws; each draw plans for itself.

    gains: how much more accurate the mix is than the best that the same money buys of one kind alone, for the
    kinds of which it buys as many images as were measured.
    choices: share of draws that would buy real only, a mix, or synthetic only.
    """

    real: int
    synthetic: int
    cost: float
    accuracy: tuple[float, float, float]
    real_interval: tuple[int, int]
    synthetic_interval: tuple[int, int]
    gains: Mapping[str, tuple[float, float, float]]
    choices: Mapping[str, float]
    reached: float  # share of draws in which the target accuracy is reached; 1 where a budget was given


def fit_mixes(table: pd.DataFrame, draws: int | np.ndarray = 200, seed: int = 0) -> MixLaw:
    """The law of a table as `check_mixes` returns it.

    draws: how many bootstrap draws of the repeats; or accuracies [D, rows] from `accuracy_draws`, which vary
    the test photographs too.
    """
    real, synthetic, accuracy = (table[name].to_numpy(float) for name in COLUMNS)
    if not isinstance(draws, np.ndarray):
        cells = list(zip(real, synthetic, strict=True))
        draws = resample_repeats(np.tile(accuracy, (draws, 1)), cells, seed)
    totals = real + synthetic
    smallest = float(totals.min())
    mixes = (real / smallest, synthetic / smallest)
    law = _fit(mixes, accuracy, START)
    drawn = np.stack([_fit(mixes, row, law) for row in draws])
    fitted = pd.Series(accuracy - 1 + _error(mixes, *law)).groupby([real, synthetic]).mean()
    return MixLaw(law, drawn, smallest, int(real.max()), int(synthetic.max()), float(fitted.abs().max()))


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
    budgets = np.full(len(law.drawn) + 1, budget)
    return _plan(law, prices, budget, budgets, _best(law, prices, budgets)[1], 1.0)


def plan_for_target(law: MixLaw, prices: Prices, target: float) -> BudgetPlan | None:
    """The cheapest mix that reaches the accuracy; None where no mix within the sizes measured does."""
    check_target(target)
    highest = law.most_real * prices.real + law.most_synthetic * prices.synthetic
    budgets = np.geomspace(min(prices.real, prices.synthetic), highest, BUDGETS)
    tried = np.repeat(budgets[:, None], len(law.drawn) + 1, axis=1)  # [B, 1 + draws]
    reaches = np.array([_best(law, prices, row)[0] for row in tried]) >= target
    if not reaches[:, 0].any():
        return None
    first = np.where(reaches.any(axis=0), reaches.argmax(axis=0), BUDGETS - 1)
    enough, short = budgets[first], budgets[np.maximum(first - 1, 0)]
    for _ in range(HALVINGS):
        middle = (enough + short) / 2
        does = _best(law, prices, middle)[0] >= target
        enough, short = np.where(does, middle, enough), np.where(does, short, middle)
    choice = _best(law, prices, enough)[1]
    return _plan(law, prices, enough[0], enough, choice, float(reaches[:, 1:].any(axis=0).mean()))


def check_target(target: float) -> None:
    """Raises InputError for what is no accuracy."""
    if not 0 < target < 1:
        raise InputError(f"target: found {target}, expected an accuracy between 0 and 1")


def plan_table(plan: BudgetPlan) -> pd.DataFrame:
    """The plan in words, a row for each of its numbers."""
    rows = {
        "real labels": "{:,} ({:,} to {:,})".format(plan.real, *plan.real_interval),
        "synthetic images": "{:,} ({:,} to {:,})".format(plan.synthetic, *plan.synthetic_interval),
        "cost": f"{plan.cost:,.2f}",
        "accuracy": ESTIMATE.format(*plan.accuracy),
        **{f"gain over {name}": ESTIMATE.format(*gain) for name, gain in plan.gains.items()},
        "bootstrap draws that choose": ", ".join(f"{k} {v:.0%}" for k, v in plan.choices.items()),
    }
    return pd.Series(rows, name="plan").to_frame()


def affordable(law: MixLaw, prices: Prices, budget: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the budget buys at each of SHARES: real and synthetic images, never more than were measured.

    Both [101], or [D, 101] for budgets [D, 1].
    """
    real = _bought(SHARES * budget, prices.real, law.most_real)
    return real, _bought(budget - real * prices.real, prices.synthetic, law.most_synthetic)


def _best(law: MixLaw, prices: Prices, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest accuracy that each law's own budget buys [1 + draws], and the number of its share."""
    accuracy = _or_none(law.accuracy(*affordable(law, prices, budgets[:, None])))
    return accuracy.max(axis=1), accuracy.argmax(axis=1)


def _or_none(accuracy: np.ndarray) -> np.ndarray:
    """Accuracies to choose by: a mix that the law says nothing of is chosen last."""
    return np.nan_to_num(accuracy, nan=-np.inf)


def _bought(money: np.ndarray, price: float, most: int) -> np.ndarray:
    # A hair more than the quotient, or 50 / 0.1 would buy 499 images.
    return np.minimum(np.floor(money / price + 1e-9), most).astype(int)


def _plan(
    law: MixLaw, prices: Prices, budget: float, budgets: np.ndarray, choice: np.ndarray, reached: float
) -> BudgetPlan:
    bought = [affordable(law, prices, one) for one in budgets]
    own = np.array([(mix[0][at], mix[1][at]) for mix, at in zip(bought, choice, strict=True)])
    real, synthetic = own[0]
    alone = {
        "real only": (_bought(np.asarray(budget), prices.real, law.most_real), 0),
        "synthetic only": (0, _bought(np.asarray(budget), prices.synthetic, law.most_synthetic)),
    }
    mixes = np.array([(real, synthetic), *alone.values()]).T
    accuracy = law.accuracy(*mixes)
    kinds = np.where(own[1:, 1] == 0, "real only", np.where(own[1:, 0] == 0, "synthetic only", "a mix"))
    gains = {
        name: _interval(accuracy[:, 0] - accuracy[:, 1 + at])
        for at, name in enumerate(alone)
        if np.isfinite(accuracy[0, 1 + at])
    }
    return BudgetPlan(
        real=int(real),
        synthetic=int(synthetic),
        cost=float(real * prices.real + synthetic * prices.synthetic),
        accuracy=_interval(accuracy[:, 0]),
        real_interval=_range(own[1:, 0]),
        synthetic_interval=_range(own[1:, 1]),
        gains=gains,
        choices={name: float((kinds == name).mean()) for name in ("real only", "a mix", "synthetic only")},
        reached=reached,
    )


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(min(low, values[0])), float(max(high, values[0]))


def _range(counts: np.ndarray) -> tuple[int, int]:
    low, high = np.quantile(counts, [0.025, 0.975])
    return int(low), int(high)


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
