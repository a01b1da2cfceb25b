"""How chapter 03_realtune names its measurements, so that the ledger and the pages find them.

Study "03_realtune" records means over seeds, with `data` the test set's name. A *setting* is Vanilla, SynTune
or RealTune; `<role>` is a checkpoint, `<kind>` such as ViT-Syn the mean over the checkpoints of that kind.

| metric | value | model |
|---|---|---|
| `accuracy`, `fine_grained_accuracy` | fraction 0..1 | "<role> (<setting>)" |
| `accuracy_gain`, `fine_grained_gain` | tuned minus vanilla | "<role> (<setting>)", "<kind> (<setting>)" |
| `factor/<factor>` | (acc_rare - acc_all) / acc_all | "<role> (<setting>)" |
| `factor_gain/<factor>` | the same, tuned minus vanilla | "<role> (<setting>)", "<kind> (<setting>)" |
| `accuracy_gap/<when>`, `fine_grained_gap/<when>` | real minus synthetic | a pair, as in 01_classifiers |
| `factor_gap/<factor>/<when>` | synthetic minus real (below 0: synthetic suffers more) | a pair |
| `accuracy_gap_change`, `fine_grained_gap_change` | gap after RealTune of both minus gap before | a pair |
| `rare_factor_gain/<factor>` | `factor/<factor>`, tuned on rare images minus on random ones | "<kind>" |
| `rare_accuracy_gain` | mean accuracy over the rare sets, minus that with random images | "<kind>" |
| `accuracy_gain` | tuned minus vanilla | "<role>, <n> images", "<role>, <n> epochs", "<role>, <method>" |
| `size_effect` | accuracy with the largest set minus that with the smallest | "<kind>" |
| `epochs_effect` | accuracy after the longest tuning minus that after the usual one | "<kind>" |
| `forgetting` | accuracy on what the model knew, tuned minus vanilla | "<role>, <method>" |

<factor>: brighter, darker, larger, smaller, person_blocking, as in P1's Tables 2 and 5.
<when>: Vanilla, RealTune, or "RealTune against Vanilla", in which only the synthetic classifier is tuned.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.book.study import Study
from synreal.data.imageset import mixed_classes
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.evaluate.repeated import Estimate, Repeated, Statistic
from synreal.models.predictions import Predictions
from synreal.synbench.rare import RARE

SETTINGS = ("Vanilla", "SynTune", "RealTune")
WHEN = {
    "Vanilla": ("Vanilla", "Vanilla"),
    "RealTune": ("RealTune", "RealTune"),
    "RealTune against Vanilla": ("Vanilla", "RealTune"),
}  # settings of the real and the synthetic classifier
OVERALL = {"accuracy": "accuracy", "restricted_accuracy_micro": "fine_grained"}  # metric to recorded name


def named(role: str, setting: str) -> str:
    """What a checkpoint in one setting is called."""
    return f"{role} ({setting})"


def by_kind(roles: Sequence[str]) -> dict[str, list[str]]:
    """Checkpoints by kind, such as ViT-Syn; those whose name says no kind are left out."""
    kinds: dict[str, list[str]] = {}
    for role in roles:
        if match := re.match(r"(ViT|CLIP)-(Real|Syn)", role):
            kinds.setdefault(match[0], []).append(role)
    return kinds


class Recorder:
    """Writes estimates of one test set into the study, and keeps them as rows for tables and figures."""

    def __init__(
        self, study: Study, repeated: Repeated, data: str, factors: Sequence[str], seed: int
    ) -> None:
        self.study, self.repeated, self.data, self.seed = study, repeated, data, seed
        self.factors = list(factors)

    def record(self, rows: Iterator[dict]) -> pd.DataFrame:
        """The rows as a table; each is recorded."""
        table = pd.DataFrame(rows)
        for row in table.to_dict("records"):
            known = np.isfinite(row["value"])
            self.study.record(
                metric=row["metric"],
                value=row["value"] if known else None,
                model=row["model"],
                data=self.data,
                n=row["n"],
                ci=(row["ci_low"], row["ci_high"]) if known else None,
                seed=self.seed,
                reason=None if known else row["note"] or "undefined (divides by 0)",
            )
        return table

    def row(self, metric: str, model: str, found: Estimate, source: tuple[str, str]) -> dict:
        """source: name and group of the metric whose images the estimate rests on."""
        note = self.repeated.too_few(*source)
        own = Estimate(found.value, np.nan, np.nan, found.seeds) if note else found
        place = {"metric": metric, "model": model, "group": source[1], "n": self.repeated.n(*source)}
        return place | vars(own) | {"note": note}

    def groups(self) -> Iterator[tuple[str, str, str]]:
        """Metric, group and recorded stem of all that is compared: overall, fine-grained, factors."""
        for metric, name in OVERALL.items():
            if (metric, "all") in self.repeated.metrics:
                yield metric, "all", name
        for factor in self.factors:
            yield "relative_accuracy_annotated", factor, "factor"


def record_settings(recorder: Recorder, roles: Sequence[str]) -> pd.DataFrame:
    """Record every checkpoint in every setting, and what tuning gained it and its kind (P1 Fig. 6)."""
    return recorder.record(_settings(recorder, roles))


def _settings(recorder: Recorder, roles: Sequence[str]) -> Iterator[dict]:
    repeated = recorder.repeated
    members = {role: [role] for role in roles} | by_kind(roles)
    for metric, group, stem in recorder.groups():
        value, source = repeated.metrics[metric, group].value, (metric, group)
        level, gain = _names(stem, group)
        for role in roles:
            for setting in SETTINGS:
                model = named(role, setting)
                yield recorder.row(level, model, repeated.metric(metric, model, group), source)
        for name, own in members.items():
            for setting in SETTINGS[1:]:
                pairs = [named(role, state) for role in own for state in (setting, SETTINGS[0])]
                found = repeated.estimate(_mean_gain(value), *pairs)
                yield recorder.row(gain, named(name, setting), found, source)


def _names(stem: str, group: str) -> tuple[str, str]:
    if stem == "factor":
        return f"factor/{group}", f"factor_gain/{group}"
    return {"accuracy": "accuracy", "fine_grained": "fine_grained_accuracy"}[stem], f"{stem}_gain"


def _mean_gain(value: Statistic) -> Statistic:
    """The mean of value(after) - value(before) over models given as after, before, after, before ..."""
    return lambda *sums: np.mean(
        [value(after) - value(before) for after, before in zip(sums[::2], sums[1::2], strict=True)], axis=0
    )


def record_pairs(recorder: Recorder, pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Record how far the real (first) and the synthetic classifier are apart before and after tuning."""
    return recorder.record(_pairs(recorder, pairs))


def _pairs(recorder: Recorder, pairs: Mapping[str, tuple[str, str]]) -> Iterator[dict]:
    repeated = recorder.repeated
    for metric, group, stem in recorder.groups():
        value, source = repeated.metrics[metric, group].value, (metric, group)
        for title, (real, synthetic) in pairs.items():
            for when, settings in WHEN.items():
                first, second = named(real, settings[0]), named(synthetic, settings[1])
                if stem == "factor":
                    found = repeated.difference(metric, second, first, group)
                    yield recorder.row(f"factor_gap/{group}/{when}", title, found, source)
                else:
                    found = repeated.difference(metric, first, second, group)
                    yield recorder.row(f"{stem}_gap/{when}", title, found, source)
            if stem != "factor":
                order = [named(role, own) for own in SETTINGS[::-2] for role in (real, synthetic)]
                found = repeated.estimate(_change(value), *order)
                yield recorder.row(f"{stem}_gap_change", title, found, source)


def _change(value: Statistic) -> Statistic:
    return lambda a, b, c, d: (value(a) - value(b)) - (value(c) - value(d))


def record_rare(recorder: Recorder, roles: Sequence[str]) -> pd.DataFrame:
    """Record what tuning on rare images gains over random ones, on their factor and overall (P1 Table 2)."""
    return recorder.record(_rare(recorder, roles))


def _rare(recorder: Recorder, roles: Sequence[str]) -> Iterator[dict]:
    repeated = recorder.repeated
    for kind, own in by_kind(roles).items():
        relative = "relative_accuracy_annotated"
        for factor in [factor for factor in RARE if (relative, factor) in repeated.metrics]:
            value, source = repeated.metrics[relative, factor].value, (relative, factor)
            pairs = [f"{role}, {which}" for role in own for which in (f"rare {factor}", "random")]
            found = repeated.estimate(_mean_gain(value), *pairs)
            yield recorder.row(f"rare_factor_gain/{factor}", kind, found, source)
        source = ("accuracy", "all")
        pairs = [
            f"{role}, {which}" for role in own for factor in RARE for which in (f"rare {factor}", "random")
        ]
        found = repeated.estimate(_mean_gain(repeated.metrics[source].value), *pairs)
        yield recorder.row("rare_accuracy_gain", kind, found, source)


def record_gains(
    recorder: Recorder, before: Mapping[str, str], metric: str = "accuracy_gain"
) -> pd.DataFrame:
    """Record how much more often each model is right than `before`, what it was tuned from."""
    return record_effect(recorder, metric, {model: (model, other) for model, other in before.items()})


def record_effect(recorder: Recorder, metric: str, effects: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Record, by name, the accuracy of the first of two models minus that of the second."""
    return recorder.record(
        recorder.row(metric, name, recorder.repeated.difference("accuracy", *pair), ("accuracy", "all"))
        for name, pair in effects.items()
    )


def contrasts(roles: Sequence[str], first: str, second: str) -> dict[str, tuple[str, str]]:
    """By kind, the two variants of a checkpoint that `record_effect` compares; a kind has one checkpoint.

    Raises InputError when two checkpoints are of one kind, or a name says none.
    """
    kinds = by_kind(roles)
    if len(kinds) != len(roles):
        raise InputError(
            f"studied: found {', '.join(roles)}; expected one checkpoint of each kind, as ViT-Syn-12k"
        )
    return {kind: (f"{own[0]}, {first}", f"{own[0]}, {second}") for kind, own in kinds.items()}


def recorder_of(
    study: Study, models: Mapping[str, Sequence[Predictions]], world: World, draws: int, seed: int
) -> Recorder:
    """A recorder of models on a world, of each model one Predictions per seed; factors are those of RARE."""
    repeated = Repeated.of(models, world.hierarchy, world.factors, world.clusters, draws, seed)
    factors = [] if world.factors is None else [factor for factor in RARE if factor in world.factors]
    return Recorder(study, repeated, world.name, factors, seed)


def kept_back(world: World) -> tuple[Dataset, World]:
    """Four fifths of the images to tune on, and the last fifth as a world, to measure forgetting with."""
    images = mixed_classes(world.images)
    cut = len(images) * 4 // 5
    last = images.select(range(cut, len(images)))
    clusters = None if world.clusters is None else world.clusters.loc[last["id"][:]]
    return images.select(range(cut)), World("synthetic, not tuned on", last, world.hierarchy, None, clusters)
