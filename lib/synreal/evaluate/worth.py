"""Both sources' curves of accuracy against data size, overall and for each probe, on the same test images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from synreal.evaluate.exchange import Curve, accuracy_draws, fit_curve
from synreal.evaluate.probes import MATCHING, TestSet, probe_hits
from synreal.train.mixes import Mix

PROBES = ("accuracy", *MATCHING.values())


@dataclass(frozen=True, eq=False)
class Measured:
    """One probe of every training. table: n_real, n_syn, seed, accuracy; draws: [D, rows]; n: test images."""

    table: pd.DataFrame
    draws: np.ndarray
    n: int

    def curve(self, source: str) -> Curve:
        """The law of the trainings on "real" or "synthetic" images alone."""
        own, other = ("n_real", "n_syn") if source == "real" else ("n_syn", "n_real")
        rows = (self.table[other] == 0).to_numpy()
        alone = self.table[rows]
        return fit_curve(alone[own].to_numpy(float), alone["accuracy"].to_numpy(), self.draws[:, rows])


def measured(
    mixes: Sequence[Mix], logits: np.ndarray, test: TestSet, name: str, draws: int, seed: int = 0
) -> Measured:
    """A probe of the trainings of `train_mixes`; logits: [mixes, seeds, N, classes]."""
    table = pd.DataFrame(
        [(mix.real, mix.synthetic, repeat) for mix in mixes for repeat in range(logits.shape[1])],
        columns=["n_real", "n_syn", "seed"],
    )
    hits, chosen = probe_hits(logits.reshape(len(table), *logits.shape[2:]), test, name)
    hits, clusters = hits[:, chosen], pd.factorize(test.clusters[chosen])[0]
    cells = list(zip(table["n_real"], table["n_syn"], strict=True))
    drawn = accuracy_draws(hits.astype(np.float32), cells, clusters, draws, seed)
    return Measured(table.assign(accuracy=hits.mean(axis=1)), drawn, int(chosen.sum()))
