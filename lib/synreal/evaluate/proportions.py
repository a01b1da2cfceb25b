"""The share of yes on a synthetic set beside that on a real one."""

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

from synreal.errors import InputError
from synreal.evaluate.sample import Pair, Row, Sample, pair_row, paired, too_few
from synreal.evaluate.statistics import design_effect, wilson_interval
from synreal.evaluate.tally import ratio


def compare_proportions(
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None = None,
    synthetic_clusters: pd.Series | None = None,
) -> pd.DataFrame:
    """Rows proportion_real, _synthetic and _difference, with the columns of `compare_distributions`.

    `real`, `synthetic`: outcomes 0 or 1 (or bool) indexed by image id, NaN where there is none. Intervals are
    95 %: Wilson's, and for the difference Newcombe's, made of the two; p is the score test's. With clusters,
    a set counts as n / `design_effect` images.
    Raises InputError for other values, repeated ids, and as `cluster_codes`.
    Source: P1 sec. 3.1 (consistency), sec. 3.2 (person blocking).
    """
    pair = paired(real, synthetic, real_clusters, synthetic_clusters)
    for name, sample in zip(("real", "synthetic"), pair, strict=True):
        if other := sorted(set(sample.values) - {0, 1}):
            raise InputError(f"{name} outcomes: found {other[:3]}, expected 0, 1 or NaN")
    shares = [float(ratio(sample.values.sum(), np.asarray(sample.n))) for sample in pair]
    values = dict(zip(("real", "synthetic", "difference"), [*shares, shares[1] - shares[0]], strict=True))
    tests: list[Row] = [{}] * 3 if too_few(pair) else [_wilson(pair[0]), _wilson(pair[1]), _newcombe(pair)]
    return pd.DataFrame(
        [
            pair_row(pair, f"proportion_{name}", value, **test)
            for (name, value), test in zip(values.items(), tests, strict=True)
        ]
    )


def _wilson(sample: Sample) -> Row:
    low, high = wilson_interval(int(sample.values.sum()), sample.n, design_effect=_effect(sample))
    return {"ci_low": low, "ci_high": high}


def _newcombe(pair: Pair) -> Row:
    hits_real, n_real, hits, n = (x for sample in pair for x in _effective(sample))
    with np.errstate(all="ignore"):  # statsmodels also forms ratios, which divide by 0
        bounds = confint_proportions_2indep(hits, n, hits_real, n_real, method="newcomb", compare="diff")
        test = test_proportions_2indep(hits, n, hits_real, n_real, method="score", compare="diff")
    note = "" if np.isfinite(test.pvalue) else "no p: no outcome differs"
    return {"ci_low": float(bounds[0]), "ci_high": float(bounds[1]), "p": float(test.pvalue), "note": note}


def _effective(sample: Sample) -> tuple[float, float]:
    """Hits and images of as many independent images as the clusters are worth."""
    effect = _effect(sample)
    return sample.values.sum() / effect, sample.n / effect


def _effect(sample: Sample) -> float:
    return (
        design_effect(sample.values, np.ones(sample.n), sample.units) if sample.drawn == "clusters" else 1.0
    )
