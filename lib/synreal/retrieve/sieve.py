"""Candidates on their way through the filters, and the ledger of those rejected."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

LEDGER = ("id", "class", "reason", "detail", "threshold", "value", "nearest")


class Sieve:
    """The candidates that are left, best first, and a ledger row for each one rejected."""

    def __init__(self, candidates: pd.DataFrame, class_names: Sequence[str]) -> None:
        """`candidates`: columns id, label, and whatever the filters need of them."""
        self.left = candidates.reset_index(drop=True)
        self.names = np.asarray(class_names, dtype=object)
        self.found = self.available()
        self._rejected: list[pd.DataFrame] = []

    def reject(
        self,
        bad: Any,
        reason: str,
        threshold: Any = np.nan,
        value: Any = np.nan,
        nearest: Any = "",
        detail: Any = "",
    ) -> None:
        """Rejects the candidates where `bad` holds; the others are one value each, or one for all."""
        bad = np.asarray(bad, bool)
        columns = {
            "id": self.left["id"], "class": self.names[self.left["label"]], "reason": reason,
            "detail": detail, "threshold": threshold, "value": value, "nearest": nearest,
        }  # fmt: skip
        if bad.any():
            table = pd.DataFrame(columns).astype({"threshold": float, "value": float})
            self._rejected.append(table[bad])
            self.left = self.left[~bad].reset_index(drop=True)

    def sort(self, columns: Sequence[str]) -> None:
        """Puts the candidates in another order."""
        self.left = self.left.sort_values(list(columns)).reset_index(drop=True)

    def place(self) -> np.ndarray:
        """The position of each candidate in its class: int64 [N], the first is 0."""
        return self.left.groupby("label").cumcount().to_numpy()

    def available(self) -> pd.Series:
        """Candidates left per class, by name."""
        counts = np.bincount(self.left["label"], minlength=len(self.names))
        return pd.Series(counts, index=pd.Index(self.names, name="class"), name="candidates")

    @property
    def ledger(self) -> pd.DataFrame:
        """One row per rejected candidate, in the order of the filters."""
        if not self._rejected:
            return pd.DataFrame(columns=list(LEDGER))
        return pd.concat(self._rejected, ignore_index=True)

    def counts(self) -> pd.DataFrame:
        """One row per class: candidates found, rejected for each reason in the order of the filters, kept."""
        table, ledger = pd.DataFrame({"found": self.found}), self.ledger
        for reason in ledger["reason"].unique():
            table[reason] = ledger.loc[ledger["reason"] == reason, "class"].value_counts()
        return table.assign(kept=self.available()).fillna(0).astype(int)
