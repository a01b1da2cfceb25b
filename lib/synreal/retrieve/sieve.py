"""Candidates on their way through the filters, and the ledger of those rejected."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

LEDGER = ("id", "class", "reason", "threshold", "value", "nearest")


class Sieve:
    """The candidates that are left, best first, and a ledger row for each one rejected."""

    def __init__(self, candidates: pd.DataFrame, class_names: Sequence[str]) -> None:
        """`candidates`: columns id, row (in the corpus), label, matched_by, score."""
        self.left = candidates.reset_index(drop=True)
        self.names = np.asarray(class_names, dtype=object)
        self.found = self._per_class()
        self._rejected: list[pd.DataFrame] = []

    def reject(
        self,
        bad: np.ndarray,
        reason: str,
        threshold: float | np.ndarray = np.nan,
        value: np.ndarray | float = np.nan,
        nearest: np.ndarray | str = "",
    ) -> None:
        """Rejects the candidates where `bad` holds; values are given per candidate or for all."""
        out = pd.DataFrame(
            {
                "id": self.left["id"],
                "class": self.names[self.left["label"]],
                "reason": reason,
                "threshold": threshold,
                "value": value,
                "nearest": nearest,
            }
        )
        self._rejected.append(out[np.asarray(bad, bool)])
        self.left = self.left[~np.asarray(bad, bool)].reset_index(drop=True)

    @property
    def ledger(self) -> pd.DataFrame:
        """One row per rejected candidate, in the order of the filters."""
        rows = [frame for frame in self._rejected if len(frame)]
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=LEDGER)

    def available(self) -> pd.Series:
        """Candidates left per class, by name."""
        return self._per_class()

    def counts(self) -> pd.DataFrame:
        """One row per class: candidates found, rejected for each reason, and left."""
        ledger = self.ledger
        reasons = pd.crosstab(ledger["class"], ledger["reason"]) if len(ledger) else pd.DataFrame()
        table = pd.DataFrame({"found": self.found}).join(reasons).fillna(0).astype(int)
        return table.assign(kept=self._per_class()).rename_axis("class")

    def _per_class(self) -> pd.Series:
        counts = np.bincount(self.left["label"], minlength=len(self.names))
        return pd.Series(counts, index=pd.Index(self.names, name="class"))
