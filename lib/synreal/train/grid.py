"""The grid of networks trained on mixed data (P1 sec. 5), and their predictions."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from synreal.cache import compute
from synreal.data.worlds import Pool, unbalanced
from synreal.errors import InputError, shorten
from synreal.models.predictions import Predictions
from synreal.train.dino import knn_logits
from synreal.train.experiment import GREY, Objective, Run, Stage, outputs, trained
from synreal.train.losses import AUGMENTATIONS
from synreal.train.recipes import Network

Plans = dict[str, tuple[Run, ...]]  # by name, one run per seed
CELLS = tuple(f"{before}-{after}" for before in ("Real", "Syn", "Mix") for after in ("None", "Syn", "Real"))


@dataclass(frozen=True, eq=False)
class Material:
    """What is trained on, how much of it, and how often.

    real, synthetic: images of each class. "Mix" is both, the real images `dup` times (AdaInf, Wang et al.
    2024). The same real images serve pretraining and tuning, as in P1's Table 3.
    """

    pool: Pool
    real: int
    synthetic: int
    seeds: tuple[int, ...]
    dup: int = 1

    def rows(self, kind: str, seed: int) -> np.ndarray:
        """The rows of one kind of data."""
        real = self.pool.choose(real=True, per_class=self.real, seed=seed)
        if kind == "Real":
            return real
        synthetic = self.pool.choose(real=False, per_class=self.synthetic, seed=seed)
        return synthetic if kind == "Syn" else np.concatenate([*[real] * self.dup, synthetic])


def cells(
    material: Material,
    network: Network,
    names: Iterable[str] = CELLS,
    objective: Literal["labels", "mixloss"] = "labels",
) -> Plans:
    """Table 3: every pretraining for the same steps, then tuning, or none. Names are of CELLS.

    Tuning on synthetic images takes all of them; P1 does not say how many it took.
    """
    plans = {}
    for name in names:
        before, after = name.split("-")
        plans[name] = tuple(
            _run(material, network, seed, before, () if after == "None" else (after,), objective)
            for seed in material.seeds
        )
    return plans


def renamed(plans: Plans, suffix: str) -> Plans:
    """The same runs, each name followed by the suffix."""
    return {f"{name} {suffix}": runs for name, runs in plans.items()}


def _run(
    material: Material,
    network: Network,
    seed: int,
    before: str,
    after: Sequence[str],
    objective: Literal["labels", "mixloss"] = "labels",
) -> Run:
    first = Stage(material.pool, material.rows(before, seed), network.pretrain, objective)
    tuned = [Stage(material.pool, material.rows(kind, seed), network.tune) for kind in after]
    return Run(network, (first, *tuned), seed)


def augmentations(material: Material, network: Network) -> Plans:
    """Tables 8 and 9: the synthetic network tuned on as many synthetic or real images, augmented or not."""
    sets = {"": (), **{f" + {name}": (name,) for name in AUGMENTATIONS}, " + all": tuple(AUGMENTATIONS)}
    few = replace(material, synthetic=material.real)
    return {
        f"{kind}Tune{words}": tuple(
            _tuned(material, network, seed, few.rows(kind, seed), names) for seed in material.seeds
        )
        for kind in ("Syn", "Real")
        for words, names in sets.items()
    }


def tunings(material: Material, network: Network, shifted: Pool) -> Plans:
    """RealTune on balanced, unbalanced (Table 13) and shifted (Fig. 9) images, as many of each."""
    total, classes = material.real * len(material.pool.class_names), len(material.pool.class_names)
    uneven = unbalanced(total, classes)
    plans: Plans = dict.fromkeys(("balanced", "unbalanced", "shifted"), ())
    for seed in material.seeds:
        rows = material.pool.choose(real=True, per_class=uneven.tolist(), seed=seed)
        elsewhere = shifted.choose(real=True, per_class=material.real, seed=seed)
        plans["balanced"] += (_tuned(material, network, seed, material.rows("Real", seed)),)
        plans["unbalanced"] += (_tuned(material, network, seed, rows),)
        plans["shifted"] += (_tuned(material, network, seed, elsewhere, pool=shifted),)
    return plans


def _tuned(
    material: Material,
    network: Network,
    seed: int,
    rows: np.ndarray,
    augment: tuple[str, ...] = (),
    pool: Pool | None = None,
) -> Run:
    """The network that was pretrained on synthetic images, tuned on the rows."""
    before = _run(material, network, seed, "Syn", ())
    last = Stage(pool or material.pool, rows, network.tune, augment=augment)
    return Run(network, (*before.stages, last), seed)


def dino_runs(material: Material, network: Network) -> Plans:
    """Table 10: DINO on equally many real or synthetic images, then a linear probe, or tuning with labels.

    "probe (own)" learns its head from images of the kind that DINO saw, as P1's numbers suggest; "probe" from
    real ones. Each takes as many labelled images as Table 3 has real ones. "untrained probe" is the same on
    first weights, and what DINO has to beat.
    """
    few = replace(material, synthetic=material.real)
    first = [Stage(few.pool, few.rows("Real", seed), None, "probe") for seed in material.seeds]
    plans: Plans = {
        "untrained probe": tuple(
            Run(network, (stage,), seed) for stage, seed in zip(first, material.seeds, strict=True)
        )
    }
    pretrained = dino_pretrainings(material.pool, network, material.seeds)
    for kind in pretrained:
        labelled: dict[str, tuple[str, Objective]]
        labelled = {"probe (own)": (kind, "probe"), "probe": ("Real", "probe"),
                    "SynTune": ("Syn", "labels"), "RealTune": ("Real", "labels")}  # fmt: skip
        for name, (source, objective) in labelled.items():
            recipe = network.transfer if objective == "labels" else None
            plans[f"DINO-{kind} {name}"] = tuple(
                Run(
                    network,
                    (*before.stages, Stage(few.pool, few.rows(source, before.seed), recipe, objective)),
                    before.seed,
                )
                for before in pretrained[kind]
            )
    return plans


def dino_pretrainings(pool: Pool, network: Network, seeds: Sequence[int]) -> Plans:
    """DINO on real ("Real") and synthetic images ("Syn"), as many of each as there are of the rarer kind."""
    count = min(pool.real.sum(), (~pool.real).sum())
    rows = {"Real": np.flatnonzero(pool.real)[:count], "Syn": np.flatnonzero(~pool.real)[:count]}
    return {
        kind: tuple(Run(network, (Stage(pool, own, network.dino, "dino"),), seed) for seed in seeds)
        for kind, own in rows.items()
    }


def transfers(material: Material, network: Network, train: Pool) -> Plans:
    """Tables 11 and 12: pretrained here, then tuned on another data set, with a new head.

    train: its real and, where there are some, synthetic images. "none" leaves the network as it is and
    trains the head alone on what is synthetic, so that no real image has been seen.
    """
    synthetic, real = np.flatnonzero(~train.real), np.flatnonzero(train.real)
    ways = {
        "probe": Stage(train, real, None, "probe"),
        "RealTune": Stage(train, real, network.transfer),
    }
    if len(synthetic):
        ways |= {
            "none": Stage(train, synthetic, None, "probe"),
            "SynTune": Stage(train, synthetic, network.transfer),
        }
    return {
        f"{kind} {name}": tuple(
            Run(network, (*_run(material, network, seed, kind, ()).stages, stage), seed)
            for seed in material.seeds
        )
        for kind in ("Real", "Syn", "Mix")
        for name, stage in ways.items()
    }


# Predictions of networks that are trained in stages: each computed once, several runs side by side.


Readout = Literal["head", "k-NN"]


def predict_runs(
    runs: Sequence[Run], test: Pool, workers: int = 1, readout: Readout = "head"
) -> list[Predictions]:
    """The predictions of each run on the images of `test`, in the order of the runs; trains what is missing.

    Runs that begin alike share their first stages, and go to one of `workers` processes together (see
    `workers.compute`); on a GPU, take one worker, which is this process. Everything is kept in the cache, so
    that an interrupted call goes on where it stopped.
    readout: the network's own head, or "k-NN", by features without it the vote of the nearest images that
    the last stage learned from.
    Raises InputError when a run ends on other classes than those of `test`.
    """
    _check_classes(runs, test)
    missing = [run for run in runs if not _place(run, test, readout).exists()]
    families = [list(family) for _, family in groupby(sorted(missing, key=_first), key=_first)]
    compute(_predict_family, [(family, test, readout) for family in families], workers)
    return [Predictions.load(_place(run, test, readout)) for run in runs]


def _check_classes(runs: Sequence[Run], test: Pool) -> None:
    for run in runs:
        if (learned := run.stages[-1].pool).class_names != test.class_names:
            raise InputError(
                f"{learned.name} has the classes {shorten(learned.class_names)}, {test.name} has "
                f"{shorten(test.class_names)}; expected the same in the same order"
            )


def _first(run: Run) -> str:
    return replace(run, stages=run.stages[:1]).key


def _place(run: Run, test: Pool, readout: Readout) -> Path:
    images = hashlib.sha256(test.digests.tobytes() + test.ids.astype("U").tobytes()).hexdigest()[:16]
    return run.folder / f"{readout}-{images}.parquet"


def _predict_family(runs: Sequence[Run], test: Pool, readout: Readout) -> None:
    for run in runs:
        logits = _read(run, test, readout)
        Predictions(
            ids=test.ids,
            labels=test.labels,
            logits=logits.float().cpu().numpy(),
            class_names=test.class_names,
            model=f"{run.network.name} {run.key}",
            model_hash=run.key,
            preprocess_hash=hashlib.sha256(repr(GREY).encode()).hexdigest()[:16],
            image_set=test.name,
        ).save(_place(run, test, readout))


def _read(run: Run, test: Pool, readout: Readout) -> Tensor:
    module = trained(run).to(Accelerator().device)
    if readout == "head":
        return outputs(module, test.images)
    stage = run.stages[-1]
    module.reset_classifier(0)  # type: ignore[operator]
    bank, queries = outputs(module, stage.pool.images[stage.rows]), outputs(module, test.images)
    labels = torch.from_numpy(stage.pool.labels[stage.rows])
    return knn_logits(bank.cpu(), labels, queries.cpu(), len(test.class_names))
