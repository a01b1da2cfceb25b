"""How chapter 03a_mixed names its measurements, so that the ledger and the pages find them.

Study "03a_mixed" records, with `data` the name of the test set, each over all seeds,

| metric | value | model |
|---|---|---|
| `accuracy` | top-1 accuracy, fraction 0..1 | "<network> <name>", such as "ResNet Mix-Real" |
| `accuracy_gap` | accuracy of the first minus that of the second | "<name> vs <name> (<network>)" |
| `gain_change` | gap of the first two minus gap of the last two | "<name> vs <name> (<network>)" |

Names are those of `train.mixed_plans`: pretraining and tuning data joined, such as "Syn-Real"; the same with
" x2" where twice the real images were used, " dup 10" where each was seen ten times as often, " MixLoss"
where losses were mixed and not data; "SynTune + crop" and "RealTune + crop"; "balanced", "unbalanced" and
"shifted" for RealTune on such images; "DINO-Real probe" and "DINO-Real k-NN"; "Syn RealTune" and so on, with
the other data set as `data`, for transfer. Intervals cover seeds and test photographs (`evaluate.repeated`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from synreal.book.study import Study
from synreal.data.overlap import refuse_shared_pixels
from synreal.data.worlds import Pool
from synreal.errors import InputError
from synreal.evaluate.repeated import Estimate, Repeated, Statistic
from synreal.models.predictions import Predictions
from synreal.train.grid import Plans, Readout, predict_runs
from synreal.train.losses import AUGMENTATIONS

Found = dict[str, list[Predictions]]  # by name, one per seed
TUNES = ("SynTune", "RealTune")
RANKING = ("Mix-Real", "Mix-None", "Syn-Real", "Real-Syn")  # best first, as P1's Table 3 has it
PAIRS = [
    *pairwise(RANKING),
    ("Mix-None", "Syn-None"), ("Syn-Real", "Syn-None"), ("Real-Syn", "Real-None"),
    ("Mix-Real", "Syn-None"), ("Mix-Real", "Real-None"),
    ("Syn-Real", "Syn-Syn"), ("Mix-Real", "Mix-Syn"),  # after as many steps of tuning
]  # fmt: skip
AUGMENTATION_PAIRS = [
    *((f"{tune} + {name}", tune) for tune in TUNES for name in (*AUGMENTATIONS, "all")),
    *(("RealTune", f"SynTune{words}") for words in ("", *(f" + {name}" for name in (*AUGMENTATIONS, "all")))),
]
GAIN_CHANGES = {"RealTune gain with all against none": ("RealTune + all", "SynTune + all", *TUNES[::-1])}
DINO_PAIRS = [
    *((f"DINO-Real {name}", f"DINO-Syn {name}") for name in ("probe (own)", "probe", "k-NN", "RealTune")),
    *((f"DINO-{kind} {tune}", f"DINO-{kind} probe (own)") for kind in ("Real", "Syn") for tune in TUNES),
    ("DINO-Real probe (own)", "DINO-Syn RealTune"),
]
UNTRAINED_PAIRS = [
    (f"DINO-{kind} {name}", f"untrained {name}") for kind in ("Real", "Syn") for name in ("probe", "k-NN")
]


@dataclass(frozen=True, eq=False)
class Bench:
    """Where plans are carried out and recorded: the test images, and what their intervals need."""

    study: Study
    test: Pool
    clusters: pd.Series | None
    workers: int
    draws: int

    def run(self, plans: Mapping[str, Plans], readout: Readout = "head") -> dict[str, Found]:
        """The predictions of all plans, by network and name; all are trained side by side.

        Raises InputError when a test image is in a pool that one of them learns from.
        """
        flat = [run for plan in plans.values() for runs in plan.values() for run in runs]
        for pool in {stage.pool for run in flat for stage in run.stages}:
            refuse_shared_pixels(pool.images, self.test.images)
        done = iter(predict_runs(flat, self.test, self.workers, readout))
        return {
            network: {name: [next(done) for _ in runs] for name, runs in plan.items()}
            for network, plan in plans.items()
        }

    def record(
        self,
        found: Mapping[str, Found],
        pairs: Sequence[tuple[str, str]] = (),
        fours: Mapping[str, tuple[str, str, str, str]] | None = None,
        shown: Sequence[str] | None = None,
        reason: str | None = None,
    ) -> pd.DataFrame:
        """Record every accuracy (or those `shown`), the gap of each pair, and the gain change of each four.

        One row each: metric, network, name, value, ci_low, ci_high, n. With a `reason`, the ledger gets that
        instead of the values.
        """
        rows = []
        for network, results in found.items():
            repeated = Repeated.of(results, clusters=self.clusters, draws=self.draws)
            for name in results if shown is None else shown:
                estimate = repeated.metric("accuracy", name)
                rows.append(self._row("accuracy", network, name, f"{network} {name}", estimate, reason))
            for a, b in pairs:
                estimate, name = repeated.difference("accuracy", a, b), f"{a} vs {b}"
                model = f"{name} ({network})"
                rows.append(self._row("accuracy_gap", network, name, model, estimate, reason))
            for name, four in (fours or {}).items():
                estimate = repeated.estimate(_gain_change(repeated), *four)
                model = f"{name} ({network})"
                rows.append(self._row("gain_change", network, name, model, estimate, reason))
        return pd.DataFrame(rows)

    def _row(
        self, metric: str, network: str, name: str, model: str, found: Estimate, reason: str | None
    ) -> dict[str, object]:
        n, data = len(self.test.labels), self.test.name
        value, bounds = (None, None) if reason else (found.value, (found.ci_low, found.ci_high))
        self.study.record(metric=metric, value=value, model=model, data=data, n=n, ci=bounds, reason=reason)
        row = {"metric": metric, "network": network, "name": name, "value": found.value, "n": n}
        return row | {"ci_low": found.ci_low, "ci_high": found.ci_high}


def _gain_change(repeated: Repeated) -> Statistic:
    accuracy = repeated.metrics["accuracy", "all"].value
    return lambda a, b, c, d: (accuracy(a) - accuracy(b)) - (accuracy(c) - accuracy(d))


def too_short(table: pd.DataFrame) -> str | None:
    """Why DINO's results say nothing of its data: on real images it does not beat first weights. Or None.

    table: what `record` made of UNTRAINED_PAIRS; every network has to beat its own first weights.
    """
    beaten = table.set_index("name")["ci_low"].loc[["DINO-Real probe vs untrained probe"]] > 0
    return None if beaten.all() else "DINO on real images was too short to beat untrained weights"


def first_trainings(found: Mapping[str, Found], count: int) -> dict[str, Found]:
    """The first `count` trainings of each name, for comparison with studies that have no more.

    Raises InputError where there are fewer.
    """
    fewest = min(len(runs) for results in found.values() for runs in results.values())
    if fewest < count:
        raise InputError(f"table3_seeds: found {fewest}, expected at least the {count} of seeds")
    return {
        network: {name: runs[:count] for name, runs in results.items()} for network, results in found.items()
    }


def merged(first: Mapping[str, Found], second: Mapping[str, Found]) -> dict[str, Found]:
    """What was found in both, of the networks of the second."""
    return {network: first.get(network, {}) | results for network, results in second.items()}


def names(plans: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The names of the plans, which are those of every network."""
    return list(next(iter(plans.values())))


def ratio_pairs(shares: Sequence[float]) -> list[tuple[str, str]]:
    """The steps of the ranking at each amount of real images, and each amount against the smallest."""
    pairs = []
    for suffix in (f" x{share:g}" for share in shares):
        pairs += [(a + suffix, b + suffix) for a, b in pairwise(RANKING)]
        pairs += [(name + suffix, name) for name in RANKING]
    return pairs


def mixing_pairs(dups: Sequence[int]) -> list[tuple[str, str]]:
    """MixData against each other way of mixing, and what RealTune adds to each."""
    ways = ["MixLoss", *(f"dup {dup}" for dup in dups)]
    against = [(name, f"{name} {way}") for way in ways for name in ("Mix-None", "Mix-Real")]
    return against + [(f"Mix-Real {way}", f"Mix-None {way}") for way in ways]


def transfer_pairs(found: Mapping[str, Found]) -> list[tuple[str, str]]:
    """What tuning adds to the synthetic network, and the real and the mixed one against it."""
    known = set(names(found))
    ways = [way for way in ("none", "probe", "SynTune", "RealTune") if f"Syn {way}" in known]
    pairs = [
        (f"Syn {a}", f"Syn {b}")
        for a, b in (("RealTune", "none"), ("RealTune", "SynTune"), ("SynTune", "none"))
    ]
    pairs += [(f"{kind} {way}", f"Syn {way}") for way in ways for kind in ("Real", "Mix")]
    return [pair for pair in pairs if set(pair) <= known]
