"""The planner's input: accuracies of trainings on some mixes of real and synthetic images."""

from pathlib import Path

import pandas as pd

from synreal.errors import InputError

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
